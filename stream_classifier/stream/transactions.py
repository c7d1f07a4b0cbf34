"""Exactly once: outputs and offsets of a source partition in one transaction.

Each source partition has a producer of its own, whose transactional id is the partition's. Its start, inside the
assignment and before the committed offset is read, ends whatever transaction an earlier owner left open and fences that
owner off: whoever started last, and nobody else, can produce and commit for the partition. That, and not the group
membership, is what makes it exactly once, so a worker that was thought dead and comes back changes nothing.

Steps and commits of a partition exclude each other (`_gate`): all that is in a transaction when it is committed is
acknowledged, and its offset lies exactly behind what its outputs were made of. A step that fails, or whose records are
dropped meanwhile, breaks the transaction: it is never committed, and the partition is read again from the committed
offset by whoever starts its next producer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiokafka import errors as kafka

from stream_classifier.errors import DeliveryError, TransientError
from stream_classifier.stream.delivery import Producer
from stream_classifier.stream.guarantee import Step
from stream_classifier.stream.producer import ProduceError
from stream_classifier.stream.watermark import TopicPartition

__all__ = ["Committed", "TransactionAborted", "Transactions", "transactional_id"]

logger = logging.getLogger(__name__)

LOST = (
    kafka.ProducerFenced,
    kafka.InvalidProducerEpoch,
    kafka.InvalidProducerIdMapping,
    kafka.InvalidTxnState,
    kafka.OutOfOrderSequenceNumber,
    kafka.UnknownProducerId,
    kafka.ProducerClosed,
)
"""The broker's side of a transaction is gone: another owner took over, or it was open for too long."""


class TransactionAborted(TransientError):
    """Nothing of the open transaction of a source partition will be seen; the partition is read again.

    Attributes:
        partition: the source partition.
        released: the partition was let go of meanwhile: nobody here needs to do anything.
    """

    def __init__(self, partition: TopicPartition, why: str, *, released: bool = False) -> None:
        super().__init__(f"{partition.topic}[{partition.partition}]: {why}")
        self.partition = partition
        self.released = released


class _TransactionalProducer(Producer, Protocol):
    """What transactions need of a producer; `TransactionalProducer` is the real one."""

    async def start(self) -> None: ...
    async def begin(self) -> None: ...
    async def commit(self, offsets: Mapping[Any, int], group: str) -> None: ...
    async def abort(self) -> None: ...
    async def close(self) -> None: ...


@dataclass
class Committed:
    """What came of a round of commits.

    Attributes:
        offsets: the new committed offset of each partition that had one.
        errors: partition → TransactionAborted, or the error that must stop the worker.
    """

    offsets: dict[TopicPartition, int] = field(default_factory=dict)
    errors: dict[TopicPartition, Exception] = field(default_factory=dict)


def transactional_id(app: str, partition: TopicPartition) -> str:
    """The transactional id of a source partition, whoever owns it."""
    return f"{app}-{partition.topic}-{partition.partition}"


class Transactions:
    """The exactly-once guarantee: the transactions of all assigned source partitions. Event loop only.

    Args:
        new_producer: a producer for a partition, with that partition's transactional id, not started.
        group: the consumer group whose offsets are committed.
    """

    def __init__(self, new_producer: Callable[[TopicPartition], _TransactionalProducer], group: str) -> None:
        self._new_producer = new_producer
        self._group = group
        self._transactions: dict[TopicPartition, _Transaction] = {}
        self._commits: dict[TopicPartition, asyncio.Task[int | None]] = {}

    async def assign(self, partitions: Iterable[TopicPartition], timeout_s: float) -> None:
        """Become the owner of partitions, all at once. Only then may their committed offsets be read.

        Raises:
            DeliveryError: it cannot, within `timeout_s` or at all.
        """
        await self.release(partitions, 0.0)
        producers = {partition: self._new_producer(partition) for partition in partitions}
        if not producers:
            return
        try:
            await self._start(list(producers.values()), timeout_s)
        except BaseException:
            await asyncio.gather(*(producer.close() for producer in producers.values()))
            raise
        for partition, producer in producers.items():
            self._transactions[partition] = _Transaction(partition, producer, self._group)

    async def _start(self, producers: list[_TransactionalProducer], timeout_s: float) -> None:
        starts = [asyncio.ensure_future(producer.start()) for producer in producers]
        try:
            await asyncio.wait(starts, timeout=timeout_s, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            late = [start for start in starts if start.cancel()]
            await asyncio.gather(*starts, return_exceptions=True)
        for start in starts:
            if start not in late and (error := start.exception()) is not None:
                raise DeliveryError(f"transactions cannot be started: {error!r}") from error
        if late:
            raise DeliveryError(f"{len(late)} of {len(starts)} partitions started no transactions in {timeout_s:g} s")

    async def release(self, partitions: Iterable[TopicPartition], timeout_s: float) -> None:
        """Let go of partitions: open transactions are aborted where `timeout_s` is enough for it.

        One that is not aborted here ends with the start of the next owner, or with the transaction time-out.
        """
        released = [self._transactions.pop(partition) for partition in partitions if partition in self._transactions]
        await asyncio.gather(*(transaction.release(timeout_s) for transaction in released))
        commits = [self._commits.pop(one.partition) for one in released if one.partition in self._commits]
        await asyncio.gather(*commits, return_exceptions=True)  # they know that they were released

    async def close(self, timeout_s: float) -> None:
        """Let go of all partitions."""
        await self.release(list(self._transactions), timeout_s)

    @asynccontextmanager
    async def step(self, partition: TopicPartition) -> AsyncIterator[Step]:
        """A step inside the partition's transaction; its outputs are delivered when that is committed."""
        if partition not in self._transactions:
            raise TransactionAborted(partition, "it was let go of", released=True)
        async with self._transactions[partition].step() as step:
            yield step

    def drop(self, partitions: Iterable[TopicPartition]) -> None:
        """Records of these partitions are read again: what they have produced so far must never be committed."""
        for partition in partitions:
            if partition in self._transactions:
                self._transactions[partition].drop()

    async def commit(self, offset: Callable[[TopicPartition], int | None], timeout_s: float) -> Committed:
        """Commit all open transactions, side by side; returns what is done after `timeout_s` at most.

        A commit that takes longer goes on, and is told of by a later call; nothing else of its partition happens
        meanwhile.

        Args:
            offset: the offset to commit of a partition, asked for when no step of it is under way.
        """
        for partition, transaction in self._transactions.items():
            if partition not in self._commits and transaction.is_open:
                self._commits[partition] = asyncio.ensure_future(transaction.commit(offset))
        committed = Committed()
        if self._commits:
            await asyncio.wait(self._commits.values(), timeout=timeout_s)
        for partition, commit in list(self._commits.items()):
            if commit.done():
                del self._commits[partition]
                error = commit.exception()
                if isinstance(error, Exception):
                    committed.errors[partition] = error
                elif error is None and (at := commit.result()) is not None:
                    committed.offsets[partition] = at
        return committed

    @property
    def is_pending(self) -> bool:
        """Whether anything was produced that is not committed."""
        return any(transaction.is_open for transaction in self._transactions.values())


class _Transaction:
    """One source partition's transactions, one after the other, all with the producer of one ownership."""

    def __init__(self, partition: TopicPartition, producer: _TransactionalProducer, group: str) -> None:
        self.partition = partition
        self.is_open = False
        self._producer = producer
        self._group = group
        self._gate = asyncio.Lock()
        self._end: int | None = None
        self._delivered: list[Callable[[], None]] = []
        self._broken = False
        self._released = False

    @asynccontextmanager
    async def step(self) -> AsyncIterator[Step]:
        async with self._gate:
            with self._or_broken():
                self._require_whole()
                if not self.is_open:
                    await self._producer.begin()
                    self.is_open = True
                step = Step(self._producer)
                yield step
                self._require_whole()
                if step.end is None:
                    raise ValueError("the step has not said which offset it covers")
                self._end = step.end
                self._delivered += step.delivered

    async def commit(self, offset: Callable[[TopicPartition], int | None]) -> int | None:
        """Commit, if there is something to commit; returns the committed offset."""
        async with self._gate:
            if self._broken or not self.is_open:
                return None
            with self._or_broken():
                at = offset(self.partition)
                if at is None or at != self._end:
                    raise TransactionAborted(self.partition, f"it holds results up to {self._end}, offsets up to {at}")
                await self._producer.commit({self.partition: at}, self._group)
                self.is_open = False
        delivered, self._delivered = self._delivered, []
        for tell in delivered:
            tell()
        return at

    def drop(self) -> None:
        if self.is_open or self._gate.locked():
            self._broken = True

    async def release(self, timeout_s: float) -> None:
        self._released = self._broken = True
        # With a request under way an abort could overtake it, and leave a transaction that nobody ends (KIP-890).
        if self.is_open and not self._gate.locked() and timeout_s > 0:
            try:
                await asyncio.wait_for(self._producer.abort(), timeout_s)
            except (kafka.KafkaError, asyncio.TimeoutError) as error:
                logger.debug("%s: not aborted here: %r", self.partition, error)  # ends otherwise, see Transactions
        await self._producer.close()

    def _require_whole(self) -> None:
        if self._broken:
            raise TransactionAborted(self.partition, "its records are read again")

    @contextmanager
    def _or_broken(self) -> Iterator[None]:
        """What fails in here is never committed."""
        try:
            yield
        except BaseException as error:
            self._broken = True
            if isinstance(error, TransactionAborted):
                error.released = self._released
            elif isinstance(error, Exception) and (self._released or _is_lost(error)):
                why = f"the transaction has ended elsewhere ({_cause(error)!r})"
                raise TransactionAborted(self.partition, why, released=self._released) from error
            raise


def _is_lost(error: BaseException) -> bool:
    return isinstance(_cause(error), LOST)


def _cause(error: BaseException) -> BaseException:
    """The error of aiokafka's at the root of ours, or of its own more general one."""
    while True:
        inner = error.cause if isinstance(error, ProduceError) else error.__cause__
        if isinstance(error, LOST) or inner is None:
            return error
        error = inner
