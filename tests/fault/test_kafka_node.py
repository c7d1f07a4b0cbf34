"""The Apache Kafka node of the fault tests: what it acknowledged survives a crash, and its transactions hide aborts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from aiokafka import AIOKafkaProducer

from stream_classifier.broker import broker_answers
from tests.plugins.brokers import ApacheKafka, Broker, Record


def test_acknowledged_records_survive_a_crash(kafka_nodes: Callable[..., ApacheKafka]) -> None:
    node = kafka_nodes(settings=["auto.create.topics.enable=false"])
    broker = Broker(node.start(), "kafka")
    broker.create_topic("kept", partitions=2)
    broker.produce("kept", [Record(b"%d" % number, partition=number % 2) for number in range(20)])
    node.kill()
    assert not broker_answers(node.port)
    assert node.start() == broker.bootstrap
    broker.produce("kept", [Record(b"after", partition=0)])
    values = [record.value for record in broker.consume_all("kept", count=21)]
    assert values == [*(b"%d" % n for n in range(0, 20, 2)), b"after", *(b"%d" % n for n in range(1, 20, 2))]


@pytest.mark.parametrize(
    ("isolation", "seen"), [("read_committed", [b"kept"]), ("read_uncommitted", [b"kept", b"dropped"])]
)
async def test_committed_readers_do_not_see_aborted_records(
    apache_kafka: Broker, unique_name: Callable[[str], str], isolation: str, seen: list[bytes]
) -> None:
    topic = unique_name("transactions")
    await asyncio.to_thread(apache_kafka.create_topic, topic)
    producer = AIOKafkaProducer(bootstrap_servers=apache_kafka.bootstrap, transactional_id=unique_name("writer"))
    await producer.start()
    try:
        async with producer.transaction():
            await producer.send_and_wait(topic, b"kept")
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"dropped")
        await producer.abort_transaction()
    finally:
        await producer.stop()
    records = await asyncio.to_thread(apache_kafka.consume_all, topic, isolation=isolation)
    assert [record.value for record in records] == seen
