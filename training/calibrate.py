"""Temperature scaling (arXiv:1706.04599): a factor on the logits that makes probabilities honest and changes no label.

Applying it is the work of stream_classifier.model.calibration.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stream_classifier.model.calibration import SINGLE_LABEL, Calibration
from training.metrics import negative_log_likelihood

__all__ = ["MIN_ERRORS", "MIN_ROWS", "fit_temperature"]

MIN_ROWS = 200
MIN_ERRORS = 5
_LOWEST, _HIGHEST = 0.05, 20.0


def fit_temperature(logits_NL: NDArray[np.float32], true_N: NDArray[np.intp]) -> float | None:
    """The scale (1 / temperature) with the lowest negative log-likelihood, between 0.05 and 20.

    None where the rows cannot tell: with fewer than 200 of them, or fewer than 5 wrong ones, the best scale would say
    that the model is nearly always right, whatever it is.
    """
    if len(true_N) < MIN_ROWS or int((logits_NL.argmax(axis=1) != true_N).sum()) < MIN_ERRORS:
        return None

    def loss(log_scale: float) -> float:
        calibration = Calibration(SINGLE_LABEL, scale=float(np.exp(log_scale)))
        return negative_log_likelihood(calibration.probabilities(logits_NL), true_N)

    # Convex in the scale, so unimodal in its logarithm: golden-section search, to 1e-4 of the scale.
    low, high = float(np.log(_LOWEST)), float(np.log(_HIGHEST))
    ratio = (np.sqrt(5.0) - 1) / 2
    while high - low > 1e-4:
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if loss(left) <= loss(right):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))
