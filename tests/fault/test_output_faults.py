"""Topics that go away, may not be written, or take no record of that kind; and a source with aborted transactions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType

from stream_classifier.records import OutputRecord
from stream_classifier.stream.producer import BatchProducer
from tests.integration.test_worker import headers_of, null, worker_group
from tests.plugins.brokers import ApacheKafka, Broker, Record, kafka_script
from tests.plugins.workers import Worker

Start = Callable[..., Worker]
Name = Callable[[str], str]


def sources_seen(broker: Broker, topic: str) -> set[tuple[int, int]]:
    """(partition, offset) of every source record with a result there."""
    return {
        (at["partition"], at["offset"])
        for at in (json.loads(record.value)["source"] for record in broker.consume_all(topic))
    }


def last_line(worker: Worker) -> str:
    return worker.log.strip().splitlines()[-1]


@pytest.mark.parametrize("gone", ["results", "dead-letter"])
def test_a_deleted_topic_stops_the_worker_loudly_and_a_restart_loses_nothing(
    apache_kafka: Broker, start_worker: Start, unique_name: Name, gone: str
) -> None:
    source = unique_name("source")
    apache_kafka.create_topic(source, partitions=6)  # the broker would make it anew with four
    app = {"id": source, "delivery_timeout_s": 3.0}
    worker = start_worker(apache_kafka, classifiers=[null(source)], app=app)
    with apache_kafka.admin() as admin:
        admin.delete_topics([f"{source}.{gone}"])
    placed = apache_kafka.produce(
        source, [Record(b"text" if gone == "results" else b"\xff", partition=i % 6) for i in range(60)]
    )
    assert worker.wait(60) == 1
    assert f"{source}.{gone}[" in last_line(worker)
    assert "the topic may be gone" in last_line(worker)

    worker = start_worker(apache_kafka, classifiers=[null(source)], app=app)
    topic = f"{source}.{gone}"
    worker.wait_for(lambda: sum(apache_kafka.committed(source, source).values()) == 60, 60, "done")
    if gone == "results":
        assert sources_seen(apache_kafka, topic) == set(placed)
    else:
        assert len(apache_kafka.consume_all(topic, count=60)) >= 60
    assert worker.stop() == 0


@pytest.mark.slow  # a broker of its own
def test_a_read_only_sink_stops_the_worker_with_one_clear_line(
    kafka_nodes: Callable[..., ApacheKafka], start_worker: Start
) -> None:
    authorizer = "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer"
    node = kafka_nodes(settings=[authorizer, "allow.everyone.if.no.acl.found=true"])
    broker = Broker(node.start(), "kafka")
    broker.create_topic("source")
    worker = start_worker(broker, classifiers=[null("source")], app={"id": "app", "delivery_timeout_s": 3.0})
    sink = ResourcePattern(ResourceType.TOPIC, "source.results")
    rules = [
        ACL("User:ANONYMOUS", "*", ACLOperation.ALL, ACLPermissionType.ALLOW, sink),
        ACL("User:ANONYMOUS", "*", ACLOperation.WRITE, ACLPermissionType.DENY, sink),
    ]
    with broker.admin() as admin:
        admin.create_acls(rules)
    broker.produce("source", [Record(b"text")])
    assert worker.wait(30) == 1
    assert "source.results[0]" in last_line(worker)
    assert "allow WRITE on that topic" in last_line(worker)
    assert broker.committed("app", "source") == {}


@pytest.mark.slow  # two starts of a broker of its own
def test_a_broker_whose_disk_is_full_loses_nothing_once_there_is_room(tmp_path: Path, start_worker: Start) -> None:
    full = tmp_path / "full.sh"
    full.write_text(f'#!/bin/bash\nulimit -f 12000\nexec bash {kafka_script()} "$@"\n')  # no file above 12 MB
    node = ApacheKafka(full, tmp_path / "kafka")
    emptied = ApacheKafka(kafka_script(), tmp_path / "kafka", node.port)
    app = {"id": "app", "delivery_timeout_s": 3.0}
    total = 60_000  # their results are 17 MB
    try:
        broker = Broker(node.start(), "kafka")
        broker.create_topic("source")
        broker.produce("source", [Record(b"%d" % i) for i in range(total)])
        worker = start_worker(broker, classifiers=[null("source")], app=app)
        assert worker.wait(60) == 1, "the broker ends when it cannot write"
        node.kill()
        emptied.start()
        worker = start_worker(broker, classifiers=[null("source")], app=app)
        worker.wait_for(lambda: broker.committed("app", "source") == {0: total}, 60, "done")
        assert len(sources_seen(broker, "source.results")) == total
        assert worker.stop() == 0
    finally:
        node.kill()
        emptied.kill()


def test_a_record_its_topic_does_not_take_becomes_a_dead_letter(
    apache_kafka: Broker, start_worker: Start, unique_name: Name
) -> None:
    source = unique_name("source")
    apache_kafka.create_topic(source)
    apache_kafka.create_topic(f"{source}.results", config={"cleanup.policy": "compact"})
    apache_kafka.produce(source, [Record(b"%d" % i, key=None if i in (3, 7) else b"k%d" % i) for i in range(10)])
    worker = start_worker(apache_kafka, classifiers=[null(source)])
    letters = apache_kafka.consume_all(f"{source}.dead-letter", count=2, timeout_s=60)
    assert [(letter.key, letter.value) for letter in letters] == [(None, b"3"), (None, b"7")]
    assert headers_of(letters[0])["__connect.errors.exception.class.name"] == b"InvalidRecordError"
    assert [key.key for key in apache_kafka.consume_all(f"{source}.results", count=8)] == [
        b"k%d" % i for i in range(10) if i not in (3, 7)
    ]
    assert worker.stop() == 0


def test_a_dead_letter_too_large_even_without_its_value_still_tells_where_the_record_is(
    apache_kafka: Broker, start_worker: Start, unique_name: Name
) -> None:
    source = unique_name("source")
    apache_kafka.create_topic(source)
    apache_kafka.create_topic(f"{source}.dead-letter", config={"max.message.bytes": "10000"})
    apache_kafka.produce(source, [Record(b"\xff" * 20_000, key=b"k" * 9_000, headers=[("h", b"x" * 9_000)])])
    worker = start_worker(apache_kafka, classifiers=[null(source)])
    [letter] = apache_kafka.consume_all(f"{source}.dead-letter", count=1, timeout_s=60)
    told = headers_of(letter)
    assert (letter.key, letter.value, "h" in told) == (None, None, False)
    assert (told["__connect.errors.topic"], told["__connect.errors.offset"]) == (source.encode(), b"0")
    assert told["stream-classifier.value-size"] == b"20000"
    assert worker.stop() == 0


@pytest.mark.parametrize("timestamp", [-86_400_000, -2, 0], ids=["a day before 1970", "just before", "1970"])
def test_timestamps_around_1970_are_kept(
    apache_kafka: Broker, start_worker: Start, unique_name: Name, timestamp: int
) -> None:
    source = unique_name("source")
    for topic in (source, f"{source}.results", f"{source}.dead-letter"):
        apache_kafka.create_topic(topic, config={"retention.ms": "-1"})
    send(apache_kafka, source, [(b"k", b"text", timestamp, []), (b"k", b"\xff", timestamp, [])])
    worker = start_worker(apache_kafka, classifiers=[null(source)])
    [result] = apache_kafka.consume_all(f"{source}.results", count=1, timeout_s=60)
    [letter] = apache_kafka.consume_all(f"{source}.dead-letter", count=1, timeout_s=60)
    assert (result.timestamp, letter.timestamp) == (timestamp, timestamp)
    assert json.loads(result.value)["source"]["timestamp"] == timestamp
    assert worker.stop() == 0


def send(broker: Broker, topic: str, records: Sequence[OutputRecord]) -> None:
    """As any Kafka client may: kafka-python refuses such timestamps by itself."""

    async def produce() -> None:
        producer = BatchProducer({"bootstrap_servers": broker.bootstrap})
        await producer.start()
        await producer.send(topic, 0, records)
        await producer.stop(10.0)

    asyncio.run(produce())


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_aborted_records_of_the_source_are_not_classified(
    apache_kafka: Broker, start_worker: Start, unique_name: Name, delivery: str
) -> None:
    source = unique_name("source")
    apache_kafka.create_topic(source)

    async def produce() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=apache_kafka.bootstrap, transactional_id=source)
        await producer.start()
        for number in range(10):
            await producer.begin_transaction()
            for _ in range(5):
                await producer.send_and_wait(source, b"%d" % number)
            await (producer.abort_transaction() if number % 2 else producer.commit_transaction())
        await producer.stop()

    asyncio.run(produce())
    worker = start_worker(apache_kafka, classifiers=[null(source)], app={"delivery": delivery})
    results = apache_kafka.consume_all(f"{source}.results", count=25, timeout_s=60)
    offsets = [json.loads(result.value)["source"]["offset"] for result in results]
    # Ten transactions of five records and a marker each; every other one is aborted.
    assert offsets == [start + i for start in range(0, 60, 12) for i in range(5)]
    worker.wait_for(lambda: worker.metric("lag_records") == 0, 30, "without lag")
    assert worker.stop() == 0
    assert apache_kafka.committed(worker_group(worker), source)[0] >= 53
