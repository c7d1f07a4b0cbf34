"""Makes probabilities honest: a temperature (arXiv:1706.04599), and where the rows show that it helps a bias or a scale
of each label.

Applying them is the work of stream_classifier.model.calibration, writing them that of recalibration.py.

    N texts, L labels, z logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from stream_classifier.errors import ConfigError
from stream_classifier.model.calibration import MULTI_LABEL, SINGLE_LABEL, Calibration
from stream_classifier.model.labels import index_of
from training.metrics import binary_log_losses, log_losses

__all__ = [
    "METHODS",
    "MIN_ERRORS",
    "MIN_ROWS",
    "FittedCalibration",
    "Trial",
    "enough_rows",
    "fit_calibration",
    "fit_temperature",
    "folds_of",
    "prior_shift",
]

METHODS = ("temperature", "bias", "vector")
"""From the fewest parameters to the most: one scale; one scale and a bias a label; a scale and a bias a label."""

MIN_ROWS = 200
MIN_ERRORS = 5
NUM_FOLDS = 5

_LOWEST, _HIGHEST = np.log(0.05), np.log(20.0)
_SPREAD_BIAS = 2.0  # what a label's bias and log-scale are expected to be away from 0, a priori: few rows of a label
_SPREAD_SCALE = 0.5  # move it little, none leave it where it is

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Trial:
    """A method tried: its mean negative log-likelihood on rows that it was not fitted on, and how much better than the
    simpler one chosen before it that is (nats, with the standard error of the difference); None for the first.
    """

    method: str
    nll: float
    gain: float | None = None
    gain_error: float | None = None

    @property
    def helps(self) -> bool:
        """Whether it is better beyond the standard error."""
        return self.gain is not None and self.gain_error is not None and self.gain > self.gain_error


@dataclass(frozen=True, slots=True, eq=False)
class FittedCalibration:
    """What fits the rows best.

    Attributes:
        calibration: fitted on all rows.
        trials: the methods tried, in their order.
        p_NL: probabilities of the same rows, each by a calibration fitted on the other four fifths: what to measure on.
    """

    calibration: Calibration
    trials: tuple[Trial, ...]
    p_NL: Floats


def enough_rows(logits_NL: NDArray[np.float32], true_NL: Bools, *, problem_type: str) -> bool:
    """Whether a temperature can be told: from 200 rows on, 5 of them wrong.

    With fewer, the best scale would say that the model is nearly always right, whatever it is.
    """
    if problem_type == MULTI_LABEL:
        wrong_N = ((logits_NL > 0) != true_NL).any(axis=1)
    else:
        wrong_N = logits_NL.argmax(axis=1) != true_NL.argmax(axis=1)
    return len(true_NL) >= MIN_ROWS and int(wrong_N.sum()) >= MIN_ERRORS


def fit_temperature(logits_NL: NDArray[np.float32], true_NL: Bools, *, problem_type: str) -> float | None:
    """The scale (1 / temperature) with the lowest negative log-likelihood, between 0.05 and 20.

    None where the rows cannot tell; see `enough_rows`.
    """
    if not enough_rows(logits_NL, true_NL, problem_type=problem_type):
        return None
    return float(np.asarray(_fit("temperature", logits_NL.astype(np.float64), true_NL, problem_type).scale))


def fit_calibration(
    logits_NL: NDArray[np.float32],
    true_NL: Bools,
    *,
    problem_type: str,
    methods: Sequence[str] = METHODS,
    seed: int = 0,
) -> FittedCalibration:
    """Fits each of the methods and chooses: the first, unless a later one is better beyond the standard error.

    Judged by cross-validation in five folds, each row by a calibration that was not fitted on it. A bias or scale of a
    label can change which label is the most probable one; a temperature cannot.

    Args:
        logits_NL: raw.
        true_NL: bool, which labels are right.
        problem_type: softmax for one label a text, sigmoid for several.
        methods: of `METHODS`, in that order.
        seed: of the folds.
    """
    z_NL = logits_NL.astype(np.float64)
    folds_N = folds_of(true_NL, seed=seed)
    trials: list[Trial] = []
    chosen, chosen_losses_N, chosen_p_NL = "", np.empty(0), np.empty(0)
    for method in methods:
        p_NL = np.empty_like(z_NL)
        for fold in range(NUM_FOLDS):
            out_N = folds_N == fold
            p_NL[out_N] = _fit(method, z_NL[~out_N], true_NL[~out_N], problem_type).probabilities(z_NL[out_N])
        losses_N = _losses(p_NL, true_NL, problem_type)
        gain = gain_error = None
        if chosen:
            gains_N = chosen_losses_N - losses_N
            gain, gain_error = float(gains_N.mean()), float(gains_N.std(ddof=1) / np.sqrt(len(gains_N)))
        trials.append(Trial(method, float(losses_N.mean()), gain, gain_error))
        if not chosen or trials[-1].helps:
            chosen, chosen_losses_N, chosen_p_NL = method, losses_N, p_NL
    return FittedCalibration(_fit(chosen, z_NL, true_NL, problem_type), tuple(trials), chosen_p_NL)


def folds_of(true_NL: Bools, *, num_folds: int = NUM_FOLDS, seed: int = 0) -> NDArray[np.intp]:
    """The fold of each row, `[N]`: of equal size, with about as many rows of each label (the rarest of a row)."""
    rarest_N = np.where(true_NL, true_NL.sum(axis=0), len(true_NL) + 1).argmin(axis=1)
    order_N = np.lexsort((np.random.default_rng(seed).random(len(true_NL)), rarest_N))
    folds_N = np.empty(len(true_NL), dtype=np.intp)
    folds_N[order_N] = np.arange(len(true_NL)) % num_folds
    return folds_N


def prior_shift(
    priors: Mapping[str, float], shares_L: Floats, labels: Sequence[str], *, problem_type: str
) -> tuple[Floats, Floats]:
    """The bias `[L]` that takes probabilities from rows with the shares of labels `shares_L` to a stream with others.

    With one label a text, p(label) ∝ p₀(label) · prior / share (Saerens et al. 2002, doi:10.1162/089976602753284446);
    labels that are not named divide what is left as they do in the rows. With several, each label's odds shift alone.

    Returns:
        The bias, and the shares it is for, `[L]`.

    Raises:
        ConfigError: a share out of range, an unknown label, shares that cannot be, or a label that has no rows.
    """
    target_L, named_L = shares_L.copy(), np.zeros(len(labels), np.bool_)
    for label, share in priors.items():
        i = index_of(label, labels, setting="--priors")
        if not 0 < share < 1:
            raise ConfigError(f"--priors {label}={share:g}: give a share above 0 and below 1, such as {label}=0.02")
        target_L[i], named_L[i] = share, True
    single = problem_type == SINGLE_LABEL
    missing = [label for label, share, named in zip(labels, shares_L, named_L, strict=True)
               if share == 0 and (single or named)]  # fmt: skip
    if missing:
        problem = f"no row has the label {missing[0]!r}, so nothing is known of how its share shifts"
        raise ConfigError(f"--priors: {problem}; give rows of all labels")
    if not single:
        odds_L = np.where(named_L, np.log(target_L / (1 - target_L)) - np.log(shares_L / (1 - shares_L)), 0.0)
        return odds_L, target_L
    left = 1 - target_L[named_L].sum()
    if (left <= 0 and not named_L.all()) or (named_L.all() and abs(left) > 1e-6):
        given = ", ".join(f"{label}={share:g}" for label, share in priors.items())
        fix = "the shares of all labels sum to 1; leave one out to have it take the rest"
        raise ConfigError(f"--priors {given} sum to {1 - left:g}: {fix}")
    if not named_L.all():
        target_L[~named_L] *= left / shares_L[~named_L].sum()
    bias_L = np.log(target_L / shares_L)
    return bias_L - bias_L.mean(), target_L


def _losses(p_NL: Floats, true_NL: Bools, problem_type: str) -> Floats:
    if problem_type == MULTI_LABEL:
        return binary_log_losses(p_NL, true_NL)
    return log_losses(p_NL, true_NL.argmax(axis=1))


def _fit(method: str, z_NL: Floats, true_NL: Bools, problem_type: str) -> Calibration:
    """Minimises the negative log-likelihood, with Gaussian priors on what is of one label alone."""
    num_texts, num_labels = z_NL.shape
    num_bias = 0 if method == "temperature" else num_labels
    num_scale = num_labels if method == "vector" else 0

    def unpack(theta: Floats) -> tuple[float | Floats, float | Floats, Floats, Floats]:
        bias_L, offsets_L = theta[1 : 1 + num_bias], theta[1 + num_bias :]
        scale = np.exp(theta[0] + offsets_L) if num_scale else float(np.exp(theta[0]))
        return scale, bias_L if num_bias else 0.0, bias_L, offsets_L

    def objective(theta: Floats) -> tuple[float, Floats]:
        scale, bias, bias_L, offsets_L = unpack(theta)
        p_NL = Calibration(problem_type, scale=_plain(scale), bias=_plain(bias)).probabilities(z_NL)
        penalty = (bias_L**2).sum() / _SPREAD_BIAS**2 + (offsets_L**2).sum() / _SPREAD_SCALE**2
        # The gradient by scale·z + bias is p - truth for softmax and sigmoid alike, of losses summed over labels.
        labels_summed = num_labels if problem_type == MULTI_LABEL else 1
        loss = _losses(p_NL, true_NL, problem_type).mean() * labels_summed + penalty / 2 / num_texts
        slope_NL = (p_NL - true_NL) / num_texts
        by_scale_L = (slope_NL * z_NL).sum(axis=0) * scale
        by_bias_L = slope_NL.sum(axis=0)[:num_bias] + bias_L / _SPREAD_BIAS**2 / num_texts
        by_offset_L = by_scale_L[:num_scale] + offsets_L / _SPREAD_SCALE**2 / num_texts
        return float(loss), np.concatenate([[by_scale_L.sum()], by_bias_L, by_offset_L])

    start = np.zeros(1 + num_bias + num_scale)
    bounds = [(_LOWEST, _HIGHEST)] + [(None, None)] * num_bias + [(-2.0, 2.0)] * num_scale
    found = optimize.minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 500})
    scale, bias, _, _ = unpack(found.x)
    return Calibration(problem_type, method=method, scale=_plain(scale), bias=_plain(bias))


def _plain(values: float | Floats) -> float | list[float]:
    return values.tolist() if isinstance(values, np.ndarray) else float(values)
