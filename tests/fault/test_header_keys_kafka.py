"""Header keys that are not UTF-8, on Apache Kafka: no crash loop, nothing lost, the same bytes in every output."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from stream_classifier.stream.header_keys import accept_any_header_key
from tests.integration.test_worker import null, worker_group
from tests.plugins.brokers import Broker, RawHeaderKey, Record
from tests.plugins.workers import Worker

Start = Callable[..., Worker]
Name = Callable[[str], str]

NOT_UTF8 = b"\xff\xfe\x80trace"


async def read_all(broker: Broker, topic: str, *, partitions: int, count: int) -> list[Any]:
    """All records of a topic, their header keys with escaped surrogates; kafka-python cannot read them."""
    consumer = AIOKafkaConsumer(bootstrap_servers=broker.bootstrap, isolation_level="read_committed")
    await consumer.start()
    try:
        accept_any_header_key(consumer)
        at = [TopicPartition(topic, number) for number in range(partitions)]
        consumer.assign(at)
        await consumer.seek_to_beginning(*at)
        ends = await consumer.end_offsets(at)
        assert sum(ends.values()) == count
        records: list[Any] = []
        while len(records) < count:
            for batch in (await consumer.getmany(timeout_ms=500)).values():
                records += batch
        return records
    finally:
        await consumer.stop()


async def test_a_record_with_such_a_header_key_has_its_result_or_dead_letter_byte_for_byte(
    apache_kafka: Broker, start_worker: Start, unique_name: Name
) -> None:
    source = unique_name("source")
    apache_kafka.create_topic(source, partitions=4)
    odd = [(RawHeaderKey(NOT_UTF8), b"\x00\xff"), ("plain", b"1"), (RawHeaderKey(b"\xc3("), b"")]
    records = [
        Record(
            b"text %d" % number if number % 5 else b"\xff no text",
            key=b"\xfe%d" % number,
            headers=odd if number % 3 == 0 else [("plain", b"1")],
            timestamp_ms=1_700_000_000_000 + number,
            partition=number % 4,
        )
        for number in range(200)
    ]
    placed = apache_kafka.produce(source, records)
    worker = start_worker(apache_kafka, classifiers=[null(source)])
    worker.wait_for(lambda: worker.metric("records_total") >= 200, 30, "done")
    assert worker.stop() == 0
    assert sum(apache_kafka.committed(worker_group(worker), source).values()) == 200

    sources = dict(zip(placed, records, strict=True))
    results = await read_all(apache_kafka, f"{source}.results", partitions=4, count=160)
    letters = await read_all(apache_kafka, f"{source}.dead-letter", partitions=4, count=40)
    seen = set()
    for output in results + letters:
        headers = [(key.encode(errors="surrogateescape"), value) for key, value in output.headers]
        if output in letters:
            told = dict(headers[-7:])
            place = (int(told[b"__connect.errors.partition"]), int(told[b"__connect.errors.offset"]))
            headers = headers[:-7]
            assert output.value == sources[place].value
        else:
            at = json.loads(output.value)["source"]
            place = (at["partition"], at["offset"])
        record = sources[place]
        assert headers == [(key.encode(), value) for key, value in record.headers]
        assert (output.key, output.timestamp, output.partition) == (record.key, record.timestamp_ms, place[0])
        seen.add(place)
    assert seen == set(placed)
