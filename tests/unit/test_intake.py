"""What the batch consumer reads: record batches within the budget, and gaps in the offsets that are losses."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import faust
import pytest
from faust import types
from hypothesis import given
from hypothesis import strategies as st

from stream_classifier.stream.budget import Budget
from stream_classifier.stream.fetching import BatchScheduler
from stream_classifier.stream.intake import Intake
from stream_classifier.stream.record_batch import RecordBatch
from stream_classifier.stream.transport import BatchConsumer, BatchTransport
from tests.plugins.records import record

TP = types.TP("texts", 0)
OTHER = types.TP("others", 0)


class Consumer(BatchConsumer):
    """Notes what would be fetched; retention has removed all offsets before `earliest`."""

    earliest = 0

    async def earliest_offsets(self, *partitions: types.TP) -> Mapping[types.TP, int]:
        return dict.fromkeys(partitions, self.earliest)


class Transport(BatchTransport):
    Consumer = Consumer


class Thread:
    """The consumer's thread, as far as fetching goes."""

    def __init__(self) -> None:
        self.fetches: list[tuple[set[types.TP] | None, float, int | None]] = []

    async def getmany(self, partitions: Any, timeout: float, max_records: int | None = None) -> dict[Any, Any]:
        self.fetches.append((partitions, timeout, max_records))
        return {}


@pytest.fixture
async def consumer(tmp_path: Any) -> Consumer:
    app = faust.App("app", broker="kafka://127.0.0.1:1", datadir=str(tmp_path), store="memory://")
    intake = Intake(topics={"texts"}, budget=Budget(10, 1000), max_batch_records=4)
    transport = Transport(app.conf.broker_consumer, app, intake=intake)
    made = transport.create_consumer(callback=_nothing, on_partitions_revoked=_nothing, on_partitions_assigned=_nothing)
    assert isinstance(made, Consumer)
    made._thread.thread_loop.close()
    return made


async def _nothing(*args: Any) -> None:
    """Takes no message."""


def read(consumer: Consumer, first: int, last: int, **options: Any) -> RecordBatch:
    batch = RecordBatch("texts", 0, [record(offset, **options) for offset in range(first, last + 1)])
    consumer._to_message(TP, batch)
    return batch


class TestRecordBatches:
    def test_a_batch_stands_where_its_last_record_does(self) -> None:
        batch = RecordBatch("texts", 3, [record(5, timestamp=50), record(6, timestamp=60), record(9, timestamp=90)])
        assert (batch.first_offset, batch.offset, batch.timestamp, len(batch)) == (5, 9, 90, 3)
        assert batch.value is batch

    def test_its_size_is_that_of_keys_values_and_headers(self) -> None:
        headers = [("name", b"four"), ("null", None)]
        records = [record(0, key=b"12", value=b"345", headers=headers), record(1, key=None, value=None)]  # type: ignore[arg-type]  # Kafka's headers may be null
        assert RecordBatch("texts", 0, records).num_bytes == 2 + 3 + 8 + 4

    @given(
        st.dictionaries(
            st.tuples(st.sampled_from(["texts", "others"]), st.integers(0, 2)), st.integers(0, 11), max_size=6
        ),
        st.integers(1, 5),
    )
    def test_every_record_is_handed_on_once_in_the_order_of_its_partition(
        self, lengths: dict[tuple[str, int], int], max_batch_records: int
    ) -> None:
        fetched = {
            types.TP(topic, partition): [record(i, topic=topic, partition=partition) for i in range(length)]
            for (topic, partition), length in lengths.items()
        }
        scheduler = BatchScheduler(Intake(topics={"texts"}, max_batch_records=max_batch_records))
        got: defaultdict[types.TP, list[Any]] = defaultdict(list)
        turns: defaultdict[types.TP, int] = defaultdict(int)
        for tp, item in scheduler.iterate(fetched):
            if tp.topic == "texts":
                assert isinstance(item, RecordBatch)
                assert (item.topic, item.partition) == tp
                assert len(item) <= max_batch_records
                got[tp] += item.records
                turns[tp] += 1
                unread = [
                    other for other, run in fetched.items() if other.topic == "texts" and got.get(other, []) != run
                ]
                behind = [turns.get(other, 0) for other in unread]
                assert turns[tp] - min(behind, default=turns[tp]) <= 1, "partitions take turns"
            else:
                got[tp].append(item)
        assert dict(got) == {tp: run for tp, run in fetched.items() if run}


class TestTheBudget:
    async def test_no_more_is_fetched_than_there_is_room_for(self, consumer: Consumer) -> None:
        consumer._thread = thread = Thread()  # type: ignore[assignment]  # a fake
        read(consumer, 0, 6)
        await consumer._getmany({TP, OTHER}, 1.0)
        assert thread.fetches == [({TP, OTHER}, 1.0, 3)]

    async def test_without_room_other_topics_are_read_on_and_for_a_moment_only(self, consumer: Consumer) -> None:
        consumer._thread = thread = Thread()  # type: ignore[assignment]  # a fake
        read(consumer, 0, 9)
        await consumer._getmany({TP, OTHER}, 1.0)
        [(partitions, timeout, _)] = thread.fetches
        assert partitions == {OTHER}
        assert timeout <= 0.1

    async def test_without_room_nothing_is_fetched_until_something_is_delivered(self, consumer: Consumer) -> None:
        consumer._thread = thread = Thread()  # type: ignore[assignment]  # a fake
        batch = read(consumer, 0, 9)
        waiting = asyncio.ensure_future(consumer._getmany({TP}, 60.0))
        await asyncio.sleep(0)
        assert not waiting.done()
        consumer.finish(batch)
        assert await waiting == {}
        assert thread.fetches == []

    async def test_what_is_finished_is_given_back_once(self, consumer: Consumer) -> None:
        budget = consumer.intake.budget
        first, second = read(consumer, 0, 3, value=b"x" * 50), read(consumer, 4, 5, value=b"x" * 50)
        assert (budget.records, budget.bytes) == (6, first.num_bytes + second.num_bytes)
        consumer.finish(second)
        consumer.finish(second)
        assert (budget.records, budget.bytes) == (4, first.num_bytes)

    @pytest.mark.parametrize("how", ["drop", "abandon"])
    async def test_what_is_dropped_is_given_back_and_finishing_it_then_does_nothing(
        self, consumer: Consumer, how: str
    ) -> None:
        budget = consumer.intake.budget
        batch = read(consumer, 0, 3)
        consumer.drop([TP]) if how == "drop" else consumer.abandon()  # type: ignore[list-item]  # equal tuples
        assert (budget.records, budget.bytes) == (0, 0)
        consumer.finish(batch)
        assert (budget.records, budget.bytes) == (0, 0)
        assert consumer._new_offset(TP) is None


class TestOffsets:
    async def test_those_of_batch_topics_are_the_watermarks(self, consumer: Consumer) -> None:
        first, second = read(consumer, 0, 3), read(consumer, 4, 5)
        consumer.finish(second)
        assert consumer._new_offset(TP) is None
        consumer.finish(first)
        assert consumer._new_offset(TP) == 6
        assert set(consumer._filter_tps_with_pending_acks()) == {TP}
        assert set(consumer._filter_tps_with_pending_acks({"others"})) == set()

    async def test_a_batch_is_not_acknowledged_as_an_event(self, consumer: Consumer) -> None:
        batch = RecordBatch("texts", 0, [record(0)])
        message = consumer._to_message(TP, batch)
        with pytest.raises(TypeError, match="finish"):
            consumer.ack(message)

    @pytest.mark.parametrize(
        ("earliest", "skipped"),
        [(0, []), (10, []), (11, [1]), (15, [5]), (20, [10]), (500, [10])],
        ids=["a marker or compaction", "nothing lost", "one lost", "some", "all of the gap", "more since"],
    )
    async def test_of_a_gap_only_what_retention_removed_is_reported(
        self, consumer: Consumer, earliest: int, skipped: list[int]
    ) -> None:
        reported: list[tuple[str, int]] = []
        consumer.intake.on_skipped = lambda topic, number: reported.append((topic, number))
        consumer.earliest = earliest
        read(consumer, 6, 9)  # the first of all: whatever was before it was committed, or is not ours to miss
        read(consumer, 20, 21)
        await asyncio.gather(*consumer._gap_checks)
        assert reported == [("texts", number) for number in skipped]

    async def test_offsets_without_a_gap_ask_nothing_of_the_broker(self, consumer: Consumer) -> None:
        read(consumer, 0, 3)
        read(consumer, 4, 5)
        assert not consumer._gap_checks
