"""What was decided for a batch of texts: columns inside, a Prediction or a dict a text outside.

Made by `decision`. Turning columns into rows is on the way of every record, so it is done once for all rows of a batch:
numpy hands over lists, and no row touches numpy again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_classifier.errors import RecordError
from stream_classifier.records import ACCEPTED, UNCERTAIN, LabelScore, Prediction

__all__ = ["Predictions", "best_first"]

# Sorting whole rows for their best 5 labels takes 0.13 µs a row for 20 labels, but 1 for 50 and 5 for 150; five passes
# of argmax take 0.2 to 0.3. They lose where k nears a third of the labels.
_MAX_SORTED_LABELS = 20

# N: texts, L: labels, K: labels shown of each text


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """Decisions on N texts; `len()`, iterating and indexing give a Prediction for each.

    Attributes:
        labels: the model's, in the order of its logits.
        task: "intent" and "sentiment" add a field of their own to each row.
        probabilities_NL: float64, not rounded.
        label_indices_N: the label decided on, -1 in invalid rows.
        scores_N: its probability, NaN in invalid rows.
        accepted_N: False in uncertain and in invalid rows.
        invalid_N: rows whose scores are not finite; they have no Prediction.
        truncated_N: texts longer than the model reads.
        top_k: how many labels each row shows; -1 for all.
        passing_NL: multi-label models only: which labels reach their threshold; else None.
        positive_index: the label of the sentiment score; None for other tasks.
    """

    labels: tuple[str, ...]
    task: str
    probabilities_NL: NDArray[np.float64]
    label_indices_N: NDArray[np.intp]
    scores_N: NDArray[np.float64]
    accepted_N: NDArray[np.bool_]
    invalid_N: NDArray[np.bool_]
    truncated_N: NDArray[np.bool_]
    top_k: int
    passing_NL: NDArray[np.bool_] | None = None
    positive_index: int | None = None

    def __len__(self) -> int:
        return len(self.scores_N)

    def __getitem__(self, row: int) -> Prediction:
        """The prediction of one text; negative rows count from the end.

        Raises:
            IndexError: there is no such row.
            RecordError: the row is invalid.
        """
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        return next(iter(self.take([row])))

    def __iter__(self) -> Iterator[Prediction]:
        """The predictions in the order of the texts.

        Raises:
            RecordError: at the first invalid row.
        """
        return map(_prediction, self.as_dicts())

    def take(self, rows: Sequence[int] | NDArray[Any]) -> Predictions:
        """The decisions on the texts at `rows`, in that order; a boolean mask works too."""
        at = np.asarray(rows)
        if at.dtype != np.bool_:
            at = at.astype(np.intp)
        return Predictions(
            self.labels,
            self.task,
            self.probabilities_NL[at],
            self.label_indices_N[at],
            self.scores_N[at],
            self.accepted_N[at],
            self.invalid_N[at],
            self.truncated_N[at],
            self.top_k,
            None if self.passing_NL is None else self.passing_NL[at],
            self.positive_index,
        )

    def as_dicts(self) -> list[dict[str, Any]]:
        """Each row as `Prediction.as_dict` gives it, an empty dict for an invalid one; new objects at every call."""
        names = self.labels
        decisions = [ACCEPTED if accepted else UNCERTAIN for accepted in self.accepted_N.tolist()]
        label_column = [names[index] for index in self.label_indices_N.tolist()]
        rows: list[dict[str, Any]] = [
            {"label": label, "score": score, "decision": decision, "scores": scores}
            for label, score, decision, scores in zip(
                label_column, self.scores_N.tolist(), decisions, self._score_lists(), strict=True
            )
        ]
        # From here on a pass for each further field, in the documented order of the keys.
        if self.passing_NL is not None:
            for row, passing in zip(rows, self._passing_lists(self.passing_NL), strict=True):
                row["labels"] = passing
        if self.task == "intent":
            for row, accepted in zip(rows, self.accepted_N.tolist(), strict=True):
                row["requires_clarification"] = not accepted
        if self.positive_index is not None:
            for row, score in zip(rows, self.probabilities_NL[:, self.positive_index].tolist(), strict=True):
                row["sentiment_score"] = score
        for index in np.flatnonzero(self.truncated_N).tolist():
            rows[index]["truncated"] = True
        for index in np.flatnonzero(self.invalid_N).tolist():
            rows[index] = {}
        return rows

    def _score_lists(self) -> Iterator[list[dict[str, Any]]]:
        """The best `top_k` labels of each row. Built column by column: one comprehension a rank, none a row."""
        order_NK = best_first(self.probabilities_NL, len(self.labels) if self.top_k < 0 else self.top_k)
        if not order_NK.shape[1]:
            return ([] for _ in range(len(self)))
        scores_NK = np.take_along_axis(self.probabilities_NL, order_NK, axis=1)
        names = self.labels
        ranks = [
            [{"label": names[index], "score": score} for index, score in zip(indices, scores, strict=True)]
            for indices, scores in zip(order_NK.T.tolist(), scores_NK.T.tolist(), strict=True)
        ]
        return map(list, zip(*ranks, strict=True))

    def _passing_lists(self, passing_NL: NDArray[np.bool_]) -> Iterator[list[dict[str, Any]]]:
        """The labels of each row that reach their threshold, best first."""
        order_NL = best_first(self.probabilities_NL, len(self.labels))
        rows, ranks = np.nonzero(np.take_along_axis(passing_NL, order_NL, axis=1))
        indices = order_NL[rows, ranks]
        entries = [
            {"label": self.labels[index], "score": score}
            for index, score in zip(indices.tolist(), self.probabilities_NL[rows, indices].tolist(), strict=True)
        ]
        ends = np.cumsum(passing_NL.sum(axis=1)).tolist()
        return (entries[start:end] for start, end in zip([0, *ends], ends, strict=False))


def best_first(probabilities_NL: NDArray[np.float64], k: int) -> NDArray[np.intp]:
    """Indices of the `k` best labels of each row (all when fewer), best first, ties in the order of the labels.

    >>> best_first(np.array([[0.2, 0.4, 0.4]]), 2).tolist()
    [[1, 2]]
    """
    num_texts, num_labels = probabilities_NL.shape
    k = min(k, num_labels)
    if num_labels == 2:
        first_N = (probabilities_NL[:, 1] > probabilities_NL[:, 0]).astype(np.intp)
        return np.stack([first_N, 1 - first_N], axis=1)[:, :k]
    if num_labels <= _MAX_SORTED_LABELS or 3 * k > num_labels:
        return np.argsort(-probabilities_NL, axis=1, kind="stable")[:, :k]
    # argmax takes the first of equals, as the rule wants; argpartition would not.
    order_NK = np.empty((num_texts, k), dtype=np.intp)
    left_NL = probabilities_NL.copy()
    every_N = np.arange(num_texts)
    for rank in range(k):
        order_NK[:, rank] = left_NL.argmax(axis=1)
        left_NL[every_N, order_NK[:, rank]] = -np.inf
    return order_NK


def _prediction(row: dict[str, Any]) -> Prediction:
    if not row:
        raise RecordError("decide", "NonFiniteScores", "the model's scores for this text are not finite numbers")
    passing = row.get("labels")
    return Prediction(
        label=row["label"],
        score=row["score"],
        decision=row["decision"],
        scores=_label_scores(row["scores"]),
        labels=None if passing is None else _label_scores(passing),
        requires_clarification=row.get("requires_clarification"),
        sentiment_score=row.get("sentiment_score"),
        truncated=row.get("truncated", False),
    )


def _label_scores(entries: list[dict[str, Any]]) -> tuple[LabelScore, ...]:
    return tuple(LabelScore(entry["label"], entry["score"]) for entry in entries)
