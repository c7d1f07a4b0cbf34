"""Brokers that go away, refuse, or have lost records. On Apache Kafka nodes of the test's own."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from kafka import TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType

from tests.integration.test_worker import headers_of, null, worker_group
from tests.plugins.brokers import ApacheKafka, Broker, Record
from tests.plugins.ports import free_port
from tests.plugins.workers import Worker

Start = Callable[..., Worker]
Name = Callable[[str], str]


def offsets_seen(broker: Broker, topic: str) -> set[tuple[int, int]]:
    records = broker.consume_all(topic, timeout_s=60)
    return {(record.partition, json.loads(record.value)["source"]["offset"]) for record in records}


def test_nothing_is_lost_when_the_broker_is_killed_under_load(
    kafka_nodes: Callable[..., ApacheKafka], start_worker: Start
) -> None:
    node = kafka_nodes()
    broker = Broker(node.start(), "kafka")
    broker.create_topic("source", partitions=4)
    total = 30_000
    broker.produce("source", [Record(b"text %d" % i, partition=i % 4) for i in range(total)])
    worker = start_worker(broker, classifiers=[null("source", batch={"max_records": 4})], app={"id": "kill"})
    for _ in range(2):
        done = worker.metric("records_total", outcome="accepted")
        worker.wait_for(lambda d=done: worker.metric("records_total", outcome="accepted") > d + 1000, 60, "at work")
        node.kill()
        time.sleep(1)
        node.start()
    worker.wait_for(lambda: worker.metric("records_total", outcome="accepted") >= total, 120, "done")
    assert len(offsets_seen(broker, "source.results")) == total
    assert worker.stop() == 0
    assert sum(broker.committed("kill", "source").values()) == total


def test_a_broker_that_stays_away_stops_the_worker_loudly(
    kafka_nodes: Callable[..., ApacheKafka], start_worker: Start
) -> None:
    node = kafka_nodes()
    broker = Broker(node.start(), "kafka")
    broker.create_topic("source", partitions=1)
    classifiers = [null("source", batch={"max_records": 4})]
    worker = start_worker(broker, classifiers=classifiers, app={"delivery_timeout_s": 3.0})
    broker.produce("source", [Record(b"text %d" % i) for i in range(20_000)])
    worker.wait_for(lambda: worker.metric("records_total", outcome="accepted") > 100, 60, "at work")
    node.kill()
    assert worker.wait(60) == 1
    assert "source.results" in worker.log


def test_no_broker_at_start_is_refused_with_its_address(start_worker: Start) -> None:
    port = free_port()
    worker = start_worker(
        f"kafka://127.0.0.1:{port}", classifiers=[null("source")], app={"connect_timeout_s": 1.0}, ready=False
    )
    assert worker.wait(30) == 2
    last = worker.log.strip().splitlines()[-1]
    assert f"127.0.0.1:{port}" in last
    assert "app.broker" in last
    assert "Traceback" not in worker.log


def test_a_signal_while_loading_ends_with_exit_code_0(start_worker: Start) -> None:
    worker = start_worker(f"kafka://127.0.0.1:{free_port()}", classifiers=[null("source")], ready=False)
    worker.wait_for(lambda: worker.get("/livez")[0] == 200, 30, "serving its pages before the broker is there")
    assert worker.get("/readyz")[0] == 503
    assert worker.stop() == 0


def test_a_taken_web_port_is_refused(embedded_broker: Broker, start_worker: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        worker = start_worker(embedded_broker, classifiers=[null("source")], web={"port": port}, ready=False)
        assert worker.wait(30) == 2
    assert f"web.port {port}" in worker.log


def test_a_missing_topic_is_refused_when_topics_are_not_made(
    broker: Broker, start_worker: Start, unique_name: Name
) -> None:
    source = unique_name("source")
    broker.create_topic(source)
    worker = start_worker(broker, classifiers=[null(source)], app={"create_topics": False}, ready=False)
    assert worker.wait(30) == 2
    assert f"{source}." in worker.log.strip().splitlines()[-1]
    assert "create_topics" in worker.log


def test_made_topics_have_the_sources_partitions_and_retention(
    apache_kafka: Broker, start_worker: Start, unique_name: Name
) -> None:
    source, missing = unique_name("source"), unique_name("missing")
    apache_kafka.create_topic(source, partitions=3, config={"retention.ms": "7200000"})
    worker = start_worker(apache_kafka, classifiers=[null(source), null(missing, name="other")])
    with apache_kafka.admin() as admin:
        described = admin.describe_topics([f"{source}.results", f"{source}.dead-letter", missing, f"{missing}.results"])
        configs = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, f"{source}.results")])
    made = {topic["name"]: len(topic["partitions"]) for topic in described}
    assert "7200000" in str(configs), "the source's retention.ms"
    assert made == {f"{source}.results": 3, f"{source}.dead-letter": 3, missing: 4, f"{missing}.results": 4}
    assert f"{missing} does not exist" in worker.log
    assert worker.stop() == 0


def test_a_result_too_large_for_the_sink_becomes_a_dead_letter(
    apache_kafka: Broker, start_worker: Start, unique_name: Name
) -> None:
    source = unique_name("source")
    apache_kafka.create_topic(source)
    apache_kafka.create_topic(f"{source}.results", config={"max.message.bytes": "20000"})
    apache_kafka.create_topic(f"{source}.dead-letter", config={"max.message.bytes": "60000"})
    sizes = [10] * 300 + [30_000] + [10] * 300 + [100_000] + [10] * 300
    broker_values = [json.dumps({"body": f"text {i}", "blob": "x" * size}).encode() for i, size in enumerate(sizes)]
    apache_kafka.produce(source, [Record(value, key=b"k") for value in broker_values])
    worker = start_worker(apache_kafka, classifiers=[null(source, text="/body", passthrough={"blob": "/blob"})])

    results = apache_kafka.consume_all(f"{source}.results", count=900, timeout_s=60)
    assert [json.loads(r.value)["source"]["offset"] for r in results] == [i for i in range(902) if i not in (300, 601)]
    large, huge = apache_kafka.consume_all(f"{source}.dead-letter", count=2, timeout_s=60)
    assert headers_of(large)["__connect.errors.stage"] == b"deliver"
    assert headers_of(large)["stream-classifier.classifiers"] == b"null"
    assert large.value == broker_values[300]
    assert (huge.value, huge.key) == (None, b"k")
    assert headers_of(huge)["stream-classifier.value-size"] == str(len(broker_values[601])).encode()
    assert worker.metric("dead_letters_total", stage="deliver") == 2
    assert worker.metric("records_total", outcome="dead_letter") == 2
    assert worker.stop() == 0
    assert apache_kafka.committed(worker_group(worker), source) == {0: 902}


def test_timestamps_the_broker_refuses_are_replaced_and_kept_in_a_header(
    apache_kafka: Broker, start_worker: Start, unique_name: Name
) -> None:
    source = unique_name("source")
    anything = {"message.timestamp.after.max.ms": str(2**62), "message.timestamp.before.max.ms": str(2**62)}
    apache_kafka.create_topic(source, config=anything)
    now = int(time.time() * 1000)
    year_ahead, half_an_hour_ahead, long_ago = now + 365 * 86_400_000, now + 1_800_000, 1_000
    timestamps = [now, year_ahead, half_an_hour_ahead, long_ago, now]
    apache_kafka.produce(source, [Record(b"text", timestamp_ms=timestamp) for timestamp in timestamps])
    apache_kafka.produce(source, [Record(b"\xff", timestamp_ms=year_ahead)])
    sink = f"{source}.results"
    apache_kafka.create_topic(sink, config={"retention.ms": "-1"})
    apache_kafka.create_topic(f"{source}.dead-letter", config={"retention.ms": "-1"})
    start_worker(apache_kafka, classifiers=[null(source)])

    results = apache_kafka.consume_all(sink, count=5, timeout_s=60)
    assert [json.loads(r.value)["source"]["offset"] for r in results] == [0, 1, 2, 3, 4]
    assert [r.timestamp for i, r in enumerate(results) if i != 1] == [now, half_an_hour_ahead, long_ago, now]
    assert abs(results[1].timestamp - time.time() * 1000) < 120_000
    assert headers_of(results[1]) == {"stream-classifier.source-timestamp": str(year_ahead).encode()}
    assert all("stream-classifier.source-timestamp" not in headers_of(r) for i, r in enumerate(results) if i != 1)
    [letter] = apache_kafka.consume_all(f"{source}.dead-letter", count=1, timeout_s=60)
    assert headers_of(letter)["stream-classifier.source-timestamp"] == str(year_ahead).encode()


@pytest.mark.parametrize("offset_gap", ["continue", "stop"])
def test_records_that_retention_has_overtaken_are_counted(
    apache_kafka: Broker, start_worker: Start, unique_name: Name, offset_gap: str
) -> None:
    source, group = unique_name("source"), unique_name("group")
    apache_kafka.create_topic(source)
    apache_kafka.produce(source, [Record(b"text %d" % i) for i in range(10)])
    app: dict[str, Any] = {"id": group, "offset_gap": offset_gap}
    first = start_worker(apache_kafka, classifiers=[null(source)], app=app)
    apache_kafka.consume_all(f"{source}.results", count=10, timeout_s=60)
    assert first.stop() == 0
    apache_kafka.produce(source, [Record(b"text %d" % i) for i in range(90)])
    with apache_kafka.admin() as admin:
        admin.delete_records({TopicPartition(source, 0): 60})
    second = start_worker(apache_kafka, classifiers=[null(source)], app=app, ready=False)
    if offset_gap == "stop":
        assert second.wait(60) == 1
        assert "offset_gap" in second.log
    else:
        second.wait_for(lambda: second.metric("records_skipped_total", topic=source) == 50, 60, "counting")
        apache_kafka.consume_all(f"{source}.results", count=50, timeout_s=60)
        assert second.stop() == 0
    assert "retention has overtaken 50 records" in second.log


def test_a_stalled_broker_slows_intake_and_memory_stays_bounded(
    kafka_nodes: Callable[..., ApacheKafka], start_worker: Start
) -> None:
    node = kafka_nodes()
    broker = Broker(node.start(), "kafka")
    broker.create_topic("source", partitions=4)
    broker.produce("source", [Record(b"text %d" % i, partition=i % 4) for i in range(30_000)])
    limits = {"max_in_flight_records": 500, "delivery_timeout_s": 60.0}
    worker = start_worker(broker, classifiers=[null("source", batch={"max_records": 4})], app=limits)
    highest = 0.0
    watching = threading.Event()

    def watch() -> None:
        nonlocal highest
        while not watching.wait(0.05):
            highest = max(highest, worker.metric("in_flight_records"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        worker.wait_for(lambda: worker.metric("records_total", outcome="accepted") > 1000, 60, "at work")
        node._process.send_signal(signal.SIGSTOP)
        time.sleep(3)
        node._process.send_signal(signal.SIGCONT)
        worker.wait_for(lambda: worker.metric("records_total", outcome="accepted") >= 30_000, 120, "done")
    finally:
        watching.set()
        watcher.join()
    assert 0 < highest <= 500
    assert worker.stop() == 0
