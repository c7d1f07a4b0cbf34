"""What thresholds do to rows: coverage, precision, review load and cost, on those rows or weighted as on a stream.

N texts, L labels, R resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.answers import Answers
from training.intervals import Interval, effective_number, one_sided_lower, wilson
from training.threshold_search import Costs

__all__ = ["Expected", "Outcome"]


@dataclass(frozen=True, slots=True)
class Expected:
    """What thresholds do to rows.

    Attributes:
        coverage: share of texts accepted, with its 95 % interval.
        precision: share of right labels among those accepted, with its 95 % interval; None where nothing is.
        precision_bound: the one-sided 95 % lower bound; None for a stream with other shares of labels. As the interval,
            it takes the labels of one text for independent, and the thresholds for chosen on other rows.
        review_per_1000: texts of 1,000 that are uncertain.
        cost_per_1000: where costs were given.
    """

    coverage: float
    coverage_interval: Interval
    precision: float | None
    precision_interval: Interval | None
    precision_bound: float | None
    review_per_1000: float
    cost_per_1000: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """Which labels are given, and which texts accepted: bool `[N, L]` and `[N]`. Multi-label: a label given is one
    accepted.
    """

    answers: Answers
    given_NL: NDArray[np.bool_]
    accepted_N: NDArray[np.bool_]

    @classmethod
    def of(cls, answers: Answers) -> Outcome:
        return cls(answers, answers.predicted_NL, answers.accepted_N)

    def expected(
        self, costs: Costs | None, positive_index: int | None, weights_N: NDArray[np.float64] | None = None
    ) -> Expected:
        a, accepted_N = self.answers, self.accepted_N
        counted_NL = self.given_NL & accepted_N[:, None]
        right_N, given_N = (counted_NL & a.true_NL).sum(axis=1), counted_NL.sum(axis=1)
        cost_N = None if costs is None else self._costs(costs, positive_index)
        w_N = np.ones(len(a)) if weights_N is None else weights_N
        total, given = w_N.sum(), float(w_N @ given_N)
        coverage = float(w_N @ accepted_N / total)
        precision = float(w_N @ right_N / given) if given else None
        if weights_N is None:
            hits, all_given = int(right_N.sum()), int(given_N.sum())
            coverage_interval = wilson(int(accepted_N.sum()), len(a)) or (0.0, 1.0)
            precision_interval, bound = wilson(hits, all_given), float(one_sided_lower(hits, all_given))
            precision_bound = bound if all_given else None
        else:
            # A bootstrap would be sure of what it never saw: an error among many rows that count little.
            number, number_given = effective_number(w_N), effective_number(w_N * given_N)
            coverage_interval = wilson(coverage * number, number) or (0.0, 1.0)
            precision_interval = None if precision is None else wilson(precision * number_given, number_given)
            precision_bound = None
        cost = None if cost_N is None else float(1000 * (w_N @ cost_N) / total)
        return Expected(
            coverage, coverage_interval, precision, precision_interval, precision_bound, 1000 * (1 - coverage), cost
        )

    def _costs(self, costs: Costs, positive_index: int | None) -> NDArray[np.float64]:
        a, accepted_N = self.answers, self.accepted_N
        wrongly_given_N = (self.given_NL & ~a.true_NL).sum(axis=1) * costs.false_positive
        if a.multi_label:
            cost_N: NDArray[np.float64] = wrongly_given_N + (a.true_NL & ~self.given_NL).sum(axis=1) * (
                costs.false_negative or 0.0
            )
            return cost_N
        error_N = wrongly_given_N
        if costs.false_negative is not None and positive_index is not None:
            missed_N = self.given_NL[:, 1 - positive_index] & ~a.true_NL[:, 1 - positive_index]
            error_N = np.where(missed_N, costs.false_negative, error_N)
        review = 0.0 if costs.review is None else costs.review
        cost_N = np.where(accepted_N, error_N, review)
        return cost_N
