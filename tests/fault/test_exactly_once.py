"""Exactly once on Apache Kafka: read_committed readers see one result or dead letter a source record, whatever dies."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType

from stream_classifier.stream.producer import TransactionalProducer
from tests.fault.test_broker_faults import offsets_seen
from tests.integration.test_worker import headers_of, null
from tests.plugins.brokers import ApacheKafka, Broker, Record
from tests.plugins.workers import Worker

Start = Callable[..., Worker]
Name = Callable[[str], str]
PARTITIONS = 4
SMALL = {"max_records": 16}
"""Small micro-batches: many steps, so that whatever is killed is killed inside one."""


def fill(broker: Broker, source: str, total: int, start: int = 0) -> None:
    """Records number `start` to `total`, round robin over the partitions; each once, even if the broker dies."""

    async def produce() -> None:
        async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap, enable_idempotence=True) as producer:
            sent = [
                await producer.send(source, b"text %d" % i, partition=i % PARTITIONS, key=b"")
                for i in range(start, total)
            ]
            await asyncio.gather(*sent)

    asyncio.run(produce())


def assert_one_each(broker: Broker, source: str, group: str, total: int) -> None:
    """One result a source record, in the order of its partition, and the committed offsets right behind them."""
    seen: dict[int, list[int]] = {partition: [] for partition in range(PARTITIONS)}
    for record in broker.consume_all(f"{source}.results", count=total, timeout_s=60):
        seen[record.partition].append(json.loads(record.value)["source"]["offset"])
    ends = {partition: len(range(partition, total, PARTITIONS)) for partition in range(PARTITIONS)}
    assert seen == {partition: list(range(end)) for partition, end in ends.items()}
    # the end of a partition of results and its offset are committed together, so neither is ever ahead
    assert broker.committed(group, source) == ends


def wait_for_results(broker: Broker, source: str, total: int, worker: Worker, timeout_s: float = 60.0) -> None:
    worker.wait_for(lambda: len(offsets_seen(broker, f"{source}.results")) >= total, timeout_s, "done")


@pytest.fixture
def eos(apache_kafka: Broker, start_worker: Start, unique_name: Name) -> Scene:
    source = unique_name("source")
    apache_kafka.create_topic(source, partitions=PARTITIONS)
    return Scene(apache_kafka, start_worker, source)


class Scene:
    """A source on a broker, and exactly-once workers of one group that read it.

    Args:
        address: where the workers find the broker, if not where the test does.
    """

    def __init__(self, broker: Broker, start_worker: Start, source: str, address: str | None = None) -> None:
        self.broker, self.source, self.group = broker, source, f"group-of-{source}"
        self._start = start_worker
        self._address = address

    def start(
        self,
        *,
        classifier: dict[str, Any] | None = None,
        web: dict[str, Any] | None = None,
        environ: dict[str, str] | None = None,
        **app: Any,
    ) -> Worker:
        # A transaction that only its time-out ends would hold readers, and the test, back for ten minutes.
        app = {"id": self.group, "delivery": "exactly_once", "transaction_timeout_s": 600.0, **app}
        classifiers = [null(self.source, batch=SMALL, **(classifier or {}))]
        return self._start(self._address or self.broker, classifiers=classifiers, app=app, web=web, environ=environ)

    def fill(self, total: int, start: int = 0) -> None:
        fill(self.broker, self.source, total, start)

    def fill_meanwhile(self, total: int, start: int) -> threading.Thread:
        """Fill in the background, so that the worker is at work for a while."""
        thread = threading.Thread(target=self.fill, args=(total, start))
        thread.start()
        return thread

    def wait_for_results(self, total: int, worker: Worker) -> None:
        wait_for_results(self.broker, self.source, total, worker)

    def assert_one_each(self, total: int) -> None:
        assert_one_each(self.broker, self.source, self.group, total)


def delivered(worker: Worker) -> float:
    return worker.metric("records_total")


def test_nothing_is_lost_or_repeated_when_workers_are_killed(eos: Scene) -> None:
    chunk, kills = 8000, 3
    total = chunk * kills
    dice = random.Random(5)
    for number in range(kills):
        doomed = eos.start()
        load = eos.fill_meanwhile(chunk * (number + 1), chunk * number)
        doomed.wait_for(lambda w=doomed: delivered(w) > 0, 60, "at work")
        time.sleep(dice.random() * 0.3)
        doomed.kill()
        load.join()
    last = eos.start()
    eos.wait_for_results(total, last)
    assert last.stop() == 0
    eos.assert_one_each(total)


def test_nothing_is_lost_or_repeated_when_the_broker_is_killed(
    kafka_nodes: Callable[..., ApacheKafka], start_worker: Start
) -> None:
    node = kafka_nodes()
    scene = Scene(Broker(node.start(), "kafka"), start_worker, "source")
    scene.broker.create_topic("source", partitions=PARTITIONS)
    chunk, kills = 6000, 2
    total = chunk * kills
    worker = scene.start(transaction_timeout_s=10.0)
    for number in range(kills):
        before = delivered(worker)
        load = scene.fill_meanwhile(chunk * (number + 1), chunk * number)
        worker.wait_for(lambda d=before: delivered(worker) > d, 60, "at work")
        node.kill()
        time.sleep(0.5)
        node.start()
        load.join()
    scene.wait_for_results(total, worker)
    assert worker.stop() == 0
    scene.assert_one_each(total)


def test_readers_do_not_wait_for_the_transaction_of_a_dead_worker_to_time_out(eos: Scene) -> None:
    eos.fill(20_000)
    doomed = eos.start(commit_interval_s=300.0)
    doomed.wait_for(lambda: "in_flight" in doomed.get("/metrics")[1], 60, "up")
    sink = f"{eos.source}.results"
    doomed.wait_for(
        lambda: len(eos.broker.consume_all(sink, isolation="read_uncommitted")) > 1000, 60, "in a transaction"
    )
    assert delivered(doomed) == 0, "delivered means committed"
    assert offsets_seen(eos.broker, sink) == set()
    doomed.kill()
    successor = eos.start()
    eos.wait_for_results(20_000, successor)
    assert successor.stop() == 0
    eos.assert_one_each(20_000)


def test_a_worker_whose_transactions_were_taken_over_reads_again_and_repeats_nothing(eos: Scene) -> None:
    total = 20_000
    eos.fill(total // 2)
    worker = eos.start()
    worker.wait_for(lambda: delivered(worker) > 0, 60, "at work")

    async def take_over(partition: int) -> None:
        producer = TransactionalProducer(
            {"bootstrap_servers": eos.broker.bootstrap},
            transactional_id=f"{eos.group}-{eos.source}-{partition}",
            transaction_timeout_s=60.0,
        )
        await producer.start()
        await producer.close()

    for partition in range(PARTITIONS):
        asyncio.run(take_over(partition))
    eos.fill(total, start=total // 2)
    eos.wait_for_results(total, worker)
    assert "read it again" in worker.log
    assert worker.stop() == 0
    eos.assert_one_each(total)


def test_a_step_that_fails_halfway_shows_nothing_of_itself(eos: Scene) -> None:
    """The sink has taken the step's results, the dead-letter topic takes no letter: the worker stops."""
    sink, dead_letter = f"{eos.source}.results", f"{eos.source}.dead-letter"
    eos.broker.create_topic(dead_letter, partitions=PARTITIONS, config={"max.message.bytes": "100"})
    values = [b"text %d" % i for i in range(3000)]
    values[2000] = b"\xff, which is no UTF-8"
    eos.broker.produce(eos.source, [Record(value, partition=1) for value in values])
    worker = eos.start()
    assert worker.wait(60) == 1
    assert dead_letter in worker.log.strip().splitlines()[-1]
    committed = eos.broker.committed(eos.group, eos.source).get(1, 0)
    assert committed <= 2000
    assert offsets_seen(eos.broker, sink) == {(1, offset) for offset in range(committed)}
    acknowledged = eos.broker.consume_all(sink, isolation="read_uncommitted")
    assert len(acknowledged) > committed, "the step had come halfway"

    _configure(eos.broker, dead_letter, "max.message.bytes", "1000000")
    successor = eos.start()
    results = eos.broker.consume_all(sink, count=2999, timeout_s=60)
    assert [json.loads(r.value)["source"]["offset"] for r in results] == [i for i in range(3000) if i != 2000]
    [letter] = eos.broker.consume_all(dead_letter, count=1)
    assert headers_of(letter)["__connect.errors.offset"] == b"2000"
    assert successor.stop() == 0
    assert eos.broker.committed(eos.group, eos.source) == {1: 3000}


def test_a_result_the_sink_refuses_is_a_dead_letter_of_the_same_transaction(eos: Scene) -> None:
    sink, dead_letter = f"{eos.source}.results", f"{eos.source}.dead-letter"
    eos.broker.create_topic(sink, partitions=PARTITIONS, config={"max.message.bytes": "20000"})
    sizes = [10] * 300 + [30_000] + [10] * 300 + [100_000] + [10] * 300
    values = [json.dumps({"body": f"text {i}", "blob": "x" * size}).encode() for i, size in enumerate(sizes)]
    now = int(time.time() * 1000)
    records = [Record(value, key=b"k", partition=1, timestamp_ms=now) for value in values]
    eos.broker.produce(eos.source, records)
    worker = eos.start(classifier={"text": "/body", "passthrough": {"blob": "/blob"}})

    results = eos.broker.consume_all(sink, count=900, timeout_s=60)
    assert [json.loads(r.value)["source"]["offset"] for r in results] == [i for i in range(902) if i not in (300, 601)]
    letters = eos.broker.consume_all(dead_letter, count=2, timeout_s=60)
    assert [headers_of(letter)["__connect.errors.offset"] for letter in letters] == [b"300", b"601"]
    assert [letter.value for letter in letters] == [values[300], values[601]]
    assert worker.metric("records_total", outcome="dead_letter") == 2
    assert "read it again" not in worker.log, "refused inside the transaction, which goes on"
    assert worker.stop() == 0
    assert eos.broker.committed(eos.group, eos.source) == {1: 902}


def test_a_broker_without_transactions_is_refused_at_start(embedded_broker: Broker, start_worker: Start) -> None:
    """The embedded one, by its address: the configuration cannot tell."""
    worker = start_worker(embedded_broker, classifiers=[null("source")], app={"delivery": "exactly_once"}, ready=False)
    assert worker.wait(60) == 2
    last = worker.log.strip().splitlines()[-1]
    assert "exactly_once" in last
    assert 'delivery = "at_least_once"' in last
    assert "Traceback" not in worker.log


def _configure(broker: Broker, topic: str, name: str, value: str) -> None:
    with broker.admin() as admin:
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs={name: value})])
