"""Kafka as aiokafka's producer shows it, in memory: keeps what it acknowledges, refuses what a topic does not take.

Batches are built by aiokafka's own builder and read back from their bytes, so their sizes and contents are the real
ones.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import aiokafka
import pytest
from aiokafka.consumer.fetcher import READ_UNCOMMITTED
from aiokafka.errors import InvalidTimestampError, KafkaError, MessageSizeTooLargeError
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.structs import TopicPartition

from stream_classifier.records import OutputRecord
from stream_classifier.stream.header_keys import AnyKeyRecords, KeptRecords
from stream_classifier.stream.producer import BatchProducer

__all__ = ["FakeKafka"]

Rule = Callable[[str, Sequence[OutputRecord], int], "KafkaError | None"]


class FakeKafka:
    """Topics and their rules.

    Attributes:
        log: (topic, partition) → all records that were acknowledged, in order.
        requests: (topic, number of records) of every produce batch, in the order they came.
        clients: the producers that were made.
        on_request: called when a produce batch has come.
    """

    def __init__(self) -> None:
        self.log: defaultdict[tuple[str, int], list[OutputRecord]] = defaultdict(list)
        self.requests: list[tuple[str, int]] = []
        self.clients: list[FakeClient] = []
        self.on_request: Callable[[], None] = lambda: None
        self._rules: list[Rule] = []
        self._gates: dict[tuple[str, int], asyncio.Event] = {}

    def limit(self, topic: str, max_bytes: int) -> None:
        """Refuse produce batches above a size, as `max.message.bytes` of the topic does."""

        def rule(to: str, records: Sequence[OutputRecord], size: int) -> KafkaError | None:
            return MessageSizeTooLargeError() if to == topic and size > max_bytes else None

        self._rules.append(rule)

    def limit_timestamps(self, *, after_ms: int = 3_600_000, before_ms: int = 1 << 62) -> None:
        """Refuse timestamps too far ahead or behind, as `message.timestamp.after.max.ms` and `…before…` do."""

        def rule(topic: str, records: Sequence[OutputRecord], size: int) -> KafkaError | None:
            now_ms = time.time() * 1000
            outside = any(not now_ms - before_ms <= (at or 0) <= now_ms + after_ms for _, _, at, _ in records)
            return InvalidTimestampError() if outside else None

        self._rules.append(rule)

    def refuse(self, topic: str, error: KafkaError, key: bytes | None = None) -> None:
        """Refuse every batch, or those that hold a record with this key."""

        def rule(to: str, records: Sequence[OutputRecord], size: int) -> KafkaError | None:
            return error if to == topic and (key is None or any(record[0] == key for record in records)) else None

        self._rules.append(rule)

    def hold(self, topic: str, partition: int) -> asyncio.Event:
        """Answer no batch of this partition before the event is set."""
        return self._gates.setdefault((topic, partition), asyncio.Event())

    async def produce(self, topic: str, partition: int, data: bytes) -> None:
        """What the broker does with a batch."""
        records = _read(data)
        self.requests.append((topic, len(records)))
        self.on_request()
        if (topic, partition) in self._gates:
            await self._gates[topic, partition].wait()
        for rule in self._rules:
            if (error := rule(topic, records, len(data))) is not None:
                raise error
        self.log[topic, partition] += records

    @asynccontextmanager
    async def producer(self, **options: Any) -> AsyncIterator[BatchProducer]:
        """A producer that is connected to these topics."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(aiokafka, "AIOKafkaProducer", lambda **settings: FakeClient(self, settings))
            producer = BatchProducer({"bootstrap_servers": ["kafka:9092"]}, **options)
            await producer.start()
        try:
            yield producer
        finally:
            await producer.stop(1.0)


class FakeClient:
    """What BatchProducer uses of aiokafka.AIOKafkaProducer."""

    _txn_manager = None

    def __init__(self, kafka: FakeKafka, settings: dict[str, Any]) -> None:
        self.kafka = kafka
        self.settings = settings
        self.running = False
        self._message_accumulator = SimpleNamespace()
        self._answers: set[asyncio.Future[None]] = set()
        kafka.clients.append(self)

    async def start(self) -> None:
        self.running = True

    async def stop(self) -> None:
        self.running = False

    async def flush(self) -> None:
        if self._answers:
            await asyncio.wait(self._answers)

    def create_batch(self) -> BatchBuilder:
        return BatchBuilder(self.settings["max_batch_size"], 0)

    async def send_batch(self, builder: BatchBuilder, topic: str, *, partition: int) -> asyncio.Future[None]:
        answer = asyncio.ensure_future(self.kafka.produce(topic, partition, bytes(builder._build())))
        self._answers.add(answer)
        answer.add_done_callback(self._answers.discard)
        return answer


def _read(data: bytes) -> list[OutputRecord]:
    records = AnyKeyRecords(TopicPartition("", 0), KeptRecords(data), [], 0, None, None, True, READ_UNCOMMITTED)
    return [(record.key, record.value, record.timestamp, list(record.headers)) for record in records]
