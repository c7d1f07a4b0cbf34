"""The curves of an evaluation as plain data, lists of floats, for plots and machines; none is computed unless asked.

N texts, L labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve

from training.answers import Answers
from training.intervals import Interval, wilson
from training.metrics import NUM_BINS, calibration_bins, risks_at_coverage

__all__ = [
    "Curves",
    "LengthBin",
    "PrecisionRecallCurve",
    "ReliabilityBin",
    "RiskCoverageCurve",
    "ThresholdCoverageCurve",
    "average_precisions",
    "by_length",
    "reliability",
]

_MAX_POINTS = 201
_NUM_LENGTH_BINS = 5


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Texts whose confidence is in one bin: what the model claims, and how often it is right."""

    low: float
    high: float
    n: int
    confidence: float | None
    accuracy: float | None
    accuracy_interval: Interval | None


@dataclass(frozen=True, slots=True)
class ThresholdCoverageCurve:
    """What share of texts reaches each threshold, and how many of those are right; by rising threshold."""

    threshold: list[float]
    coverage: list[float]
    precision: list[float]
    precision_interval: list[Interval]


@dataclass(frozen=True, slots=True)
class RiskCoverageCurve:
    """The share of errors among the surest texts, by rising coverage (arXiv:1805.08206)."""

    coverage: list[float]
    risk: list[float]


@dataclass(frozen=True, slots=True)
class PrecisionRecallCurve:
    """One label against the rest, by rising threshold; `average_precision` is of all points, not only of those here."""

    threshold: list[float]
    precision: list[float]
    recall: list[float]
    average_precision: float


@dataclass(frozen=True, slots=True)
class LengthBin:
    """Texts of similar length, in `Answers.length_unit`, both ends included."""

    shortest: int
    longest: int
    n: int
    accuracy: float
    accuracy_interval: Interval


class Curves:
    """The curves of `answers`, each computed when it is first read.

    Attributes:
        reliability: 15 bins of equal width; of every label's probability where the model is multi-label.
        threshold_coverage, risk_coverage: None for a multi-label model.
        precision_recall: by label, of those that are true of some text and not of all.
        by_length: five bins of about as many texts each.
    """

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    @cached_property
    def reliability(self) -> list[ReliabilityBin]:
        a = self._answers
        return reliability(a.p_NL.ravel(), a.true_NL.ravel()) if a.multi_label else reliability(a.scores_N, a.correct_N)

    @cached_property
    def threshold_coverage(self) -> ThresholdCoverageCurve | None:
        a = self._answers
        if a.multi_label:
            return None
        order_N = np.argsort(-a.scores_N, kind="stable")
        scores_N, hits_N = a.scores_N[order_N], np.cumsum(a.correct_N[order_N])
        # A threshold accepts all texts of equal score or none of them.
        ends = np.append(np.flatnonzero(np.diff(scores_N)), len(a) - 1)
        at = _thinned(ends)[::-1]
        return ThresholdCoverageCurve(
            scores_N[at].tolist(),
            ((at + 1) / len(a)).tolist(),
            (hits_N[at] / (at + 1)).tolist(),
            [wilson(int(hits_N[i]), int(i) + 1) or (0.0, 1.0) for i in at],
        )

    @cached_property
    def risk_coverage(self) -> RiskCoverageCurve | None:
        a = self._answers
        if a.multi_label:
            return None
        at = _thinned(np.arange(len(a)))
        risks_N = risks_at_coverage(a.scores_N, a.correct_N)
        return RiskCoverageCurve(((at + 1) / len(a)).tolist(), risks_N[at].tolist())

    @cached_property
    def precision_recall(self) -> dict[str, PrecisionRecallCurve]:
        a = self._answers
        return {
            label: _precision_recall(a.true_NL[:, i], a.p_NL[:, i])
            for i, label in enumerate(a.labels)
            if a.true_NL[:, i].any() and not a.true_NL[:, i].all()
        }

    @cached_property
    def by_length(self) -> list[LengthBin]:
        return by_length(self._answers.lengths_N, self._answers.correct_N)

    def as_dict(self, *, only: Sequence[str] | None = None) -> dict[str, Any]:
        """All of them, or `only` those named, for JSON."""
        as_json: dict[str, Callable[[], Any]] = {
            "reliability": lambda: [asdict(item) for item in self.reliability],
            "threshold_coverage": lambda: _optional(self.threshold_coverage),
            "risk_coverage": lambda: _optional(self.risk_coverage),
            "precision_recall": lambda: {label: asdict(curve) for label, curve in self.precision_recall.items()},
            "by_length": lambda: {
                "unit": self._answers.length_unit,
                "bins": [asdict(item) for item in self.by_length],
            },
        }
        return {name: make() for name, make in as_json.items() if only is None or name in only}


def reliability(confidence_N: NDArray[np.float64], correct_N: NDArray[np.bool_]) -> list[ReliabilityBin]:
    """The bins of a reliability diagram, those of `expected_calibration_error`; means are None in an empty one."""
    bins_N = calibration_bins(confidence_N)
    total = np.bincount(bins_N, minlength=NUM_BINS).tolist()
    claimed = np.bincount(bins_N, weights=confidence_N, minlength=NUM_BINS).tolist()
    hits = np.bincount(bins_N, weights=correct_N, minlength=NUM_BINS).astype(int).tolist()
    return [
        ReliabilityBin(
            i / NUM_BINS,
            (i + 1) / NUM_BINS,
            total[i],
            claimed[i] / total[i] if total[i] else None,
            hits[i] / total[i] if total[i] else None,
            wilson(hits[i], total[i]),
        )
        for i in range(NUM_BINS)
    ]


def by_length(lengths_N: NDArray[np.intp], correct_N: NDArray[np.bool_]) -> list[LengthBin]:
    """Accuracy in bins of about equal numbers of texts; fewer bins where lengths repeat."""
    edges = np.unique(np.quantile(lengths_N, np.linspace(0, 1, _NUM_LENGTH_BINS + 1)[1:], method="lower"))
    bins_N = np.searchsorted(edges, lengths_N)
    found = []
    for i in range(len(edges)):
        inside_N = bins_N == i
        n, hits = int(inside_N.sum()), int(correct_N[inside_N].sum())
        lengths = lengths_N[inside_N]
        found.append(LengthBin(int(lengths.min()), int(lengths.max()), n, hits / n, wilson(hits, n) or (0.0, 1.0)))
    return found


def average_precisions(answers: Answers) -> Mapping[str, float]:
    """By label, of those that are true of some text and not of all."""
    return {
        label: float(average_precision_score(answers.true_NL[:, i], answers.p_NL[:, i]))
        for i, label in enumerate(answers.labels)
        if answers.true_NL[:, i].any() and not answers.true_NL[:, i].all()
    }


def _precision_recall(true_N: NDArray[np.bool_], p_N: NDArray[np.float64]) -> PrecisionRecallCurve:
    precision, recall, threshold = precision_recall_curve(true_N, p_N)  # a last point without a threshold: recall 0
    at = _thinned(np.arange(len(threshold)))
    average = float(average_precision_score(true_N, p_N))
    return PrecisionRecallCurve(threshold[at].tolist(), precision[at].tolist(), recall[at].tolist(), average)


def _optional(curve: ThresholdCoverageCurve | RiskCoverageCurve | None) -> dict[str, Any] | None:
    return None if curve is None else asdict(curve)


def _thinned(indices: NDArray[Any]) -> NDArray[Any]:
    """At most 201 of them, spread evenly, the first and the last among them."""
    if len(indices) <= _MAX_POINTS:
        return indices
    return indices[np.linspace(0, len(indices) - 1, _MAX_POINTS).round().astype(np.intp)]
