"""What labels and probabilities are worth against the truth: pure arithmetic, no model.

What scikit-learn has beyond a line or two is taken from there, by the callers of this module.

    N texts, L labels, p probabilities.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "area_under_risk_coverage",
    "binary_log_losses",
    "brier_scores",
    "calibration_bins",
    "confusion_matrix",
    "ece_noise",
    "expected_calibration_error",
    "f1_scores",
    "log_losses",
    "negative_log_likelihood",
    "risks_at_coverage",
    "shares",
]

NUM_BINS = 15
_MAX_RESAMPLES, _MIN_RESAMPLES = 1000, 100
_MAX_DRAWS = 20_000_000

Ints = NDArray[np.intp]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def confusion_matrix(true_N: Ints, predicted_N: Ints, num_labels: int) -> NDArray[np.int64]:
    """Counts `[L, L]`: row the true label, column the predicted one.

    >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    counts = np.bincount(true_N * num_labels + predicted_N, minlength=num_labels * num_labels)
    return counts.reshape(num_labels, num_labels).astype(np.int64)


def f1_scores(confusion_LL: NDArray[np.int64]) -> Floats:
    """F1 of each label `[L]`; NaN for one that is neither there nor predicted."""
    hits_L = np.diag(confusion_LL)
    return shares(2 * hits_L, confusion_LL.sum(axis=0) + confusion_LL.sum(axis=1))


def shares(part_L: NDArray[np.int64], whole_L: NDArray[np.int64]) -> Floats:
    """One count by another, `[L]`; NaN where there is nothing to divide by."""
    out = np.full(len(part_L), np.nan)
    np.divide(part_L, whole_L, out=out, where=whole_L > 0)
    return out


def negative_log_likelihood(p_NL: Floats, true_N: Ints) -> float:
    """The mean of `log_losses`."""
    return float(log_losses(p_NL, true_N).mean())


def log_losses(p_NL: Floats, true_N: Ints) -> Floats:
    """-ln p(true label) of each text, `[N]`, in nats; a probability of 0 counts as the smallest float."""
    p_N = p_NL[np.arange(len(true_N)), true_N]
    return -np.log(np.maximum(p_N, np.finfo(np.float64).tiny))


def binary_log_losses(p_NL: Floats, true_NL: Bools) -> Floats:
    """Of labels that do not exclude each other: the mean over labels of each text, `[N]`, in nats."""
    p_right_NL = np.where(true_NL, p_NL, 1 - p_NL)
    loss_N: Floats = -np.log(np.maximum(p_right_NL, np.finfo(np.float64).tiny)).mean(axis=1)
    return loss_N


def brier_scores(p_NL: Floats, true_NL: Bools) -> Floats:
    """The squared distance of p from the truth, summed over labels: of each text, `[N]`, 0 is best (Brier 1950)."""
    distance_N: Floats = ((p_NL - true_NL) ** 2).sum(axis=1)
    return distance_N


def calibration_bins(confidence_N: Floats) -> Ints:
    """The bin of each confidence, `[N]`: 15 of equal width, 1.0 in the last."""
    bins_N: Ints = np.minimum((confidence_N * NUM_BINS).astype(np.intp), NUM_BINS - 1)
    return bins_N


def expected_calibration_error(confidence_N: Floats, correct_N: Bools) -> float:
    """|accuracy - confidence| in 15 bins of equal width, weighted by their texts (arXiv:1706.04599); a share, 0-1.

    >>> expected_calibration_error(np.array([0.9, 0.9]), np.array([True, False]))
    0.4
    """
    return _calibration_error(calibration_bins(confidence_N), confidence_N, correct_N)


def ece_noise(confidence_N: Floats, *, seed: int = 0) -> tuple[float, float]:
    """What error a perfectly calibrated model with these confidences would show on so many texts: mean and 95 % point.

    Each text is right with the probability its confidence says, up to 1000 times over. Only an error above the 95 %
    point tells of the model; one near the mean, the noise floor, is what honesty looks like on so few texts.
    """
    generator = np.random.default_rng(seed)
    num_resamples = min(_MAX_RESAMPLES, max(_MIN_RESAMPLES, _MAX_DRAWS // len(confidence_N)))
    bins_N = calibration_bins(confidence_N)
    errors = [
        _calibration_error(bins_N, confidence_N, generator.random(len(confidence_N)) < confidence_N)
        for _ in range(num_resamples)
    ]
    return float(np.mean(errors)), float(np.quantile(errors, 0.95))


def risks_at_coverage(confidence_N: Floats, correct_N: Bools) -> Floats:
    """Share of errors among the k texts with the highest confidence, `[N]` for k = 1 … N.

    Texts of equal confidence cannot be told apart, so each counts as the mean of them all.

    >>> risks_at_coverage(np.array([0.9, 0.5, 0.5]), np.array([True, True, False])).round(3).tolist()
    [0.0, 0.25, 0.333]
    """
    order_N = np.argsort(-confidence_N, kind="stable")
    errors_N = np.cumsum(~correct_N[order_N])
    ordered_N = confidence_N[order_N]
    ends = np.append(np.flatnonzero(np.diff(ordered_N)), len(ordered_N) - 1)
    counts_N = np.arange(1, len(ordered_N) + 1)
    risks_N: Floats = np.interp(counts_N, [0, *(ends + 1)], [0, *errors_N[ends]]) / counts_N
    return risks_N


def area_under_risk_coverage(confidence_N: Floats, correct_N: Bools) -> float:
    """AURC (arXiv:1805.08206): the mean risk over all coverages, 0 (best) to 1."""
    return float(risks_at_coverage(confidence_N, correct_N).mean())


def _calibration_error(bins_N: Ints, confidence_N: Floats, correct_N: Bools) -> float:
    gaps = np.bincount(bins_N, weights=confidence_N - correct_N, minlength=NUM_BINS)
    return float(np.abs(gaps).sum() / len(confidence_N))
