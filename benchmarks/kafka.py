"""Apache Kafka for a benchmark: one node of its own, topics filled with records, and how far a topic has come.

The node is started by the script that STREAM_CLASSIFIER_KAFKA names, as the tests start theirs.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition

from stream_classifier.errors import ConfigError
from stream_classifier.records import OutputRecord
from stream_classifier.stream.producer import BatchProducer, key_partition
from tests.plugins.brokers import PROJECT_KAFKA, ApacheKafka

__all__ = ["PARTITIONS", "Kafka", "apache_kafka", "kafka_script"]

PARTITIONS = 4
_CHUNK = 10_000
_TICK_S = 0.05


@contextlib.contextmanager
def apache_kafka() -> Iterator[Kafka]:
    """A fresh node on a free loopback port, gone with all its data at the end.

    Raises:
        ConfigError: there is no start script.
    """
    with tempfile.TemporaryDirectory(prefix="stream-classifier-bench-") as data:
        before = set(psutil.Process().children())
        node = ApacheKafka(kafka_script(), Path(data) / "kafka")
        bootstrap = node.start()
        (process,) = set(psutil.Process().children()) - before
        kafka = Kafka(bootstrap, process)
        try:
            yield kafka
        finally:
            kafka.close()
            node.kill()


def kafka_script() -> Path:
    """The start script. Raises ConfigError where there is none."""
    named = os.environ.get("STREAM_CLASSIFIER_KAFKA")
    script = Path(named) if named else PROJECT_KAFKA / "kafka.sh"
    if not script.is_file() or (not named and not any((PROJECT_KAFKA / "libs").glob("kafka_*.jar"))):
        raise ConfigError("no Apache Kafka here: run `make kafka`, or set STREAM_CLASSIFIER_KAFKA to a start script")
    return script


class Kafka:
    """A running broker.

    Attributes:
        bootstrap: host:port.
        process: the broker's, for its CPU time.
    """

    def __init__(self, bootstrap: str, process: psutil.Process) -> None:
        self.bootstrap = bootstrap
        self.process = process
        self._admin: Any = KafkaAdminClient(bootstrap_servers=bootstrap)
        self._reader: Any = KafkaConsumer(bootstrap_servers=bootstrap, group_id=None, enable_auto_commit=False)

    def close(self) -> None:
        """Close the clients."""
        self._reader.close()
        self._admin.close()

    def create(self, *topics: str, config: Mapping[str, str] | None = None) -> None:
        """Make topics of four partitions with these settings, and wait for their leaders."""
        options = {"num_partitions": PARTITIONS, "replication_factor": 1, "configs": dict(config or {})}
        self._admin.create_topics(dict.fromkeys(topics, options), wait_for_metadata=True)

    def delete(self, *topics: str) -> None:
        """Give a topic's disk space back."""
        self._admin.delete_topics(list(topics))

    def fill(self, topic: str, records: Iterable[tuple[bytes, bytes]]) -> None:
        """Make a topic and fill it with (key, value)."""
        self.create(topic)
        self.send(topic, records)

    def send(self, topic: str, records: Iterable[tuple[bytes, bytes]], *, rate: float = 0.0) -> None:
        """Send (key, value), each to the partition of its key's hash, stamped with now; returns when acknowledged.

        Args:
            rate: records a second, evenly; 0: as fast as it goes.
        """
        asyncio.run(self._send(topic, records, rate))

    async def _send(self, topic: str, records: Iterable[tuple[bytes, bytes]], rate: float) -> None:
        producer = BatchProducer({"bootstrap_servers": self.bootstrap})
        await producer.start()
        lanes: list[list[OutputRecord]] = [[] for _ in range(PARTITIONS)]
        lane_of = functools.lru_cache(10_000)(lambda key: lanes[key_partition(key, 0, PARTITIONS)])
        chunk = max(1, round(rate * _TICK_S)) if rate else _CHUNK
        started = time.monotonic()
        for sent, (key, value) in enumerate(records, start=1):
            lane_of(key).append((key, value, int(time.time() * 1000), []))
            if sent % chunk == 0:
                await _flush(producer, topic, lanes)
                if rate:
                    await asyncio.sleep(max(0.0, started + sent / rate - time.monotonic()))
        await _flush(producer, topic, lanes)
        await producer.stop(30.0)

    def count(self, topic: str) -> int:
        """Records in a topic, by its end offsets."""
        return sum(self._reader.end_offsets([TopicPartition(topic, number) for number in range(PARTITIONS)]).values())

    def committed(self, group: str, topic: str) -> int:
        """Records of a topic that a group has committed. Of a transactional sink the end offsets tell no count."""
        offsets = self._admin.list_group_offsets({group: None})[group]
        return sum(max(0, at.offset) for partition, at in offsets.items() if partition.topic == topic)

    def read(self, topic: str, count: int) -> list[tuple[int, bytes | None, bytes | None, int]]:
        """(partition, key, value, timestamp in ms) of all records, sorted: equal lists hold the same multiset."""
        partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        records: list[tuple[int, bytes | None, bytes | None, int]] = []
        self._reader.assign(partitions)
        self._reader.seek_to_beginning()
        deadline = time.monotonic() + 60
        while len(records) < count and time.monotonic() < deadline:
            for batch in self._reader.poll(timeout_ms=200, max_records=5000).values():
                records += [(record.partition, record.key, record.value, record.timestamp) for record in batch]
        self._reader.unsubscribe()
        return sorted(records)


async def _flush(producer: BatchProducer, topic: str, lanes: Sequence[list[OutputRecord]]) -> None:
    await asyncio.gather(*(producer.send(topic, number, lane) for number, lane in enumerate(lanes) if lane))
    for lane in lanes:
        lane.clear()
