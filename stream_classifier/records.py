"""The values that travel: what is read, what a model says of it, what is written.

Plain values without behaviour of their own, shared by the stream, the command line and training.
The letter of the records is in docs/reference/records.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

__all__ = [
    "ACCEPTED",
    "UNCERTAIN",
    "Header",
    "LabelScore",
    "OutputRecord",
    "Prediction",
    "SourceRecord",
    "result_record",
]

ACCEPTED = "accepted"
UNCERTAIN = "uncertain"

Header = tuple[str, bytes]


class SourceRecord(Protocol):
    """A record as it was read; aiokafka's ConsumerRecord is one. `timestamp`: ms since 1970; -1 or None for none."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int | None: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


OutputRecord = tuple["bytes | None", "bytes | None", "int | None", list[Header]]
"""A record to produce: (key, value, timestamp in ms or None for the current time, headers).

A plain tuple: there is one for every result, and a named one takes 0.3 µs more to make.
"""


class LabelScore(NamedTuple):
    """A label with its probability in 0-1."""

    label: str
    score: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a classifier says of one text.

    Attributes:
        label: the most probable label (or the positive one, where the model has an operating point).
        score: its probability in 0-1, not rounded.
        decision: "accepted" or "uncertain".
        scores: the best `top_k` labels, best first; ties go to the lower label index.
        labels: multi-label models only: all labels that reach their threshold, best first; else None.
        requires_clarification: task "intent" only: whether the decision is uncertain; else None.
        sentiment_score: task "sentiment" only: the probability of the positive label; else None.
        truncated: whether the text was longer than the model reads.
    """

    label: str
    score: float
    decision: str
    scores: tuple[LabelScore, ...]
    labels: tuple[LabelScore, ...] | None = None
    requires_clarification: bool | None = None
    sentiment_score: float | None = None
    truncated: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The prediction's part of a result record, keys in the documented order."""
        result: dict[str, Any] = {
            "label": self.label,
            "score": self.score,
            "decision": self.decision,
            "scores": [{"label": label, "score": score} for label, score in self.scores],
        }
        if self.labels is not None:
            result["labels"] = [{"label": label, "score": score} for label, score in self.labels]
        if self.requires_clarification is not None:
            result["requires_clarification"] = self.requires_clarification
        if self.sentiment_score is not None:
            result["sentiment_score"] = self.sentiment_score
        if self.truncated:
            result["truncated"] = True
        return result


def result_record(
    prediction: Mapping[str, Any],
    *,
    classifier: str,
    task: str,
    model: Mapping[str, Any],
    source: Mapping[str, Any],
    passthrough: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A result record, keys in the documented order.

    Args:
        prediction: as `Prediction.as_dict` gives it.
        model: `name` and `digest`.
        source: where the text came from: topic, partition, offset and timestamp, or a line of a file.
        passthrough: fields of the source; None for none.
    """
    return {
        "classifier": classifier,
        "task": task,
        **prediction,
        "passthrough": passthrough or {},
        "model": model,
        "source": source,
    }
