"""What a model is worth on labelled rows, measured through `Classifier`: the code that serves, with its calibration,
thresholds and precision. The arithmetic is in metrics.py.

    N texts, L labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_classifier.errors import ConfigError, ModelError
from stream_classifier.model.calibration import SINGLE_LABEL
from stream_classifier.model.classifier import Classifier
from training.data import Columns, Table, check_known_labels
from training.metrics import (
    brier_score,
    confusion_matrix,
    ece_noise_floor,
    expected_calibration_error,
    f1_scores,
    negative_log_likelihood,
    precision_recall,
)
from training.reading import find_test, read_table

__all__ = ["Evaluation", "LabelScores", "evaluate", "evaluate_table"]


@dataclass(frozen=True, slots=True)
class LabelScores:
    """One label: shares in 0-1, None where undefined (never predicted, never true), and its rows."""

    precision: float | None
    recall: float | None
    f1: float | None
    support: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The figures of `stream-training evaluate --json`: shares in 0-1, None where undefined.

    Attributes:
        task, problem_type: the model's.
        n: texts.
        accuracy: share of texts whose label is right.
        macro_f1: mean F1 of the labels that are there or predicted.
        weighted_f1: the same, weighted by the rows of each label.
        nll: mean negative log-likelihood of the true label, in nats.
        brier: mean squared distance of the probabilities from the truth, summed over labels (0-2).
        ece: expected calibration error in 15 bins.
        ece_noise_floor: what a perfectly calibrated model would show on as many texts.
        per_label: by label, in the model's order.
        labels: the rows and columns of `confusion`.
        confusion: counts, row the true label, column the predicted one.
        coverage: share of texts accepted, by the thresholds in use.
        precision_at_threshold: share of right labels among those accepted.
    """

    task: str
    problem_type: str
    n: int
    accuracy: float
    macro_f1: float
    weighted_f1: float
    nll: float
    brier: float
    ece: float
    ece_noise_floor: float
    per_label: dict[str, LabelScores] = field(repr=False)
    labels: tuple[str, ...]
    confusion: list[list[int]] = field(repr=False)
    coverage: float
    precision_at_threshold: float | None

    def as_dict(self) -> dict[str, Any]:
        """The JSON object of `--json`, keys in the documented order."""
        return {
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
            "per_label": {
                label: {"precision": s.precision, "recall": s.recall, "f1": s.f1, "support": s.support}
                for label, s in self.per_label.items()
            },
            "confusion": {"labels": list(self.labels), "matrix": self.confusion},
            "coverage": self.coverage,
            "precision_at_threshold": self.precision_at_threshold,
        }


def evaluate(
    model: str | Path | Classifier,
    data: str | Path,
    *,
    columns: Columns | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> Evaluation:
    """Measures a model on a file, or on the test file of a folder. Blocks.

    Args:
        model: a model directory, a Hub name, or a classifier that is loaded.
        data: a file, a folder with a test file, or a folder that is one table.
        columns: where texts and labels are; None: text and label.
        device, dtype: as for `Classifier.load`; for a classifier that is loaded, its own.

    Raises:
        ConfigError: a model or data that cannot be used.
        ModelError: the model answers texts with NaN or infinite scores.
    """
    table = read_table(find_test(Path(data)), columns)
    classifier = model if isinstance(model, Classifier) else Classifier.load(model, device=device, dtype=dtype)
    return evaluate_table(classifier, table)


def evaluate_table(classifier: Classifier, table: Table) -> Evaluation:
    """Measures a loaded classifier on rows in memory. Blocks.

    Raises:
        ConfigError: a label that the model does not have, or a multi-label model.
        ModelError: scores that are not finite.
    """
    labels = classifier.labels
    if classifier.problem_type != SINGLE_LABEL:
        raise ConfigError(f"{classifier.name} is a {classifier.problem_type} model; give one with one label a text")
    check_known_labels(table, labels, known_from=f"the model {classifier.name}")
    index = {label: i for i, label in enumerate(labels)}
    true_N = np.array([index[label] for label in table.labels], dtype=np.intp)

    predictions = classifier.decide(classifier.answer(table.texts))
    if predictions.invalid_N.any():
        num_invalid = int(predictions.invalid_N.sum())
        raise ModelError(f"{classifier.name} gave scores that are not finite for {num_invalid} of {len(table)} texts")
    p_NL, predicted_N = predictions.probabilities_NL, predictions.label_indices_N
    accepted_N, correct_N = predictions.accepted_N, predictions.label_indices_N == true_N

    confusion_LL = confusion_matrix(true_N, predicted_N, len(labels))
    precision_L, recall_L = precision_recall(confusion_LL)
    f1_L = f1_scores(confusion_LL)
    support_L = confusion_LL.sum(axis=1)
    return Evaluation(
        task=classifier.task,
        problem_type=classifier.problem_type,
        n=len(table),
        accuracy=float(correct_N.mean()),
        macro_f1=float(np.nanmean(f1_L)),
        weighted_f1=float(np.nansum(f1_L * support_L) / support_L.sum()),
        nll=negative_log_likelihood(p_NL, true_N),
        brier=brier_score(p_NL, true_N),
        ece=expected_calibration_error(predictions.scores_N, correct_N),
        ece_noise_floor=ece_noise_floor(predictions.scores_N),
        per_label={
            label: LabelScores(_share(precision_L, i), _share(recall_L, i), _share(f1_L, i), int(support_L[i]))
            for i, label in enumerate(labels)
        },
        labels=labels,
        confusion=confusion_LL.tolist(),
        coverage=float(accepted_N.mean()),
        precision_at_threshold=float(correct_N[accepted_N].mean()) if accepted_N.any() else None,
    )


def _share(values_L: NDArray[np.float64], i: int) -> float | None:
    value = float(values_L[i])
    return None if math.isnan(value) else value
