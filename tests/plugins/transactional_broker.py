"""A broker of transactions played by a test: requests wait, and are answered, lost or refused as the test says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka.errors import KafkaTimeoutError, OutOfOrderSequenceNumber, ProducerClosed, ProducerFenced

from stream_classifier.stream.producer import ProduceError
from stream_classifier.stream.watermark import TopicPartition

__all__ = ["OUTCOMES", "PARTITIONS", "Broker", "Producer"]

PARTITIONS = (0, 1)
OUTCOMES = ("failed", "lost", "refused")
"""Of a request: it takes no effect; it does, and the answer is lost; the producer's state is bad."""


@dataclass(eq=False)
class Request:
    """A request on its way: what it does at the broker, and who waits for the answer."""

    effect: Callable[[], None]
    answer: asyncio.Future[None]


class Broker:
    """The transactional side of a broker: what is visible, what is committed, and who may change it."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.visible: dict[int, list[int]] = {partition: [] for partition in PARTITIONS}
        self.committed = dict.fromkeys(PARTITIONS, 0)
        self.epochs = dict.fromkeys(PARTITIONS, 0)
        self.open: dict[int, list[int]] = {partition: [] for partition in PARTITIONS}

    def process(self, request: Request, outcome: str) -> None:
        self.requests.remove(request)
        error: Exception | None = None
        if outcome in ("done", "lost"):
            try:
                request.effect()
            except ProducerFenced as fenced:
                error = fenced
        if outcome in ("failed", "lost"):
            error = KafkaTimeoutError()
        elif outcome == "refused":
            error = OutOfOrderSequenceNumber()
        if not request.answer.done():
            request.answer.set_result(None) if error is None else request.answer.set_exception(error)

    def start(self, partition: int) -> int:
        """Fence earlier owners off, and end what they left open."""
        self.epochs[partition] += 1
        self.open[partition] = []
        return self.epochs[partition]

    def require(self, partition: int, epoch: int) -> None:
        if epoch != self.epochs[partition]:
            raise ProducerFenced()

    def produce(self, partition: int, epoch: int, offsets: Sequence[int]) -> None:
        self.require(partition, epoch)
        self.open[partition] += offsets

    def end(self, partition: int, epoch: int, offset: int | None) -> None:
        """Commit with an offset, or abort."""
        self.require(partition, epoch)
        if offset is not None:
            self.visible[partition] += self.open[partition]
            self.committed[partition] = offset
        self.open[partition] = []


class Producer:
    """What TransactionalProducer is to the transactions, on that broker."""

    def __init__(self, broker: Broker, partition: int) -> None:
        self.broker, self.partition, self.epoch = broker, partition, 0
        self.waiting: set[asyncio.Future[None]] = set()
        self.closed = False

    async def _request(self, effect: Callable[[], None]) -> None:
        if self.closed:
            raise ProducerClosed()
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.broker.requests.append(Request(effect, answer))
        self.waiting.add(answer)
        try:
            await answer
        finally:
            self.waiting.discard(answer)

    async def start(self) -> None:
        def effect() -> None:
            self.epoch = self.broker.start(self.partition)

        await self._request(effect)

    async def begin(self) -> None:
        if self.closed:
            raise ProducerClosed()

    async def send(self, topic: str, partition: int, records: Sequence[Any]) -> None:
        offsets = [offset for offset, *_ in records]
        try:
            await self._request(lambda: self.broker.produce(self.partition, self.epoch, offsets))
        except (KafkaTimeoutError, OutOfOrderSequenceNumber, ProducerFenced, ProducerClosed) as error:
            raise ProduceError(records, 0, error) from error

    async def commit(self, offsets: Mapping[TopicPartition, int], group: str) -> None:
        [(partition, offset)] = offsets.items()
        assert partition.partition == self.partition
        await self._request(lambda: self.broker.end(self.partition, self.epoch, offset))

    async def abort(self) -> None:
        await self._request(lambda: self.broker.end(self.partition, self.epoch, None))

    async def close(self) -> None:
        self.closed = True
        for answer in list(self.waiting):
            answer.set_exception(ProducerClosed())
