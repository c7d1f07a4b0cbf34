"""Whether one model is better than another on the same rows: paired bootstrap and McNemar's test.

N texts, L labels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from training.intervals import Interval, bootstrap_interval

__all__ = ["Difference", "compare_predictions", "macro_f1_interval", "mcnemar", "paired_difference"]


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure of two models on the same rows.

    Attributes:
        first, second: the figure of each.
        difference: first - second.
        interval: 95 %, by paired bootstrap.
    """

    first: float
    second: float
    difference: float
    interval: Interval

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @property
    def decided(self) -> bool:
        """Whether the interval leaves out 0."""
        return not self.interval[0] <= 0 <= self.interval[1]


def mcnemar(first_correct_N: NDArray[np.bool_], second_correct_N: NDArray[np.bool_]) -> float:
    """The p-value of McNemar's exact test: how likely so uneven a split of the texts that only one model gets right is,
    were both equally good.

    >>> only_first, only_second = np.array([True] * 9 + [False]), np.array([False] * 9 + [True])
    >>> round(mcnemar(only_first, only_second), 4)
    0.0215
    """
    only_first = int((first_correct_N & ~second_correct_N).sum())
    only_second = int((second_correct_N & ~first_correct_N).sum())
    if not only_first + only_second:
        return 1.0
    return float(stats.binomtest(only_first, only_first + only_second).pvalue)


def paired_difference(first_N: NDArray[np.float64], second_N: NDArray[np.float64]) -> Difference:
    """Of the mean of one value a row: correctness, log-likelihood and the like."""
    delta_N = first_N - second_N
    interval = bootstrap_interval(lambda weights_RN: weights_RN @ delta_N / len(delta_N), len(delta_N))
    return Difference(float(first_N.mean()), float(second_N.mean()), float(delta_N.mean()), interval)


def compare_predictions(
    true_NL: NDArray[np.bool_], first_NL: NDArray[np.bool_], second_NL: NDArray[np.bool_]
) -> tuple[Difference, Difference, float]:
    """Accuracy (of whole rows) and macro-F1 of two models, first against second; and McNemar's p-value."""
    first_correct_N, second_correct_N = (true_NL == first_NL).all(axis=1), (true_NL == second_NL).all(axis=1)
    accuracy = paired_difference(first_correct_N.astype(np.float64), second_correct_N.astype(np.float64))
    every_1N = np.ones((1, len(true_NL)))
    first, second = (float(_macro_f1(true_NL, given_NL, every_1N)[0]) for given_NL in (first_NL, second_NL))
    interval = bootstrap_interval(
        lambda weights_RN: _macro_f1(true_NL, first_NL, weights_RN) - _macro_f1(true_NL, second_NL, weights_RN),
        len(true_NL),
    )
    return accuracy, Difference(first, second, first - second, interval), mcnemar(first_correct_N, second_correct_N)


def macro_f1_interval(true_NL: NDArray[np.bool_], predicted_NL: NDArray[np.bool_]) -> Interval:
    """The 95 % interval of macro-F1, by bootstrap of the texts."""
    return bootstrap_interval(lambda weights_RN: _macro_f1(true_NL, predicted_NL, weights_RN), len(true_NL))


def _macro_f1(
    true_NL: NDArray[np.bool_], predicted_NL: NDArray[np.bool_], weights_RN: NDArray[np.float64]
) -> NDArray[np.float64]:
    """`[R]`, over the labels that are there or predicted."""
    hits_RL = weights_RN @ (true_NL & predicted_NL)
    total_RL = weights_RN @ true_NL + weights_RN @ predicted_NL
    with np.errstate(invalid="ignore"):
        f1_R: NDArray[np.float64] = np.nanmean(2 * hits_RL / total_RL, axis=1)
    return f1_R
