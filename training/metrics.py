"""What labels and probabilities are worth against the truth: pure arithmetic, no model.

N texts, L labels, p probabilities.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "brier_score",
    "confusion_matrix",
    "ece_noise_floor",
    "expected_calibration_error",
    "f1_scores",
    "negative_log_likelihood",
    "precision_recall",
]

_NUM_BINS = 15
_NUM_RESAMPLES = 100

Ints = NDArray[np.intp]
Floats = NDArray[np.float64]


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
    return _ratio(2 * hits_L, confusion_LL.sum(axis=0) + confusion_LL.sum(axis=1))


def precision_recall(confusion_LL: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Precision (NaN: never predicted) and recall (NaN: never true) of each label, `[L]`."""
    hits_L = np.diag(confusion_LL)
    return _ratio(hits_L, confusion_LL.sum(axis=0)), _ratio(hits_L, confusion_LL.sum(axis=1))


def negative_log_likelihood(p_NL: Floats, true_N: Ints) -> float:
    """Mean of -ln p(true label); a probability of 0 counts as the smallest float."""
    p_N = p_NL[np.arange(len(true_N)), true_N]
    return float(-np.log(np.maximum(p_N, np.finfo(np.float64).tiny)).mean())


def brier_score(p_NL: Floats, true_N: Ints) -> float:
    """Mean over texts of the squared distance of p from the truth, summed over labels: 0 (best) to 2 (Brier 1950)."""
    distance_NL = p_NL.copy()
    distance_NL[np.arange(len(true_N)), true_N] -= 1.0
    return float((distance_NL**2).sum(axis=1).mean())


def expected_calibration_error(confidence_N: Floats, correct_N: NDArray[np.bool_]) -> float:
    """|accuracy - confidence| in 15 bins of equal width, weighted by their texts (arXiv:1706.04599); a share, 0-1.

    >>> expected_calibration_error(np.array([0.9, 0.9]), np.array([True, False]))
    0.4
    """
    bins_N = np.minimum((confidence_N * _NUM_BINS).astype(np.intp), _NUM_BINS - 1)
    gaps = np.bincount(bins_N, weights=confidence_N - correct_N, minlength=_NUM_BINS)
    return float(np.abs(gaps).sum() / len(confidence_N))


def ece_noise_floor(confidence_N: Floats, *, seed: int = 0) -> float:
    """The mean error that a perfectly calibrated model with these confidences would show on so many texts.

    Each text is right with the probability its confidence says, 100 times over; only an error well above this floor
    tells of the model.
    """
    generator = np.random.default_rng(seed)
    draws = generator.random((_NUM_RESAMPLES, len(confidence_N))) < confidence_N
    return float(np.mean([expected_calibration_error(confidence_N, correct_N) for correct_N in draws]))


def _ratio(numerator: NDArray[np.int64], denominator: NDArray[np.int64]) -> Floats:
    out = np.full(len(numerator), np.nan)
    np.divide(numerator, denominator, out=out, where=denominator > 0)
    return out
