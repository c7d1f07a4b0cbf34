"""Delivery: acknowledged as a whole or stopped for; what a topic refuses a record for is that record's dead letter."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

import pytest
from aiokafka import ConsumerRecord
from aiokafka.errors import (
    CorruptRecordException,
    InvalidMessageError,
    InvalidTimestampError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    NotEnoughReplicasError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_classifier.errors import DeliveryError, RecordError
from stream_classifier.stream.dead_letter import envelope
from stream_classifier.stream.delivery import Delivery, Placement, Refusal, Shipment
from tests.plugins.fake_kafka import FakeKafka
from tests.plugins.records import record

DEAD = "texts.dead-letter"
TOPICS = {"labels": 3, "urgent": 3, DEAD: 3}
HOUR_MS = 3_600_000


def shipment(
    sources: Sequence[ConsumerRecord], topic: str = "labels", partition: int = 0, classifier: str | None = "intent"
) -> Shipment:
    """The records themselves as results."""
    records = [(source.key, source.value, source.timestamp, list(source.headers)) for source in sources]
    return Shipment(topic, partition, records, list(sources), classifier, DEAD)


def letters(sources: Sequence[ConsumerRecord], partition: int = 0) -> Shipment:
    """Dead letters of records that could not be decoded."""
    error = RecordError("decode", "InvalidUtf8", "the value is not UTF-8 at byte 0 of 5: invalid start byte")
    records = [envelope(source, error, ["intent"]) for source in sources]
    return Shipment(DEAD, partition, records, list(sources), None, DEAD)


def sources(number: int, first: int = 0) -> list[ConsumerRecord]:
    return [record(offset, key=b"k%d" % offset, value=b"text %d" % offset) for offset in range(first, first + number)]


async def deliver(kafka: FakeKafka, *shipments: Shipment, **options: int) -> list[Refusal]:
    async with kafka.producer(**options) as producer:
        return await Delivery(Placement("texts", 3, TOPICS)).deliver(producer, shipments)


def keys(kafka: FakeKafka, topic: str, partition: int = 0) -> list[bytes | None]:
    return [key for key, _, _, _ in kafka.log[topic, partition]]


def headers(kafka: FakeKafka, topic: str, partition: int = 0, index: int = 0) -> dict[str, str]:
    return {name: value.decode() for name, value in kafka.log[topic, partition][index][3]}


async def turns(number: int = 20) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


class TestAcknowledged:
    async def test_a_step_is_delivered_when_its_last_partition_has_acknowledged_in_whatever_order(self) -> None:
        kafka = FakeKafka()
        first, second = kafka.hold("labels", 0), kafka.hold("labels", 1)
        delivering = asyncio.ensure_future(deliver(kafka, shipment(sources(3)), shipment(sources(3), partition=1)))
        await turns()
        assert len(kafka.requests) == 2, "no partition waits for another"
        second.set()
        await turns()
        assert len(kafka.log["labels", 1]) == 3
        assert not delivering.done()
        first.set()
        assert await delivering == []

    async def test_it_is_not_delivered_while_a_dead_letter_of_it_is_not(self) -> None:
        kafka = FakeKafka()
        kafka.refuse("labels", MessageSizeTooLargeError(), key=b"k1")
        gate = kafka.hold(DEAD, 0)
        delivering = asyncio.ensure_future(deliver(kafka, shipment(sources(3))))
        await turns(100)
        assert keys(kafka, "labels") == [b"k0", b"k2"]
        assert not delivering.done()
        gate.set()
        assert len(await delivering) == 1

    async def test_shipments_to_one_partition_arrive_in_the_order_given(self) -> None:
        kafka = FakeKafka()
        batches = [shipment(sources(5, first)) for first in (0, 5, 10)]
        await deliver(kafka, *batches, max_batch_bytes=200)
        assert keys(kafka, "labels") == [b"k%d" % i for i in range(15)]

    async def test_nothing_to_send_is_delivered(self) -> None:
        assert await deliver(FakeKafka()) == []


class TestRefusedRecords:
    @pytest.mark.parametrize(
        "error",
        [MessageSizeTooLargeError, RecordListTooLargeError, InvalidMessageError, CorruptRecordException],
    )
    async def test_one_becomes_a_dead_letter_and_its_batch_mates_go_on_in_order(self, error: type[KafkaError]) -> None:
        kafka = FakeKafka()
        kafka.refuse("labels", error(), key=b"k3")
        read = sources(8)
        refusals = await deliver(kafka, shipment(read))
        assert keys(kafka, "labels") == [b"k%d" % i for i in range(8) if i != 3]
        assert [(refusal.classifier, refusal.source.offset) for refusal in refusals] == [("intent", 3)]
        assert (refusals[0].error.stage, refusals[0].error.reason) == ("deliver", error.__name__)
        [(key, value, timestamp, _)] = kafka.log[DEAD, 0]
        assert (key, value, timestamp) == (read[3].key, read[3].value, read[3].timestamp)
        named = headers(kafka, DEAD)
        assert named["__connect.errors.offset"] == "3"
        assert named["__connect.errors.stage"] == "deliver"
        assert named["stream-classifier.classifiers"] == "intent"
        assert "text 3" not in str(named)

    async def test_it_is_found_in_logarithmically_many_requests(self) -> None:
        kafka = FakeKafka()
        kafka.refuse("labels", CorruptRecordException(), key=b"k700")
        await deliver(kafka, shipment(sources(1000)))
        assert len(kafka.requests) <= 2 * 10 + 2

    async def test_one_dead_letter_names_all_classifiers_whose_results_were_refused(self) -> None:
        kafka = FakeKafka()
        kafka.refuse("labels", MessageSizeTooLargeError(), key=b"k1")
        kafka.refuse("urgent", MessageSizeTooLargeError(), key=b"k1")
        read = sources(3)
        refusals = await deliver(
            kafka,
            shipment(read, classifier="topic"),
            shipment(read, classifier="intent"),
            shipment(read, topic="urgent", classifier="intent"),  # a routed copy: the same result once more
        )
        assert sorted((refusal.classifier, refusal.source.offset) for refusal in refusals) == [
            ("intent", 1),
            ("topic", 1),
        ]
        assert keys(kafka, DEAD) == [b"k1"]
        assert headers(kafka, DEAD)["stream-classifier.classifiers"] == "intent,topic"

    async def test_each_goes_to_the_dead_letter_topic_of_its_classifier(self) -> None:
        kafka = FakeKafka()
        kafka.refuse("labels", MessageSizeTooLargeError())
        other = shipment(sources(1), classifier="topic")
        other.dead_letter = "urgent"
        await deliver(kafka, shipment(sources(1)), other)
        assert headers(kafka, DEAD)["stream-classifier.classifiers"] == "intent"
        assert headers(kafka, "urgent")["stream-classifier.classifiers"] == "topic"

    async def test_their_dead_letters_are_in_the_order_of_the_source_whichever_partition_answers_first(self) -> None:
        kafka = FakeKafka()
        kafka.refuse("labels", MessageSizeTooLargeError())
        slow = kafka.hold("labels", 0)
        read = sources(4)
        delivering = asyncio.ensure_future(deliver(kafka, shipment(read[:2]), shipment(read[2:], partition=1)))
        await turns(100)
        slow.set()
        assert [refusal.source.offset for refusal in await delivering] == [0, 1, 2, 3]
        assert keys(kafka, DEAD) == [b"k0", b"k1", b"k2", b"k3"]

    @settings(max_examples=80, deadline=None)
    @given(
        st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), max_size=25),
        st.integers(1, 4),
        st.integers(150, 3000),
    )
    def test_every_result_is_delivered_once_or_its_record_is_a_dead_letter(
        self, refused: list[tuple[bool, bool, bool]], batch_size: int, max_batch_bytes: int
    ) -> None:
        """Two classifiers that share a sink, and a route of the first of them."""

        async def scene() -> None:
            kafka = FakeKafka()
            kafka.limit("labels", 1000)
            kafka.limit("urgent", 1000)
            read = sources(len(refused))
            shipments = []
            for start in range(0, len(read), batch_size):
                part = read[start : start + batch_size]
                intent, topic, copy = shipment(part), shipment(part, classifier="topic"), shipment(part, topic="urgent")
                for i in range(len(part)):
                    for each, too_large in zip((intent, topic, copy), refused[start + i], strict=True):
                        key, value, timestamp, _ = each.records[i]
                        name = "copy" if each is copy else str(each.classifier)
                        each.records[i] = (key, b"x" * 1000 * too_large + value, timestamp, [(name, b"")])
                shipments += [intent, topic, copy]
            refusals = await deliver(kafka, *shipments, max_batch_bytes=max_batch_bytes)

            expected = [
                (read[start + i].key, name)
                for start in range(0, len(read), batch_size)
                for column, name in enumerate(("intent", "topic"))
                for i in range(len(read[start : start + batch_size]))
                if not refused[start + i][column]
            ]
            assert [(key, named[0][0]) for key, _, _, named in kafka.log["labels", 0]] == expected
            assert keys(kafka, "urgent") == [
                source.key for source, row in zip(read, refused, strict=True) if not row[2]
            ]
            assert keys(kafka, DEAD) == [source.key for source, row in zip(read, refused, strict=True) if any(row)]
            blamed = {
                (classifier, offset)
                for offset, row in enumerate(refused)
                for classifier, failed in (("intent", row[0] or row[2]), ("topic", row[1]))
                if failed
            }
            assert {(refusal.classifier, refusal.source.offset) for refusal in refusals} == blamed
            assert len(refusals) == len(blamed)

        asyncio.run(scene())


class TestDeadLettersThatAreTooLarge:
    async def test_it_goes_with_a_null_value_and_its_size_in_a_header(self) -> None:
        kafka = FakeKafka()
        kafka.limit(DEAD, 800)
        source = record(7, value=b"x" * 5000, headers=[("trace", b"1")])
        assert await deliver(kafka, letters([source])) == []
        [(key, value, timestamp, _)] = kafka.log[DEAD, 0]
        assert (key, value, timestamp) == (source.key, None, source.timestamp)
        named = headers(kafka, DEAD)
        assert named["stream-classifier.value-size"] == "5000"
        assert (named["trace"], named["__connect.errors.offset"]) == ("1", "7")

    @pytest.mark.parametrize("value", [b"x" * 5000, None])
    async def test_without_key_and_headers_of_the_source_where_they_are_too_much(self, value: bytes | None) -> None:
        kafka = FakeKafka()
        kafka.limit(DEAD, 800)
        await deliver(kafka, letters([record(7, key=b"k" * 900, value=value, headers=[("trace", b"1" * 900)])]))
        [(key, kept, _, _)] = kafka.log[DEAD, 0]
        assert (key, kept) == (None, None)
        named = headers(kafka, DEAD)
        assert "trace" not in named
        assert named["__connect.errors.topic"] == "texts"
        assert named["__connect.errors.offset"] == "7"
        assert named.get("stream-classifier.value-size") == (None if value is None else "5000")

    async def test_its_batch_mates_keep_their_values(self) -> None:
        kafka = FakeKafka()
        kafka.limit(DEAD, 800)
        read = sources(5)
        read[2] = record(2, key=b"k2", value=b"x" * 5000)
        await deliver(kafka, letters(read))
        assert keys(kafka, DEAD) == [b"k%d" % i for i in range(5)]
        assert [value is None for _, value, _, _ in kafka.log[DEAD, 0]] == [False, False, True, False, False]

    async def test_that_of_a_refused_result_too(self) -> None:
        kafka = FakeKafka()
        kafka.limit("labels", 800)
        kafka.limit(DEAD, 800)
        [refusal] = await deliver(kafka, shipment([record(7, value=b"x" * 5000)]))
        assert refusal.error.reason == "MessageSizeTooLargeError"
        assert headers(kafka, DEAD)["stream-classifier.value-size"] == "5000"

    async def test_a_topic_that_takes_no_dead_letter_at_all_stops_the_worker(self) -> None:
        kafka = FakeKafka()
        kafka.limit(DEAD, 100)
        with pytest.raises(DeliveryError, match=f"a dead letter cannot be delivered: {DEAD} refuses"):
            await deliver(kafka, letters([record(7)]))


class TestTimestamps:
    async def test_those_too_far_ahead_become_the_current_time_with_the_original_in_a_header(self) -> None:
        kafka = FakeKafka()
        kafka.limit_timestamps()
        before_ms = int(time.time() * 1000)
        ahead_ms = before_ms + 24 * HOUR_MS
        read = [record(i, key=b"k%d" % i, timestamp=ahead_ms if i in (2, 5) else 1_700_000_000_000) for i in range(8)]
        assert await deliver(kafka, shipment(read)) == []
        after_ms = int(time.time() * 1000)
        sent = kafka.log["labels", 0]
        assert [key for key, _, _, _ in sent] == [b"k%d" % i for i in range(8)]
        for i, (_, _, timestamp, extra) in enumerate(sent):
            if i in (2, 5):
                assert before_ms <= (timestamp or 0) <= after_ms
                assert extra == [("stream-classifier.source-timestamp", b"%d" % ahead_ms)]
            else:
                assert (timestamp, extra) == (1_700_000_000_000, [])
        assert len(kafka.requests) == 2, "all of them at once, not one after the other"

    @pytest.mark.parametrize("at_ms", [HOUR_MS // 2, -48 * HOUR_MS])
    async def test_a_topic_with_narrower_limits_is_found_by_splitting(self, at_ms: int) -> None:
        kafka = FakeKafka()
        kafka.limit_timestamps(after_ms=60_000, before_ms=24 * HOUR_MS)
        now_ms = int(time.time() * 1000)
        read = [record(i, key=b"k%d" % i, timestamp=now_ms + at_ms if i == 3 else now_ms) for i in range(6)]
        assert await deliver(kafka, shipment(read)) == []
        assert keys(kafka, "labels") == [b"k%d" % i for i in range(6)]
        assert headers(kafka, "labels", index=3) == {"stream-classifier.source-timestamp": str(now_ms + at_ms)}
        assert all(not extra for i, (_, _, _, extra) in enumerate(kafka.log["labels", 0]) if i != 3)

    async def test_headers_of_the_source_stay_before_it(self) -> None:
        kafka = FakeKafka()
        kafka.limit_timestamps()
        source = record(timestamp=int(time.time() * 1000) + 48 * HOUR_MS, headers=[("trace", b"1")])
        await deliver(kafka, shipment([source]))
        assert [name for name, _ in kafka.log["labels", 0][0][3]] == ["trace", "stream-classifier.source-timestamp"]

    async def test_a_dead_letter_is_restamped_as_well(self) -> None:
        kafka = FakeKafka()
        kafka.limit_timestamps()
        ahead_ms = int(time.time() * 1000) + 48 * HOUR_MS
        await deliver(kafka, letters([record(7, timestamp=ahead_ms)]))
        assert headers(kafka, DEAD)["stream-classifier.source-timestamp"] == str(ahead_ms)

    async def test_one_that_is_refused_with_the_current_time_too_is_a_dead_letter(self) -> None:
        kafka = FakeKafka()
        kafka.refuse("labels", InvalidTimestampError(), key=b"k1")
        [refusal] = await deliver(kafka, shipment(sources(3)))
        assert refusal.error.reason == "InvalidTimestampError"
        assert keys(kafka, "labels") == [b"k0", b"k2"]


class TestWhatStopsTheWorker:
    @pytest.mark.parametrize("error", [KafkaTimeoutError, NotEnoughReplicasError, TopicAuthorizationFailedError])
    async def test_errors_that_are_not_a_records_own(self, error: type[KafkaError]) -> None:
        kafka = FakeKafka()
        kafka.refuse("labels", error())
        with pytest.raises(DeliveryError, match=rf"labels\[0\] did not take 3 records: {error.__name__}"):
            await deliver(kafka, shipment(sources(3)))
        assert not kafka.log

    async def test_one_partition_that_fails_ends_the_sending_to_all_others(self) -> None:
        kafka = FakeKafka()
        kafka.refuse("labels", KafkaTimeoutError(), key=b"k0")
        kafka.hold("labels", 1)  # for ever
        with pytest.raises(DeliveryError):
            await deliver(kafka, shipment(sources(3)), shipment(sources(3, first=5), partition=1))

    async def test_a_failure_after_a_refusal(self) -> None:
        kafka = FakeKafka()
        kafka.refuse("labels", MessageSizeTooLargeError(), key=b"k1")
        kafka.refuse("labels", KafkaTimeoutError(), key=b"k3")
        with pytest.raises(DeliveryError):
            await deliver(kafka, shipment(sources(4)))
        assert keys(kafka, "labels") in ([b"k0"], [b"k0", b"k2"])

    async def test_a_failure_of_the_dead_letter(self) -> None:
        kafka = FakeKafka()
        kafka.refuse("labels", MessageSizeTooLargeError(), key=b"k1")
        kafka.refuse(DEAD, KafkaTimeoutError())
        with pytest.raises(DeliveryError, match=DEAD):
            await deliver(kafka, shipment(sources(3)))

    async def test_cancelling_ends_the_sending(self) -> None:
        kafka = FakeKafka()
        kafka.hold("labels", 0)
        delivering = asyncio.ensure_future(deliver(kafka, shipment(sources(3)), shipment(sources(3), partition=1)))
        await turns()
        delivering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await delivering
        assert not kafka.log["labels", 0]


class TestPlacement:
    def test_a_source_with_as_many_partitions_gives_its_own(self) -> None:
        placement = Placement("texts", 3, {"labels": 3})
        assert [placement.fixed("labels", partition) for partition in range(3)] == [0, 1, 2]
        assert placement.of("labels", record(partition=2, key=b"any key")) == 2

    def test_otherwise_the_key_decides_as_kafka_would(self) -> None:
        placement = Placement("texts", 3, {"labels": 50})
        assert placement.fixed("labels", 1) is None
        assert placement.of("labels", record(partition=1, key=b"foobar")) == (-790332482 & 0x7FFFFFFF) % 50
        assert placement.of("labels", record(partition=1, key=None)) == 1

    def test_each_topic_has_its_own_count(self) -> None:
        placement = Placement("texts", 3, {"labels": 3, "urgent": 1})
        assert placement.of("labels", record(partition=2)) == 2
        assert placement.of("urgent", record(partition=2)) == 0

    def test_new_partitions_of_a_source_that_grew_go_on_modulo_with_one_warning_each(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        placement = Placement("texts", 3, {"labels": 3})
        with caplog.at_level(logging.WARNING):
            assert [placement.fixed("labels", partition) for partition in (3, 4, 5, 3, 4)] == [0, 1, 2, 0, 1]
        assert [line.getMessage().partition(";")[0] for line in caplog.records] == [
            f"texts has grown: its new partition {partition} goes to partition {partition % 3} of labels"
            for partition in (3, 4, 5)
        ]
