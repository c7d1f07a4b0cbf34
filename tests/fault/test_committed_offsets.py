"""Committed offsets while Apache Kafka starts: its group coordinator loads them, and says so to whoever asks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiokafka import AIOKafkaConsumer, TopicPartition

from stream_classifier.stream.committed_offsets import heed_group_errors
from tests.plugins.brokers import ApacheKafka, Broker

PARTITION = TopicPartition("source", 0)
ANSWERS = 20
"""Until the next kill: of a coordinator that has loaded, for one that has not is asked again."""
RESTARTS = 3
"""Of aiokafka alone, five of six restarts show that "nothing is committed"."""


async def test_what_is_committed_is_never_taken_for_nothing(kafka_nodes: Callable[..., ApacheKafka]) -> None:
    node = kafka_nodes()
    await asyncio.to_thread(node.start)
    await asyncio.to_thread(Broker(node.bootstrap, "kafka").create_topic, PARTITION.topic, partitions=1)
    async with AIOKafkaConsumer(
        bootstrap_servers=node.bootstrap, group_id="group", enable_auto_commit=False
    ) as consumer:
        heed_group_errors(consumer)
        consumer.assign([PARTITION])
        for _ in range(2_000):  # something to load
            await consumer.commit({PARTITION: 10})
        seen = []
        asking, answered = True, asyncio.Event()

        async def ask() -> None:
            while asking:
                seen.append(await consumer.committed(PARTITION))
                answered.set()

        asked = asyncio.ensure_future(ask())
        for _ in range(RESTARTS):
            await asyncio.to_thread(node.kill)
            await asyncio.to_thread(node.start)
            for _ in range(ANSWERS):
                answered.clear()
                await asyncio.wait_for(answered.wait(), 60.0)
        asking = False
        await asyncio.wait_for(asked, 60.0)
    assert set(seen) == {10}
