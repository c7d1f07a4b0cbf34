"""Micro-batches across record batches: what arrives while the model is busy runs together as soon as it is free.

A request is the texts of one record batch. Requests that wait are planned together (length-sorted under the token
budget; by number for models that do not tokenize) and run one micro-batch after the other on the inference thread: one
runs, the next is queued behind it. While traffic is thin, a request waits up to `max_wait_s` for company.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import accumulate
from time import monotonic
from typing import Any, Generic, Protocol

import numpy as np
from numpy.typing import NDArray

from stream_classifier.errors import RecordError
from stream_classifier.model.packing import pack
from stream_classifier.model.protocols import TokenBatch
from stream_classifier.stream.recovery import Answer, Recovery, W

__all__ = ["Batcher", "Limits", "Observer", "TextList"]

_WINDOW_S = 4.0
"""Work planned at once, by the model's own pace: the more, the less padding and the fewer micro-batches that are not
full (windows of 800 texts take 16 % more of them than 7,000 do), and the longer a text waits for its window's others.
"""
_FIRST_WINDOW = 8
"""Micro-batches planned before the pace is known."""
_SMALLEST_WINDOW = 2
_QUEUED = 2
"""Micro-batches handed to the inference thread at once: one runs, the next is ready when it ends."""


class TextList(list[str]):
    """The texts of a model that does not tokenize."""

    def take(self, indices: Sequence[int] | NDArray[Any]) -> TextList:
        """The texts at these indices, in that order."""
        return TextList([self[i] for i in indices])

    @staticmethod
    def concatenate(lists: Sequence[TextList]) -> TextList:
        """All texts of `lists`, in order."""
        return lists[0] if len(lists) == 1 else TextList(text for texts in lists for text in texts)


@dataclass(frozen=True)
class Limits:
    """What one micro-batch may hold, and how long its texts may wait.

    Attributes:
        max_tokens: padded tokens of a micro-batch (models that tokenize).
        max_records: texts of a micro-batch.
        max_wait_s: how long a text waits for company while traffic is thin.
        timeout_s: a call of the model that takes longer hangs.
    """

    max_tokens: int = 4096
    max_records: int = 256
    max_wait_s: float = 0.005
    timeout_s: float = 60.0


class Observer(Protocol):
    """Hears of every micro-batch that was run; called on the event loop."""

    def micro_batch(self, *, records: int, tokens: int, padded_tokens: int) -> None: ...


@dataclass(eq=False)
class _Request(Generic[W]):
    work: W
    future: asyncio.Future[Answer]
    arrived: float
    remaining: int
    planned: bool = False
    started: float | None = None
    scores_NL: NDArray[Any] | None = None
    failures: dict[int, RecordError] = field(default_factory=dict)

    def fill(
        self, rows: NDArray[np.intp], scores: NDArray[Any], failures: dict[int, RecordError], *, started: float
    ) -> None:
        if self.scores_NL is None or self.started is None:
            self.scores_NL = np.empty((len(self.work), scores.shape[1]), scores.dtype)
            self.started = started  # micro-batches run in their order: the first answered is the first started
        self.scores_NL[rows] = scores
        self.failures.update(failures)
        self.remaining -= len(rows)
        if not self.remaining and not self.future.done():
            self.future.set_result(
                Answer(
                    self.scores_NL,
                    self.failures,
                    queued_s=max(0.0, self.started - self.arrived),
                    ran_s=monotonic() - self.started,
                )
            )

    def give_up(self, failure: Exception | None) -> None:
        """There will be no answer: whoever waits for it gets the failure, or is cancelled where there was none."""
        if self.future.done():
            return
        if failure is None:
            self.future.cancel()
        else:
            self.future.set_exception(failure)
            self.future.exception()  # it stops the worker anyway: not reported again where nobody waits any more


@dataclass(eq=False)
class _MicroBatch(Generic[W]):
    work: W
    rows: NDArray[np.intp]
    """Where its texts stand in the window."""
    requests: list[_Request[W]]
    starts: NDArray[np.intp]
    """Where each request begins in the window."""


class Batcher(Generic[W]):
    """One model's queue.

    Args:
        recovery: runs a micro-batch; used on `thread` alone.
        concatenate: joins the works of several requests.
        thread: the inference thread.
        on_hang: called when a call of the model outlasts `limits.timeout_s`: no thread can be ended, only the process.
    """

    def __init__(
        self,
        recovery: Recovery[W],
        concatenate: Callable[[Sequence[W]], W],
        *,
        thread: Executor,
        limits: Limits,
        observer: Observer,
        on_hang: Callable[[], None],
    ) -> None:
        self._recovery = recovery
        self._concatenate = concatenate
        self._thread = thread
        self._limits = limits
        self._observer = observer
        self._on_hang = on_hang
        self._waiting: deque[_Request[W]] = deque()
        self._planned: deque[_MicroBatch[W]] = deque()
        self._full_s: float | None = None  # what a full micro-batch takes, averaged over the last ones
        self._waiting_texts = 0
        self._waiting_tokens = 0
        self._unanswered: set[_Request[W]] = set()
        self._running: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._ended = False
        self._failure: Exception | None = None

    async def answer(self, work: W) -> Answer:
        """The scores of all texts of `work`, in its order.

        Raises:
            ModelError: the model is broken: what ended `run`. When `run` was cancelled, so is this.
        """
        if not len(work):
            return self._recovery.empty()
        request = _Request(work, asyncio.get_running_loop().create_future(), monotonic(), len(work))
        if self._ended:
            request.give_up(self._failure)
        else:
            self._enqueue(request)
        try:
            return await request.future
        finally:
            if request in self._unanswered and not request.planned:
                self._withdraw(request)
            self._unanswered.discard(request)

    async def run(self) -> None:
        """Keep the inference thread busy until cancelled; nobody waits for an answer for ever after it has ended.

        Raises:
            ModelError: the model is broken.
        """
        try:
            while True:
                await self._until_dispatch()
                task = asyncio.ensure_future(self._execute(self._next()))
                task.add_done_callback(lambda _: self._changed.set())
                self._running.add(task)
                if len(self._running) == _QUEUED:
                    await self._until_one_ends()
        except Exception as error:
            self._failure = error
            raise
        finally:
            self._ended = True
            for task in self._running:
                task.cancel()
            for request in self._unanswered:
                request.give_up(self._failure)
            await asyncio.gather(*self._running, return_exceptions=True)

    async def watch(self) -> None:
        """End the process's work through `on_hang` when a call of the model hangs. Runs until cancelled."""
        timeout_s = self._limits.timeout_s
        while True:
            await asyncio.sleep(min(1.0, timeout_s / 4))
            started = self._recovery.pass_started
            if started is not None and monotonic() - started > timeout_s:
                self._on_hang()

    # When to dispatch -----------------------------------------------------------------------------------------------

    async def _until_dispatch(self) -> None:
        """Until a micro-batch is planned, the budget is full, or the model is idle and its oldest text has waited."""
        while not self._planned:
            self._reap()
            limits = self._limits
            if self._waiting_texts >= limits.max_records or self._waiting_tokens >= limits.max_tokens:
                return
            remaining_s: float | None = None
            if self._waiting and not self._running:
                remaining_s = self._waiting[0].arrived + limits.max_wait_s - monotonic()
                if remaining_s <= 0:
                    return
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), remaining_s)
            except asyncio.TimeoutError:
                continue  # the oldest has waited long enough, unless it was withdrawn at this moment

    async def _until_one_ends(self) -> None:
        await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
        self._reap()

    def _reap(self) -> None:
        for task in [task for task in self._running if task.done()]:
            self._running.discard(task)
            task.result()

    # Planning -------------------------------------------------------------------------------------------------------

    def _enqueue(self, request: _Request[W]) -> None:
        self._unanswered.add(request)
        self._waiting.append(request)
        self._waiting_texts += len(request.work)
        self._waiting_tokens += _num_tokens(request.work)
        self._changed.set()

    def _withdraw(self, request: _Request[W]) -> None:
        """Nobody waits for it any more, and it is not planned yet."""
        self._waiting.remove(request)
        self._waiting_texts -= len(request.work)
        self._waiting_tokens -= _num_tokens(request.work)

    def _next(self) -> _MicroBatch[W]:
        if not self._planned:
            self._plan()
        return self._planned.popleft()

    def _plan(self) -> None:
        """Plan a window: the requests that waited longest, packed together."""
        limits, num_batches = self._limits, self._window_batches()
        requests: list[_Request[W]] = []
        texts = tokens = 0
        while self._waiting and texts < limits.max_records * num_batches and tokens < limits.max_tokens * num_batches:
            request = self._waiting.popleft()
            request.planned = True
            requests.append(request)
            texts += len(request.work)
            tokens += _num_tokens(request.work)
        self._waiting_texts -= texts
        self._waiting_tokens -= tokens
        window = self._concatenate([request.work for request in requests])
        starts = np.fromiter(accumulate((len(request.work) for request in requests), initial=0), dtype=np.intp)
        for rows in self._pack(window):
            if len(rows) == len(window):
                self._planned.append(_MicroBatch(window, np.arange(len(window)), requests, starts))
            else:
                self._planned.append(_MicroBatch(window.take(rows), rows, requests, starts))

    def _window_batches(self) -> int:
        """How many full micro-batches the model answers in `_WINDOW_S`."""
        return _FIRST_WINDOW if self._full_s is None else max(_SMALLEST_WINDOW, int(_WINDOW_S / self._full_s))

    def _note_pace(self, work: W, seconds: float) -> None:
        share = max(len(work) / self._limits.max_records, _num_tokens(work) / self._limits.max_tokens)
        full_s = max(seconds, 1e-6) / share
        self._full_s = full_s if self._full_s is None else 0.9 * self._full_s + 0.1 * full_s

    def _pack(self, window: W) -> list[NDArray[np.intp]]:
        limits = self._limits
        if isinstance(window, TokenBatch):
            return pack(window.lengths_N, max_tokens=limits.max_tokens, max_records=limits.max_records)
        rows = np.arange(len(window))
        return [rows[start : start + limits.max_records] for start in range(0, len(window), limits.max_records)]

    # Running --------------------------------------------------------------------------------------------------------

    async def _execute(self, micro_batch: _MicroBatch[W]) -> None:
        loop = asyncio.get_running_loop()
        answer, started, seconds = await loop.run_in_executor(self._thread, self._run, micro_batch.work)
        self._note_pace(micro_batch.work, seconds)
        self._observe(micro_batch.work)
        self._scatter(micro_batch, answer, started)

    def _run(self, work: W) -> tuple[Answer, float, float]:
        """On the inference thread: the answer, when it was begun, and the seconds it took."""
        started = monotonic()
        answer = self._recovery.answer(work)
        return answer, started, monotonic() - started

    def _observe(self, work: W) -> None:
        tokens = padded = 0
        if isinstance(work, TokenBatch):
            tokens = len(work.input_ids_T)
            padded = len(work) * int(work.lengths_N.max())
        self._observer.micro_batch(records=len(work), tokens=tokens, padded_tokens=padded)

    @staticmethod
    def _scatter(micro_batch: _MicroBatch[W], answer: Answer, started: float) -> None:
        rows, starts = micro_batch.rows, micro_batch.starts
        owners = np.searchsorted(starts, rows, side="right") - 1
        for owner in np.unique(owners):
            mine = np.flatnonzero(owners == owner)
            offset = starts[owner]
            failures = {int(rows[i] - offset): answer.failures[i] for i in answer.failures if owners[i] == owner}
            micro_batch.requests[owner].fill(rows[mine] - offset, answer.scores_NL[mine], failures, started=started)


def _num_tokens(work: object) -> int:
    return len(work.input_ids_T) if isinstance(work, TokenBatch) else 0
