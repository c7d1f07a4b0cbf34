"""What a model is worth on labelled rows, measured through `Classifier`: the code that serves, with its calibration,
thresholds and precision. The arithmetic is in metrics.py, the curves are in curves.py.

    N texts, L labels.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stream_classifier.model.classifier import Classifier
from training.answers import Answers, answer_table
from training.data import Columns, Table
from training.intervals import Interval, wilson
from training.metrics import (
    area_under_risk_coverage,
    confusion_matrix,
    ece_noise,
    expected_calibration_error,
    shares,
)
from training.reading import find_part, read_original_rows, read_table
from training.rejection import OutOfScope, Outside, known_out_of_scope_label, measure_out_of_scope, set_apart

if TYPE_CHECKING:
    from training.baseline import Baseline
    from training.curves import Curves

__all__ = ["ConfusedPair", "Evaluation", "LabelScores", "MultiLabelScores", "evaluate", "evaluate_answers",
           "evaluate_table"]  # fmt: skip

_MAX_CONFUSED = 10


@dataclass(frozen=True, slots=True)
class LabelScores:
    """One label: shares with 95 % intervals, None where undefined (never predicted, never true), and its rows."""

    precision: float | None
    recall: float | None
    f1: float | None
    support: int
    precision_interval: Interval | None = None
    recall_interval: Interval | None = None


@dataclass(frozen=True, slots=True)
class ConfusedPair:
    """How many texts of one label were given another, and what share of the label's texts that is."""

    true: str
    predicted: str
    n: int
    share: float


@dataclass(frozen=True, slots=True)
class MultiLabelScores:
    """Of a model whose labels do not exclude each other: over all decisions, a text and a label each.

    Attributes:
        micro_precision, micro_recall, micro_f1: over all labels together; None where nothing is given or true.
        mean_average_precision: of the labels that are true of some text and not of all.
        average_precision: of each of them.
        mean_labels_true, mean_labels_given: labels a text.
    """

    micro_precision: float | None
    micro_recall: float | None
    micro_f1: float | None
    mean_average_precision: float | None
    average_precision: dict[str, float]
    mean_labels_true: float
    mean_labels_given: float


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The figures of `stream-training evaluate --json`: shares in 0-1, None where undefined, intervals of 95 %.

    Attributes:
        task, problem_type: the model's.
        n: texts.
        accuracy: share of texts whose label is right; multi-label: whose labels are just the right ones.
        accuracy_interval: Wilson's.
        macro_f1: mean F1 of the labels that are there or predicted.
        weighted_f1: the same, weighted by the rows of each label.
        nll: mean negative log-likelihood of the true label, in nats; multi-label: mean over all decisions.
        brier: mean squared distance of the probabilities from the truth, summed over labels (0-2).
        ece: expected calibration error in 15 bins; multi-label: of the probabilities of all labels.
        ece_noise_floor: what a perfectly calibrated model would show on as many texts, on average.
        ece_noise_95: and what it would exceed in one case of 20.
        per_label: by label, in the model's order.
        labels: the rows and columns of `confusion`.
        confusion: counts, row the true label, column the predicted one; None for multi-label models.
        confused: the pairs most often confused, most often first.
        coverage: share of texts accepted, by the thresholds in use.
        precision_at_threshold: share of right labels among those accepted.
        aurc: area under the risk-coverage curve, None for multi-label models.
        truncated: share of texts longer than the model reads.
        near_ties: texts whose two best probabilities are so close (`near_tie_margin`), or that of the positive label so
            close to the operating point (half of it), that rounding decides: in another micro-batch they may get the
            other label. None for multi-label models, and where no model was run.
        near_tie_margin: twice what the golden cases of the backend and dtype may differ.
        multi_label: None for models with one label a text.
        out_of_scope: of the rows with the out-of-scope label, where there are any; all other figures are without them.
        baseline: a tf-idf model beside it, where one was asked for.
        answers: what all of it, and `curves`, is computed from.
        outside: what `out_of_scope` is computed from.
    """

    task: str
    problem_type: str
    n: int
    accuracy: float
    accuracy_interval: Interval
    macro_f1: float
    weighted_f1: float
    nll: float
    brier: float
    ece: float
    ece_noise_floor: float
    ece_noise_95: float
    per_label: dict[str, LabelScores] = field(repr=False)
    labels: tuple[str, ...]
    confusion: list[list[int]] | None = field(repr=False)
    confused: list[ConfusedPair] = field(repr=False)
    coverage: float
    precision_at_threshold: float | None
    aurc: float | None
    truncated: float
    near_ties: int | None = None
    near_tie_margin: float | None = None
    multi_label: MultiLabelScores | None = None
    out_of_scope: OutOfScope | None = None
    baseline: Baseline | None = field(default=None, repr=False)
    answers: Answers = field(repr=False, compare=False)
    outside: Outside | None = field(default=None, repr=False, compare=False)

    @cached_property
    def curves(self) -> Curves:
        """Reliability, threshold and coverage, risk and coverage, precision and recall, accuracy by length."""
        from training.curves import Curves

        return Curves(self.answers)

    def as_dict(self, *, curves: bool = False) -> dict[str, Any]:
        """The JSON object of `--json`, keys in the documented order; with all points of the curves on request."""
        figures: dict[str, Any] = {
            "task": self.task,
            "problem_type": self.problem_type,
            "n": self.n,
            "accuracy": self.accuracy,
            "macro_f1": self.macro_f1,
            "weighted_f1": self.weighted_f1,
            "nll": self.nll,
            "brier": self.brier,
            "ece": self.ece,
            "ece_noise_floor": self.ece_noise_floor,
            "per_label": {label: asdict(scores) for label, scores in self.per_label.items()},
            "confusion": {"labels": list(self.labels), "matrix": self.confusion},
            "coverage": self.coverage,
            "precision_at_threshold": self.precision_at_threshold,
            "accuracy_interval": list(self.accuracy_interval),
            "ece_noise_95": self.ece_noise_95,
            "confused": [asdict(pair) for pair in self.confused],
            "aurc": self.aurc,
            "truncated": self.truncated,
            "near_ties": self.near_ties,
            "near_tie_margin": self.near_tie_margin,
            "by_length": self.curves.as_dict(only=("by_length",))["by_length"],
            "multi_label": None if self.multi_label is None else asdict(self.multi_label),
            "out_of_scope": None if self.out_of_scope is None else asdict(self.out_of_scope),
            "baseline": None if self.baseline is None else self.baseline.as_dict(),
        }
        return {**figures, "curves": self.curves.as_dict()} if curves else figures


def evaluate(
    model: str | Path | Classifier,
    data: str | Path,
    *,
    columns: Columns | None = None,
    baseline: str | Path | None = None,
    out_of_scope_label: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> Evaluation:
    """Measures a model on a file, or on the test file of a folder. Blocks.

    Args:
        model: a model directory, a Hub name, or a classifier that is loaded.
        data: a file, a folder with a test file, or a folder that is one table.
        columns: where texts and labels are; None: text and label.
        baseline: rows to train a tf-idf model on, which is measured beside it; those the model was trained on.
        out_of_scope_label: what marks rows that belong to no label; None: as the model's rejection rule says.
        device, dtype: as for `Classifier.load`; for a classifier that is loaded, its own.

    Raises:
        ConfigError: a model or data that cannot be used.
        ModelError: the model answers texts with NaN or infinite scores.
    """
    table = read_original_rows(find_part(Path(data), "test"), columns)
    train = None if baseline is None else read_table(find_part(Path(baseline), "train"), columns)
    classifier = model if isinstance(model, Classifier) else Classifier.load(model, device=device, dtype=dtype)
    if out_of_scope_label is None and not isinstance(model, Classifier):
        out_of_scope_label = known_out_of_scope_label(model)
    return evaluate_table(classifier, table, baseline=train, out_of_scope_label=out_of_scope_label)


def evaluate_table(
    classifier: Classifier, table: Table, *, baseline: Table | None = None, out_of_scope_label: str | None = None
) -> Evaluation:
    """Measures a loaded classifier on rows in memory, and beside it a tf-idf model trained on `baseline`. Blocks.

    Rows that have the out-of-scope label are measured apart: they are in `Evaluation.out_of_scope` alone.

    Raises:
        ConfigError: a label that the model does not have.
        ModelError: scores that are not finite.
    """
    outside: Table | None = None
    if out_of_scope_label is not None and out_of_scope_label not in classifier.labels:
        table, outside = set_apart(table, out_of_scope_label)
        baseline = None if baseline is None else set_apart(baseline, out_of_scope_label)[0]
    answers = answer_table(classifier, table)
    evaluation = evaluate_answers(answers, task=classifier.task)
    if not answers.multi_label:
        margin = 2 * classifier.golden_tolerance
        near_ties = answers.near_ties(
            margin, positive_label=classifier.positive_label, point=classifier.operating_point
        )
        evaluation = replace(evaluation, near_ties=near_ties, near_tie_margin=margin)
    if baseline is not None:
        from training.baseline import measure_baseline

        evaluation = replace(evaluation, baseline=measure_baseline(baseline, table.texts, answers))
    if outside is not None and out_of_scope_label is not None:
        outside_answers = answer_table(classifier, outside, out_of_scope_label=out_of_scope_label)
        evaluation = with_outside(evaluation, Outside(out_of_scope_label, outside_answers))
    return evaluation


def with_outside(evaluation: Evaluation, outside: Outside) -> Evaluation:
    """The evaluation, and beside it how rows that belong to no label fare."""
    measured = measure_out_of_scope(outside.label, evaluation.answers, outside.answers)
    return replace(evaluation, out_of_scope=measured, outside=outside)


def evaluate_answers(answers: Answers, *, task: str) -> Evaluation:
    """The figures of answers that are there already: of a fold, of out-of-fold predictions, of a calibration."""
    a, labels = answers, answers.labels
    true_NL, given_NL, correct_N = a.true_NL, a.predicted_NL, a.correct_N
    hits_L, true_L, given_L = (true_NL & given_NL).sum(axis=0), true_NL.sum(axis=0), given_NL.sum(axis=0)
    f1_L = shares(2 * hits_L, true_L + given_L)
    confidence, right = (a.p_NL.ravel(), true_NL.ravel()) if a.multi_label else (a.scores_N, correct_N)
    if a.multi_label:
        precision_at_threshold = _share(int(hits_L.sum()), int(given_L.sum()))
        confusion_LL = None
    else:
        precision_at_threshold = _share(int(correct_N[a.accepted_N].sum()), int(a.accepted_N.sum()))
        confusion_LL = confusion_matrix(a.true_N, a.predicted_N, len(labels))
    noise_floor, noise_95 = ece_noise(confidence)
    return Evaluation(
        task=task,
        problem_type=a.problem_type,
        n=len(a),
        accuracy=float(correct_N.mean()),
        accuracy_interval=wilson(int(correct_N.sum()), len(a)) or (0.0, 1.0),
        macro_f1=float(np.nanmean(f1_L)) if not np.isnan(f1_L).all() else 0.0,
        weighted_f1=float(np.nansum(f1_L * true_L) / max(1, true_L.sum())),
        nll=float(a.losses_N.mean()),
        brier=float(a.brier_N.mean()),
        ece=expected_calibration_error(confidence, right),
        ece_noise_floor=noise_floor,
        ece_noise_95=noise_95,
        per_label={
            label: LabelScores(
                precision=_share(hits, given),
                recall=_share(hits, true),
                f1=None if math.isnan(f1) else f1,
                support=true,
                precision_interval=wilson(hits, given),
                recall_interval=wilson(hits, true),
            )
            for label, hits, true, given, f1 in zip(
                labels, hits_L.tolist(), true_L.tolist(), given_L.tolist(), f1_L.tolist(), strict=True
            )
        },
        labels=labels,
        confusion=None if confusion_LL is None else confusion_LL.tolist(),
        confused=[] if confusion_LL is None else _confused(confusion_LL, labels),
        coverage=float(a.accepted_N.mean()),
        precision_at_threshold=precision_at_threshold,
        aurc=None if a.multi_label else area_under_risk_coverage(a.scores_N, correct_N),
        truncated=float(a.truncated_N.mean()),
        multi_label=_multi_label(a) if a.multi_label else None,
        answers=a,
    )


def _multi_label(a: Answers) -> MultiLabelScores:
    from training.curves import average_precisions

    hits, true, given = int((a.true_NL & a.predicted_NL).sum()), int(a.true_NL.sum()), int(a.predicted_NL.sum())
    average = dict(average_precisions(a))
    return MultiLabelScores(
        micro_precision=_share(hits, given),
        micro_recall=_share(hits, true),
        micro_f1=_share(2 * hits, true + given),
        mean_average_precision=float(np.mean(list(average.values()))) if average else None,
        average_precision=average,
        mean_labels_true=true / len(a),
        mean_labels_given=given / len(a),
    )


def _confused(confusion_LL: NDArray[np.int64], labels: tuple[str, ...]) -> list[ConfusedPair]:
    wrong_LL = confusion_LL - np.diag(np.diag(confusion_LL))
    order = np.argsort(-wrong_LL, axis=None, kind="stable")[:_MAX_CONFUSED]
    pairs = [divmod(int(i), len(labels)) for i in order]
    return [
        ConfusedPair(labels[i], labels[j], int(wrong_LL[i, j]), float(wrong_LL[i, j] / confusion_LL[i].sum()))
        for i, j in pairs
        if wrong_LL[i, j]
    ]


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
