"""Order: what each source partition produces is delivered in its order, one delivery at a time.

Record batches of a partition are worked on side by side and queue here in the order they were read. When the front is
ready it is delivered together with all that is ready behind it, so a slow broker gets larger produce batches instead of
a longer queue, and nothing overtakes a delivery that has to be split or retried.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from stream_classifier.stream.record_batch import RecordBatch

__all__ = ["Lane"]

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class _Entry(Generic[T]):
    batch: RecordBatch
    work: asyncio.Future[T]


class Lane(Generic[T]):
    """The queue of one source partition.

    Args:
        deliver: called with all entries that are ready, in order; returns when they are delivered.
    """

    def __init__(self, deliver: Callable[[list[tuple[RecordBatch, T]]], Awaitable[None]]) -> None:
        self._deliver = deliver
        self._entries: deque[_Entry[T]] = deque()
        self._arrived = asyncio.Event()

    def append(self, batch: RecordBatch, work: asyncio.Future[T]) -> None:
        """Queue a batch behind all others; `work` is what it will produce."""
        self._entries.append(_Entry(batch, work))
        self._arrived.set()

    async def run(self) -> None:
        """Deliver until cancelled. Raises what a work or a delivery raises; the caller then cancels the rest."""
        while True:
            while not self._entries:
                self._arrived.clear()
                await self._arrived.wait()
            await self._entries[0].work
            ready = []
            while self._entries and self._entries[0].work.done():
                entry = self._entries.popleft()
                result = entry.work.result()
                if not entry.batch.span.dropped:
                    ready.append((entry.batch, result))
            if ready:
                await self._deliver(ready)

    def cancel(self) -> None:
        """Cancel all that is queued."""
        for entry in self._entries:
            entry.work.add_done_callback(_look_at)
            entry.work.cancel()
        self._entries.clear()


def _look_at(work: asyncio.Future[Any]) -> None:
    # One failure stops the worker; asyncio need not report those of the batches behind it as forgotten.
    if not work.cancelled():
        work.exception()
