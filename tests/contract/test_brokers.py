"""Every broker the project runs on passes one suite: what is produced comes back byte for byte, and groups resume."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kafka import KafkaConsumer
from kafka.errors import TopicAlreadyExistsError

from tests.plugins.brokers import Broker, Record

RECORDS = [
    Record(
        b"plain",
        key=b"k1",
        headers=[("trace", b"\x00\xff"), ("trace", b"")],
        timestamp_ms=1_700_000_000_001,
        partition=0,
    ),
    Record(b"\xff\xfe not UTF-8", key=None, headers=[], timestamp_ms=1_700_000_000_002, partition=0),
    Record(None, key=b"tombstone", headers=[("ünïcode", b"wert")], timestamp_ms=1_700_000_000_003, partition=2),
    Record(b"", key=b"", headers=[("empty", b"")], timestamp_ms=1_700_000_000_004, partition=1),
    Record(b"x" * 900_000, key=b"large", headers=[], timestamp_ms=1_700_000_000_005, partition=1),
]


def test_records_come_back_byte_for_byte_and_in_order(broker: Broker, unique_name: Callable[[str], str]) -> None:
    topic = unique_name("bytes")
    broker.create_topic(topic, partitions=4)
    places = broker.produce(topic, RECORDS)
    assert places == [(0, 0), (0, 1), (2, 0), (1, 0), (1, 1)]
    read = broker.consume_all(topic, count=len(RECORDS))
    assert [(record.partition, record.offset) for record in read] == sorted(places)
    by_place = dict(zip(places, RECORDS, strict=True))
    for record in read:
        sent = by_place[record.partition, record.offset]
        assert (record.key, record.value, record.timestamp) == (sent.key, sent.value, sent.timestamp_ms)
        assert list(record.headers) == list(sent.headers)


def test_reading_stops_at_the_end_without_a_count(broker: Broker, unique_name: Callable[[str], str]) -> None:
    topic = unique_name("end")
    broker.create_topic(topic, partitions=3)
    assert broker.consume_all(topic) == []
    broker.produce(topic, [Record(b"%d" % number, partition=number % 2) for number in range(500)])
    values = [int(record.value) for record in broker.consume_all(topic)]
    assert values == [*range(0, 500, 2), *range(1, 500, 2)]


def test_equal_keys_go_to_one_partition(broker: Broker, unique_name: Callable[[str], str]) -> None:
    topic = unique_name("keys")
    broker.create_topic(topic, partitions=4)
    broker.produce(topic, [Record(b"v", key=b"key-%d" % (number % 20)) for number in range(200)])
    homes: dict[bytes, set[int]] = {}
    for record in broker.consume_all(topic, count=200):
        homes.setdefault(record.key, set()).add(record.partition)
    assert len(homes) == 20
    assert all(len(partitions) == 1 for partitions in homes.values())
    assert len(set().union(*homes.values())) > 1


def test_topic_that_exists_is_refused(broker: Broker, unique_name: Callable[[str], str]) -> None:
    topic = unique_name("twice")
    broker.create_topic(topic)
    with pytest.raises(TopicAlreadyExistsError):
        broker.create_topic(topic)


def test_group_resumes_after_what_it_committed(broker: Broker, unique_name: Callable[[str], str]) -> None:
    topic, group = unique_name("group"), unique_name("readers")
    broker.create_topic(topic, partitions=2)
    broker.produce(topic, [Record(b"%d" % number, partition=number % 2) for number in range(40)])
    with _member(broker, topic, group) as first:
        seen = _read(first, 10)
        first.commit()
    committed = broker.committed(group, topic)
    assert sum(committed.values()) == len(seen)
    with _member(broker, topic, group) as second:
        rest = _read(second, 40 - len(seen))
        second.commit()
    assert sorted(seen + rest) == list(range(40))
    assert broker.committed(group, topic) == {0: 20, 1: 20}


def test_uncommitted_records_are_read_again(broker: Broker, unique_name: Callable[[str], str]) -> None:
    topic, group = unique_name("again"), unique_name("readers")
    broker.create_topic(topic)
    broker.produce(topic, [Record(b"%d" % number) for number in range(5)])
    for _ in range(2):
        with _member(broker, topic, group) as consumer:
            assert _read(consumer, 5) == [0, 1, 2, 3, 4]
    assert broker.committed(group, topic) == {}


@contextlib.contextmanager
def _member(broker: Broker, topic: str, group: str) -> Iterator[Any]:
    consumer = KafkaConsumer(
        topic,
        bootstrap_servers=broker.bootstrap,
        group_id=group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        session_timeout_ms=6000,  # the embedded broker lets a joining member wait for half of it
        heartbeat_interval_ms=1000,
        max_poll_records=10,
    )
    try:
        yield consumer
    finally:
        consumer.close()


def _read(consumer: Any, count: int) -> list[int]:
    values: list[int] = []
    for _ in range(90):
        for batch in consumer.poll(timeout_ms=1000).values():
            values += [int(record.value) for record in batch]
        if len(values) >= count:
            return values
    pytest.fail(f"read {len(values)} of {count} records")
