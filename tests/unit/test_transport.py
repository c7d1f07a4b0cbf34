"""The batch consumer without a broker: what it commits when it lets go of its partitions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from types import SimpleNamespace
from typing import Any

import faust
import pytest
from faust import types
from faust.types.tuples import Message

from stream_classifier.stream.intake import Intake
from stream_classifier.stream.record_batch import RecordBatch
from stream_classifier.stream.transport import BatchConsumer, BatchTransport
from tests.plugins.records import record

TP = types.TP("texts", 0)


class Consumer(BatchConsumer):
    """Commits into a list; each commit waits until `proceed` is set."""

    def prepare(self) -> None:
        self.commits: list[dict[Any, int]] = []
        self.committing = asyncio.Event()
        self.proceed = asyncio.Event()

    async def _commit_offsets(self, offsets: Mapping[Any, int], start_new_transaction: bool = True) -> bool:
        self.committing.set()
        await self.proceed.wait()
        self.commits.append(dict(offsets))
        return True


class Transport(BatchTransport):
    Consumer = Consumer


@pytest.fixture
async def consumer(tmp_path: Any) -> AsyncIterator[Consumer]:
    app = faust.App("app", broker="kafka://127.0.0.1:1", datadir=str(tmp_path), store="memory://")
    transport = Transport(app.conf.broker_consumer, app, intake=Intake(topics={"texts"}))
    made = transport.create_consumer(callback=_nothing, on_partitions_revoked=_nothing, on_partitions_assigned=_nothing)
    assert isinstance(made, Consumer)
    made.prepare()
    yield made
    made._thread.thread_loop.close()


async def _nothing(*args: Any) -> None:
    """Takes no message."""


def read(consumer: Consumer, first: int, last: int) -> Message:
    """A batch in the message that Faust puts into its agent's queue."""
    run = [record(offset) for offset in range(first, last + 1)]
    return consumer._to_message(TP, RecordBatch("texts", 0, run))


def hand_on(consumer: Consumer, first: int, last: int) -> RecordBatch:
    """A batch that the agent took from its queue."""
    return consumer.hand_on(read(consumer, first, last))


async def test_what_is_delivered_while_a_commit_runs_is_committed_before_letting_go(consumer: Consumer) -> None:
    first, second = hand_on(consumer, 0, 9), hand_on(consumer, 10, 14)
    consumer.finish(first)
    timer = asyncio.ensure_future(consumer.commit())
    await consumer.committing.wait()
    letting_go = asyncio.ensure_future(consumer._let_go([TP], 5.0))
    consumer.finish(second)
    consumer.proceed.set()
    await letting_go
    await timer
    assert consumer.commits == [{TP: 10}, {TP: 15}]
    assert consumer.watermark.partitions == []


async def test_a_fetch_that_ends_after_the_flow_was_stopped_leaves_what_is_delivered_to_be_committed(
    consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop and a rebalance stop the flow, wait for the fetcher, and commit then."""
    fetching, fetched = asyncio.Event(), asyncio.Event()
    sought: list[str] = []

    async def fetch(*args: Any) -> dict[Any, Any]:
        fetching.set()
        await fetched.wait()
        return {TP: [record(10)]}

    async def seek_to_committed() -> dict[Any, int | None]:
        sought.append("to committed")
        return {TP: None}

    async def put_back(records: dict[Any, Any]) -> None:
        sought.extend(f"to {run[0].offset}" for run in records.values())
        consumer.resume_flow()  # what is put back is not handed on too

    monkeypatch.setattr(consumer._thread, "put_back", put_back)
    monkeypatch.setattr(consumer._thread, "getmany", fetch)
    monkeypatch.setattr(consumer._thread, "seek_to_committed", seek_to_committed)
    monkeypatch.setattr(consumer, "assignment", lambda: {TP})
    monkeypatch.setattr(consumer, "_get_active_partitions", lambda: {TP})
    consumer.proceed.set()
    consumer.finish(hand_on(consumer, 0, 9))
    consumer.resume_flow()
    reading = asyncio.ensure_future(_all(consumer.getmany(1.0)))
    await fetching.wait()
    consumer.stop_flow()
    fetched.set()
    assert await reading == []
    assert sought == ["to 10"]
    await consumer._let_go([TP], 5.0)
    assert consumer.commits == [{TP: 10}]


@pytest.mark.parametrize(
    ("position", "sought"),
    [(None, []), (7, []), (10, []), (13, [("texts", 0, 10)])],
    ids=["not assigned", "somebody went back further", "where it was", "behind what was fetched"],
)
async def test_what_was_fetched_and_not_handed_on_is_fetched_again(
    consumer: Consumer, monkeypatch: pytest.MonkeyPatch, position: int | None, sought: list[Any]
) -> None:
    state = None if position is None else SimpleNamespace(has_valid_position=True, position=position)
    assignment = SimpleNamespace(tps=[] if state is None else [TP], state_value=lambda tp: state)
    seeks: list[Any] = []
    reader = SimpleNamespace(
        _subscription=SimpleNamespace(subscription=SimpleNamespace(assignment=assignment)),
        seek=lambda tp, offset: seeks.append((tp.topic, tp.partition, offset)),
    )
    monkeypatch.setattr(consumer._thread, "_ensure_consumer", lambda: reader)
    await consumer._thread._put_back({TP: [record(10), record(11)], types.TP("texts", 1): [record(0)]})
    assert seeks == sought


async def _all(messages: AsyncIterator[Any]) -> list[Any]:
    return [message async for message in messages]


async def test_what_is_not_delivered_in_time_is_dropped_and_not_committed(consumer: Consumer) -> None:
    first, second = hand_on(consumer, 0, 9), hand_on(consumer, 10, 14)
    consumer.finish(first)
    consumer.proceed.set()
    await consumer._let_go([TP], 0.0)
    assert consumer.commits == [{TP: 10}]
    assert second.span.dropped
    assert consumer.intake.budget.records == 0


@pytest.mark.parametrize(("stopped", "in_time"), [("before", False), ("meanwhile", True), ("after", True)])
async def test_a_rebalance_that_takes_too_long_makes_no_failure_of_a_stop(
    consumer: Consumer, stopped: str, in_time: bool
) -> None:
    hand_on(consumer, 0, 9)
    consumer.proceed.set()
    if stopped == "before":
        consumer.app._stopped.set()
    letting_go = asyncio.ensure_future(consumer._let_go([TP], 0.05))
    await asyncio.sleep(0.01)
    if stopped == "meanwhile":
        consumer.app._stopped.set()
    await letting_go
    consumer.app._stopped.set()
    await consumer._let_go([TP], 0.05)
    assert consumer.drained_in_time is in_time


async def test_a_commit_that_hangs_holds_a_stop_up_for_no_longer_than_its_time(consumer: Consumer) -> None:
    consumer.finish(hand_on(consumer, 0, 9))
    consumer.app._stopped.set()
    await asyncio.wait_for(consumer._let_go([TP], 0.05), 5.0)
    assert consumer.commits == []
    assert not consumer.drained_in_time, "the broker is gone: exit code 1"
    consumer.proceed.set()


async def test_a_commit_that_fails_is_not_overheard(consumer: Consumer, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail() -> None:
        raise OSError("gone")

    monkeypatch.setattr(consumer, "_commit_delivered", fail)
    with pytest.raises(OSError, match="gone"):
        await consumer._let_go([TP], 5.0)


async def test_a_rebalance_while_stopping_lets_go_and_leaves_the_closing_to_the_stop(
    consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As stock's callbacks do when the app stops, and as the consumer is when they do so: open."""

    async def close(*args: Any) -> None:
        consumer.close()

    joined = SimpleNamespace(_closed=False, _client=None, _coordinator=None)
    monkeypatch.setattr(consumer, "_on_partitions_revoked", close)
    monkeypatch.setattr(consumer, "_on_partitions_assigned", close)
    monkeypatch.setattr(consumer._thread, "_consumer", joined)
    monkeypatch.setattr(consumer, "pause_partitions", lambda tps: None)
    consumer.finish(hand_on(consumer, 0, 9))
    consumer.proceed.set()
    consumer.app._stopped.set()
    await consumer.on_partitions_revoked({TP})
    assert consumer.commits == [{TP: 10}]
    await consumer.on_partitions_assigned({TP})
    assert not joined._closed


async def test_the_group_is_not_asked_about_once_the_consumer_stops(
    consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread ends then, and the event loop in it."""

    class Joined:
        _coordinator = Any

    monkeypatch.setattr(consumer._thread, "_consumer", Joined)
    consumer._thread.thread_loop.close()
    consumer._stopped.set()
    await consumer.check_group()


async def test_a_consumer_whose_thread_has_crashed_stops_without_another_error(consumer: Consumer) -> None:
    consumer._thread._started.set()
    consumer._thread.thread_loop.close()
    await consumer._thread.stop()


async def test_offsets_of_partitions_that_were_let_go_of_meanwhile_are_no_reason_to_crash(
    consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer._thread, "assignment", set)
    assert not await consumer._thread._commit({TP: 10})
    assert not consumer._thread.crashed


async def test_a_batch_still_in_the_agents_queue_holds_nothing_up(consumer: Consumer) -> None:
    worked_on = hand_on(consumer, 0, 9)
    queued = read(consumer, 10, 14).value  # Faust empties the queue before it lets go: nobody will ever finish this one
    consumer.finish(worked_on)
    consumer.proceed.set()
    await consumer._let_go([TP], 60.0)
    assert consumer.commits == [{TP: 10}]
    assert queued.span.dropped
    assert consumer.drained_in_time


async def test_nothing_is_read_between_an_assignment_and_its_seek_where_nothing_was_assigned_before(
    consumer: Consumer,
) -> None:
    assert consumer.flow_active
    await consumer.on_partitions_revoked(set())
    assert not consumer.flow_active
    assert not consumer.app.flow_control.is_active()


@pytest.mark.parametrize(("offset_reset", "beginning", "end"), [("earliest", [0, 2], {}), ("latest", [2], {0: 9})])
async def test_a_seek_takes_partitions_without_a_committed_offset_back_to_where_they_begin(
    consumer: Consumer, monkeypatch: pytest.MonkeyPatch, offset_reset: str, beginning: list[int], end: dict[int, int]
) -> None:
    """Records fetched in a rebalance are thrown away, and aiokafka's own seek leaves these partitions behind them."""
    committed = {types.TP("texts", 0): None, types.TP("texts", 1): 7, types.TP("texts", 2): 0}
    changelog = {types.TP("app-table-changelog", 0): None}
    begun: list[int] = []
    calls: list[tuple[str, dict[int, int]]] = []

    async def seek_to_committed() -> dict[Any, int | None]:
        return {**committed, **changelog}

    async def seek_to_beginning(*partitions: Any) -> None:
        begun.extend(partition.partition for partition in partitions)

    async def end_offsets(partitions: Any) -> dict[Any, int]:
        return dict.fromkeys(partitions, 9)

    def keep(name: str) -> Any:
        async def called(offsets: Any) -> None:
            calls.append((name, {tp.partition: offset for tp, offset in offsets.items()}))

        return called

    monkeypatch.setattr(consumer._thread, "seek_to_committed", seek_to_committed)
    monkeypatch.setattr(consumer._thread, "seek_to_beginning", seek_to_beginning)
    monkeypatch.setattr(consumer._thread, "end_offsets", end_offsets)
    monkeypatch.setattr(consumer._thread, "seek_wait", keep("seek"))
    monkeypatch.setattr(consumer._thread, "commit", keep("commit"))
    monkeypatch.setattr(consumer, "assignment", lambda: {*committed, *changelog})
    consumer.app.conf.consumer_auto_offset_reset = offset_reset
    await consumer.perform_seek()
    assert sorted(begun) == beginning
    assert calls == ([("seek", end), ("commit", end)] if end else [])
