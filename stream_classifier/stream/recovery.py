"""Run a model so that one bad text, or too little memory, never takes its batch-mates along.

An out-of-memory batch is halved, and the size that worked is remembered. Any other failure is bisected down to the text
that causes it: one failing text costs at most 2·log2(batch) further calls. Before a text is blamed, the model is asked a
probe, a text it answered before: if that fails too, the model is broken and nothing becomes a dead letter.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from stream_classifier.errors import ModelError, RecordError, TransientError
from stream_classifier.model.protocols import TokenBatch

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Answer", "Recovery", "Work", "encode_each"]

logger = logging.getLogger(__name__)


class Work(Protocol):
    """N texts, as they are or as tokens (`TokenBatch` is one)."""

    def __len__(self) -> int: ...

    def take(self, indices: Sequence[int] | NDArray[Any]) -> Self:
        """The texts at these indices, in that order."""


W = TypeVar("W", bound=Work)


@dataclass(slots=True)
class Answer:
    """Scores of N texts.

    Attributes:
        scores_NL: float `[N, labels]`; rows of failed texts hold NaN.
        failures: row → why that text has no scores.
    """

    scores_NL: NDArray[Any]
    failures: dict[int, RecordError] = field(default_factory=dict)


class Recovery(Generic[W]):
    """One model's calls, made safe. Used by the inference thread alone.

    Args:
        call: N texts to scores `[N, labels]`.
        num_labels: the width of the scores.
        probe: a work of one text that the model has answered.
        on_retry: called with "out_of_memory" or "bisect" for each further call.
    """

    def __init__(
        self,
        call: Callable[[W], NDArray[Any]],
        *,
        num_labels: int,
        probe: W,
        on_retry: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._call = call
        self._num_labels = num_labels
        self._probe = probe
        self._on_retry = on_retry
        self.max_texts: int | None = None

    def answer(self, work: W) -> Answer:
        """Scores of all texts, or why a text has none.

        Raises:
            ModelError: the model fails on its probe too.
        """
        limit = self.max_texts
        if limit is not None and len(work) > limit:
            cuts = range(0, len(work), limit)
            return self._join([self.answer(work.take(range(i, min(i + limit, len(work))))) for i in cuts])
        try:
            scores = self._call(work)
        except TransientError as error:
            if len(work) == 1:
                return self._blame(error)
            self.max_texts = max(1, len(work) // 2)
            logger.warning("out of memory on %d texts: going on with %d at most", len(work), self.max_texts)
            self._on_retry("out_of_memory")
            return self.answer(work)
        except Exception as error:  # noqa: BLE001 - whatever a model raises is bisected to the text that causes it
            if len(work) == 1:
                return self._blame(error)
            return self._halve(work)
        return self._checked(work, scores)

    def empty(self) -> Answer:
        """The answer to no texts."""
        return Answer(np.empty((0, self._num_labels)))

    def _halve(self, work: W) -> Answer:
        middle = len(work) // 2
        answers = []
        for start, stop in ((0, middle), (middle, len(work))):
            self._on_retry("bisect")
            answers.append(self.answer(work.take(range(start, stop))))
        return self._join(answers)

    def _checked(self, work: W, scores: NDArray[Any]) -> Answer:
        if scores.shape != (len(work), self._num_labels):
            raise ModelError(
                f"the model answered scores of shape {scores.shape} for {len(work)} texts and {self._num_labels} labels"
            )
        finite = np.isfinite(scores).all(axis=1)
        if finite.all():
            self._probe = work.take([len(work) - 1])
            return Answer(scores)
        self._require_working_model("scores that are not finite")
        error = RecordError("infer", "NonFiniteScores", "the model's scores are not finite numbers")
        return Answer(scores, {int(row): error for row in np.flatnonzero(~finite)})

    def _blame(self, error: Exception) -> Answer:
        self._require_working_model(type(error).__name__, error)
        scores = np.full((1, self._num_labels), np.nan)
        name = type(error).__name__
        return Answer(scores, {0: RecordError("infer", name, f"the model fails on this text: {name}")})

    def _require_working_model(self, seen: str, cause: Exception | None = None) -> None:
        try:
            works = bool(np.isfinite(self._call(self._probe)).all())
        except Exception as error:  # noqa: BLE001 - any failure of the probe means the same
            works, cause = False, error
        if not works:
            raise ModelError(f"the model fails ({seen}), and on a text it answered before too: it is broken") from cause

    @staticmethod
    def _join(answers: list[Answer]) -> Answer:
        failures: dict[int, RecordError] = {}
        start = 0
        for answer in answers:
            failures.update({start + row: error for row, error in answer.failures.items()})
            start += len(answer.scores_NL)
        return Answer(np.concatenate([answer.scores_NL for answer in answers]), failures)


def encode_each(
    encode: Callable[[Sequence[str]], TokenBatch], texts: Sequence[str]
) -> tuple[TokenBatch, dict[int, RecordError]]:
    """Tokens of all texts, and which could not be tokenized; those stand as empty texts.

    Raises:
        ModelError: the tokenizer fails on the empty text too.
    """
    try:
        return encode(texts), {}
    except Exception:  # noqa: BLE001 - one text at a time shows which it was
        failures: dict[int, RecordError] = {}
        batches = []
        for row, text in enumerate(texts):
            try:
                batches.append(encode([text]))
            except Exception as error:  # noqa: BLE001 - blamed on the text, once the tokenizer is known to work
                name = type(error).__name__
                failures[row] = RecordError("tokenize", name, f"the tokenizer fails on this text: {name}")
                batches.append(_encode_empty(encode, error))
        return TokenBatch.concatenate(batches), failures


def _encode_empty(encode: Callable[[Sequence[str]], TokenBatch], cause: Exception) -> TokenBatch:
    try:
        return encode([""])
    except Exception:  # noqa: BLE001 - any failure means the same
        raise ModelError(
            f"the tokenizer fails ({type(cause).__name__}), and on an empty text too: it is broken"
        ) from cause
