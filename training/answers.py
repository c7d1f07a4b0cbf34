"""What a model says of labelled rows, beside what is true of them: the arrays that every figure is computed from.

The model runs once, through `Classifier`, so with the code, calibration, thresholds and precision that serve.

    N texts, L labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_classifier.errors import ConfigError, ModelError
from stream_classifier.model.calibration import MULTI_LABEL, SINGLE_LABEL
from stream_classifier.model.classifier import Classifier
from training.data import Table, check_known_labels, label_targets
from training.metrics import binary_log_losses, brier_scores, log_losses
from training.progress import bar

__all__ = ["Answers", "answer_table", "one_hot", "truth"]

_CHUNK = 1024  # texts: so many are packed by length among themselves, to little padding


@dataclass(frozen=True, eq=False, kw_only=True)
class Answers:
    """A model's answers to N texts.

    Attributes:
        labels: in the order of the columns.
        problem_type: "single_label_classification" or "multi_label_classification".
        logits_NL: float32, raw, before calibration; probabilities of a model that gives only those.
        p_NL: float64, calibrated.
        true_NL: bool, the labels that are right; exactly one a row unless multi-label.
        predicted_NL: bool, the labels given; exactly one a row unless multi-label.
        scores_N: the probability of the label decided on, or of the best one.
        accepted_N: bool, whether the thresholds in use accept the text.
        lengths_N: of each text, in `length_unit`.
        length_unit: "tokens" as the model reads them, special ones included, or "characters" where it has none.
        truncated_N: bool, whether the text was longer than the model reads.
    """

    labels: tuple[str, ...]
    problem_type: str
    logits_NL: NDArray[np.float32] = field(repr=False)
    p_NL: NDArray[np.float64] = field(repr=False)
    true_NL: NDArray[np.bool_] = field(repr=False)
    predicted_NL: NDArray[np.bool_] = field(repr=False)
    scores_N: NDArray[np.float64] = field(repr=False)
    accepted_N: NDArray[np.bool_] = field(repr=False)
    lengths_N: NDArray[np.intp] = field(repr=False)
    length_unit: str
    truncated_N: NDArray[np.bool_] = field(repr=False)

    def __len__(self) -> int:
        return len(self.scores_N)

    @property
    def multi_label(self) -> bool:
        """Whether a text may have several labels."""
        return self.problem_type == MULTI_LABEL

    @property
    def true_N(self) -> NDArray[np.intp]:
        """The index of the right label; not for multi-label."""
        true_N: NDArray[np.intp] = self.true_NL.argmax(axis=1)
        return true_N

    @property
    def predicted_N(self) -> NDArray[np.intp]:
        """The index of the label given; not for multi-label."""
        predicted_N: NDArray[np.intp] = self.predicted_NL.argmax(axis=1)
        return predicted_N

    @property
    def correct_N(self) -> NDArray[np.bool_]:
        """Whether just the right labels were given."""
        correct_N: NDArray[np.bool_] = (self.true_NL == self.predicted_NL).all(axis=1)
        return correct_N

    @property
    def losses_N(self) -> NDArray[np.float64]:
        """The negative log-likelihood of each text, in nats; multi-label: the mean over labels."""
        if self.multi_label:
            return binary_log_losses(self.p_NL, self.true_NL)
        return log_losses(self.p_NL, self.true_N)

    @property
    def brier_N(self) -> NDArray[np.float64]:
        """The Brier score of each text; multi-label: the mean over labels."""
        sum_N = brier_scores(self.p_NL, self.true_NL)
        return sum_N / len(self.labels) if self.multi_label else sum_N

    def near_ties(self, margin: float, *, positive_label: str | None = None, point: float | None = None) -> int:
        """Texts that get another label when their two best probabilities come nearer by `margin`; not for multi-label.

        With an operating point: when that of `positive_label` moves by half as much to `point`.
        """
        if positive_label is not None and point is not None:
            p_N = self.p_NL[:, self.labels.index(positive_label)]
            return int((np.abs(p_N - point) < margin / 2).sum())
        two_best_N2 = np.partition(self.p_NL, -2, axis=1)[:, -2:]
        return int((two_best_N2[:, 1] - two_best_N2[:, 0] < margin).sum())

    def with_labels(self, labels: tuple[str, ...]) -> Answers:
        """The same answers with the same labels in another order."""
        at = [self.labels.index(label) for label in labels]
        arrays = {f.name: getattr(self, f.name)[:, at] for f in fields(self) if f.name.endswith("_NL")}
        return replace(self, labels=labels, **arrays)

    def take(self, rows: NDArray[Any]) -> Answers:
        """Those of some texts: a mask, or indices."""
        arrays = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name.endswith(("_N", "_NL"))}
        return replace(self, **arrays)


def answer_table(classifier: Classifier, table: Table, *, out_of_scope_label: str | None = None) -> Answers:
    """Runs a classifier over rows in memory. Blocks.

    Nothing is true of rows that have the out-of-scope label.

    Raises:
        ConfigError: a label that the model does not have, or rows with several labels for a model of one.
        ModelError: scores that are not finite.
    """
    labels = classifier.labels
    known = labels if out_of_scope_label is None else (*labels, out_of_scope_label)
    check_known_labels(table, known, known_from=f"the model {classifier.name}")
    if table.multi_label and classifier.problem_type == SINGLE_LABEL:
        fix = "give rows with one label, in a column label"
        raise ConfigError(f"{table.source} has several labels a text, {classifier.name} gives just one; {fix}")
    true_NL = truth(table, known)[:, : len(labels)]
    if classifier.tokenizer_key is None:
        lengths_N, unit = np.array([len(text) for text in table.texts], dtype=np.intp), "characters"
        truncated_N = classifier.overlong(table.texts)
    else:
        tokens = classifier.encode(table.texts)
        lengths_N, unit, truncated_N = np.asarray(tokens.lengths_N, np.intp), "tokens", tokens.truncated_N
    raw_NL = _answered(classifier, table.texts)
    predictions = classifier.decide(raw_NL, truncated_N)
    if predictions.invalid_N.any():
        num_invalid = int(predictions.invalid_N.sum())
        raise ModelError(f"{classifier.name} gave scores that are not finite for {num_invalid} of {len(table)} texts")
    predicted_NL = predictions.passing_NL
    if predicted_NL is None:
        predicted_NL = one_hot(predictions.label_indices_N, len(labels))
    return Answers(
        labels=labels,
        problem_type=classifier.problem_type,
        logits_NL=raw_NL,
        p_NL=predictions.probabilities_NL,
        true_NL=true_NL,
        predicted_NL=predicted_NL,
        scores_N=predictions.scores_N,
        accepted_N=predictions.accepted_N,
        lengths_N=lengths_N,
        length_unit=unit,
        truncated_N=truncated_N,
    )


def _answered(classifier: Classifier, texts: Sequence[str]) -> NDArray[Any]:
    """What `Classifier.answer` gives, with a bar; a few texts at once."""
    if len(texts) <= _CHUNK:
        return classifier.answer(texts)
    chunks = []
    with bar(len(texts), "answering", unit="text") as progress:
        for start in range(0, len(texts), _CHUNK):
            chunks.append(classifier.answer(texts[start : start + _CHUNK]))
            progress.update(len(chunks[-1]))
    return np.concatenate(chunks)


def truth(table: Table, labels: Sequence[str]) -> NDArray[np.bool_]:
    """Which labels are right, bool `[N, L]`.

    Raises:
        ConfigError: a label that is not among `labels`.
    """
    targets = label_targets(table, labels)
    return targets > 0 if table.multi_label else one_hot(targets.astype(np.intp), len(labels))


def one_hot(indices_N: NDArray[np.intp], num_labels: int) -> NDArray[np.bool_]:
    """Bool `[N, L]`, True at the index of each row."""
    hot_NL: NDArray[np.bool_] = indices_N[:, None] == np.arange(num_labels)
    return hot_NL
