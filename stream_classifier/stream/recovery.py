"""Run a model so that one bad text, or too little memory, never takes its batch-mates along.

A batch that runs out of memory is run in halves, and the size that was too much is remembered. Any other failure is
bisected down to the text that causes it: one failing text costs at most 2·log2(batch) further calls. Before a text is
blamed, the model is asked a probe, a text it answered before: if that fails too, the model is broken and nothing
becomes a dead letter.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from stream_classifier.errors import FatalError, ModelError, RecordError, TransientError
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
        scores_NL: float `[N, labels]`; rows of failed texts are not finite.
        failures: row → why that text has no scores.
        queued_s: how long the first of them waited for the model.
        ran_s: from then until the last one was answered.
    """

    scores_NL: NDArray[Any]
    failures: dict[int, RecordError] = field(default_factory=dict)
    queued_s: float = 0.0
    ran_s: float = 0.0


class Recovery(Generic[W]):
    """One model's calls, made safe. Used by the inference thread alone.

    Args:
        call: N texts to scores `[N, labels]`.
        num_labels: the width of the scores.
        probe: a work of one text that the model has answered.
        on_retry: called with "out_of_memory" or "bisect" for each batch that is run again in parts.

    Attributes:
        max_size: padded tokens (texts, for models that do not tokenize) of one call, once memory has run out.
        pass_started: `time.monotonic()` of the call that runs now; None between calls. Safe to read from any thread.
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
        self.max_size: int | None = None
        self.pass_started: float | None = None

    def answer(self, work: W) -> Answer:
        """Scores of all texts, or why a text has none.

        Raises:
            ModelError: the model fails on its probe too, or answers something that is no scores.
        """
        num_texts = len(work)
        size = _size(work)
        if self.max_size is not None and size > self.max_size and num_texts > 1:
            return self._in_parts(work, max(1, self.max_size * num_texts // size))
        scores = self._try(work)
        if not isinstance(scores, Exception):
            return self._checked(work, scores)
        if num_texts == 1:
            return self._blame(scores)
        if isinstance(scores, TransientError):
            self.max_size = max(1, size // 2)
            logger.warning("out of memory on %d texts: going on with half as much at once", num_texts)
            self._on_retry("out_of_memory")
            return self.answer(work)
        self._on_retry("bisect")
        return self._in_parts(work, (num_texts + 1) // 2)

    def empty(self) -> Answer:
        """The answer to no texts."""
        return Answer(np.empty((0, self._num_labels)))

    def _in_parts(self, work: W, num_texts: int) -> Answer:
        starts = range(0, len(work), num_texts)
        return _join([self.answer(work.take(range(at, min(at + num_texts, len(work))))) for at in starts])

    def _try(self, work: W) -> NDArray[Any] | Exception:
        """The scores, or what the model raised. Returned, because memory is freed only outside the `except`."""
        self.pass_started = monotonic()
        try:
            return self._call(work)
        except FatalError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a model raises is bisected to the text that causes it
            _free_memory(error)
            return error
        finally:
            self.pass_started = None

    def _checked(self, work: W, scores: NDArray[Any]) -> Answer:
        if scores.shape != (len(work), self._num_labels) or scores.dtype.kind not in "fiu":
            raise ModelError(
                f"the model answered {scores.dtype} scores of shape {scores.shape} "
                f"for {len(work)} texts and {self._num_labels} labels; it must be numbers of shape [texts, labels]"
            )
        if scores.dtype.kind != "f":
            scores = scores.astype(np.float64)  # a failed batch-mate's NaN has no place among integers
        finite_N = np.isfinite(scores).all(axis=1)
        if finite_N.all():
            self._probe = work.take([len(work) - 1])
            return Answer(scores)
        self._require_working_model("scores that are not finite", None)
        error = RecordError("infer", "NonFiniteScores", "the model's scores are not finite numbers")
        return Answer(scores, {int(row): error for row in np.flatnonzero(~finite_N)})

    def _blame(self, error: Exception) -> Answer:
        name = type(error).__name__
        self._require_working_model(name, error)
        scores = np.full((1, self._num_labels), np.nan)
        return Answer(scores, {0: RecordError("infer", name, f"the model fails on this text: {name}")})

    def _require_working_model(self, seen: str, cause: Exception | None) -> None:
        scores = self._try(self._probe)
        if isinstance(scores, Exception) or not np.isfinite(scores).all():
            raise ModelError(f"the model fails ({seen}), and on a text it answered before too: it is broken") from cause


def encode_each(
    encode: Callable[[Sequence[str]], TokenBatch], texts: Sequence[str]
) -> tuple[TokenBatch, dict[int, RecordError]]:
    """Tokens of all texts, and which could not be tokenized; those stand as empty texts.

    Raises:
        ModelError: the tokenizer fails on the empty text too.
    """
    try:
        return encode(texts), {}
    except Exception as error:  # noqa: BLE001 - halving shows which text it was
        if len(texts) < 2:
            blank = _encode_blank(encode, len(texts), error)
            name = type(error).__name__
            return blank, {
                row: RecordError("tokenize", name, f"the tokenizer fails on this text: {name}")
                for row in range(len(texts))
            }
    middle = len(texts) // 2
    first, failures = encode_each(encode, texts[:middle])
    second, more = encode_each(encode, texts[middle:])
    return TokenBatch.concatenate([first, second]), {**failures, **{middle + row: more[row] for row in more}}


def _encode_blank(encode: Callable[[Sequence[str]], TokenBatch], num_texts: int, cause: Exception) -> TokenBatch:
    try:
        return encode([""]).take(range(num_texts))
    except Exception:  # noqa: BLE001 - any failure means the same
        raise ModelError(
            f"the tokenizer fails ({type(cause).__name__}), and on an empty text too: it is broken"
        ) from cause


def _size(work: Work) -> int:
    """What the memory of a call grows with."""
    return len(work) * int(work.lengths_N.max()) if isinstance(work, TokenBatch) else len(work)


def _join(answers: Sequence[Answer]) -> Answer:
    failures: dict[int, RecordError] = {}
    start = 0
    for answer in answers:
        failures.update({start + row: error for row, error in answer.failures.items()})
        start += len(answer.scores_NL)
    return Answer(np.concatenate([answer.scores_NL for answer in answers]), failures)


def _free_memory(error: BaseException) -> None:
    """Let go of the tensors of a failed call: the frames of its tracebacks hold them, and the next call needs the room.

    See "My out of memory exception handler can't allocate memory" in PyTorch's FAQ.
    """
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__
