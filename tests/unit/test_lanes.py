"""A lane delivers in the order its batches were read, whatever finishes first, and one delivery at a time."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_classifier.stream.lanes import Lane
from stream_classifier.stream.record_batch import RecordBatch
from stream_classifier.stream.watermark import Span, TopicPartition
from tests.plugins.records import record


def batch(offset: int) -> RecordBatch:
    made = RecordBatch("texts", 0, [record(offset)])
    made.span = Span(TopicPartition("texts", 0), offset, offset, 1, 1)
    return made


async def turns(number: int = 5) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


class Lanes:
    """A lane with batches whose works are finished by hand; `delivered` holds (offset, result) of each delivery."""

    def __init__(self, number: int, deliver: Callable[[], Awaitable[None]] | None = None) -> None:
        self.delivered: list[list[tuple[int, Any]]] = []
        self.lane: Lane[str] = Lane(self._deliver)
        self.batches = [batch(offset) for offset in range(number)]
        self.works: list[asyncio.Future[str]] = [asyncio.get_running_loop().create_future() for _ in range(number)]
        for each, work in zip(self.batches, self.works, strict=True):
            self.lane.append(each, work)
        self._wait = deliver
        self.task = asyncio.ensure_future(self.lane.run())

    async def _deliver(self, ready: list[tuple[RecordBatch, str]]) -> None:
        self.delivered.append([(each.offset, result) for each, result in ready])
        if self._wait is not None:
            await self._wait()

    def finish(self, *offsets: int) -> None:
        for offset in offsets:
            self.works[offset].set_result(f"result {offset}")

    def offsets(self) -> list[list[int]]:
        return [[offset for offset, _ in delivery] for delivery in self.delivered]

    async def end(self) -> None:
        self.lane.cancel()
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(1, 8))
def test_all_is_delivered_once_in_order_whatever_finishes_first(data: st.DataObject, number: int) -> None:
    order = data.draw(st.permutations(range(number)))
    dropped = data.draw(st.sets(st.integers(0, number - 1)))
    pauses = data.draw(st.lists(st.integers(0, 3), min_size=number, max_size=number))

    async def scene() -> None:
        lanes = Lanes(number)
        for offset in dropped:
            lanes.batches[offset].span.dropped = True
        for offset, pause in zip(order, pauses, strict=True):
            lanes.finish(offset)
            await turns(pause)
        await turns(20)
        kept = [offset for offset in range(number) if offset not in dropped]
        delivered = [pair for delivery in lanes.delivered for pair in delivery]
        assert delivered == [(offset, f"result {offset}") for offset in kept]
        assert [] not in lanes.delivered
        await lanes.end()

    asyncio.run(scene())


async def test_nothing_overtakes_the_front() -> None:
    lanes = Lanes(3)
    lanes.finish(1, 2)
    await turns()
    assert lanes.delivered == []
    lanes.finish(0)
    await turns()
    assert lanes.offsets() == [[0, 1, 2]]
    await lanes.end()


async def test_what_gets_ready_during_a_delivery_goes_together_in_the_next() -> None:
    gate = asyncio.Event()
    lanes = Lanes(4, gate.wait)
    lanes.finish(0)
    await turns()
    lanes.finish(3, 1, 2)
    await turns()
    assert lanes.offsets() == [[0]], "one delivery at a time"
    gate.set()
    await turns()
    assert lanes.offsets() == [[0], [1, 2, 3]]
    await lanes.end()


async def test_a_batch_dropped_after_its_work_was_done_produces_nothing() -> None:
    gate = asyncio.Event()
    lanes = Lanes(3, gate.wait)
    lanes.finish(0)
    await turns()
    lanes.finish(1, 2)
    await turns()
    lanes.batches[1].span.dropped = True  # the partition was taken away while the broker was slow
    gate.set()
    await turns()
    assert lanes.offsets() == [[0], [2]]
    await lanes.end()


async def test_a_lane_that_was_empty_goes_on() -> None:
    lanes = Lanes(1)
    lanes.finish(0)
    await turns()
    work: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    lanes.lane.append(batch(7), work)
    await turns()
    work.set_result("late")
    await turns()
    assert lanes.delivered == [[(0, "result 0")], [(7, "late")]]
    await lanes.end()


async def test_a_work_that_raises_stops_the_lane_and_nothing_behind_it_is_delivered() -> None:
    lanes = Lanes(4)
    lanes.finish(0)
    await turns()
    lanes.finish(2, 3)
    lanes.works[1].set_exception(ValueError("broken"))
    with pytest.raises(ValueError, match="broken"):
        await lanes.task
    assert lanes.offsets() == [[0]]


async def test_a_delivery_that_fails_stops_the_lane() -> None:
    async def refuse() -> None:
        raise ConnectionError

    lanes = Lanes(2, refuse)
    lanes.finish(0)
    with pytest.raises(ConnectionError):
        await lanes.task
    lanes.finish(1)
    await turns()
    assert lanes.offsets() == [[0]]


async def test_cancelling_cancels_all_work_that_is_queued() -> None:
    ended: list[int] = []

    async def work(offset: int) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(offset)
        return ""

    lanes = Lanes(0)
    for offset in range(3):
        lanes.lane.append(batch(offset), asyncio.ensure_future(work(offset)))
    await turns()
    await lanes.end()
    await turns()
    assert sorted(ended) == [0, 1, 2]


async def test_failures_behind_the_first_are_not_reported_as_forgotten() -> None:
    """A broken model fails every batch in flight: one line says so, not one for each."""
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

    async def fail(turn: int) -> str:
        try:
            await turns(turn)
        except asyncio.CancelledError:
            raise ValueError("while it was cancelled") from None
        raise ValueError("broken")

    lanes = Lanes(0)
    for offset in range(4):
        lanes.lane.append(batch(offset), asyncio.ensure_future(fail(1 + 5 * offset)))
    with pytest.raises(ValueError, match="broken"):
        await lanes.task
    lanes.lane.cancel()
    await turns()
    del lanes
    gc.collect()
    await turns()
    assert reported == []
