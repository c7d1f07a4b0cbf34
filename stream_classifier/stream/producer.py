"""Records to the broker in produce batches: one aiokafka batch and one future for many records.

Producers of our own beside Faust's, so that the user's producer settings stay the user's and ours are the ones the
delivery promise needs: acknowledged by all in-sync replicas, retried until the delivery time-out. aiokafka keeps one
request in flight for each partition, so retries never reorder.

`TransactionalProducer` does the same inside transactions: see transactions.py for who begins and ends them, and when.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

import aiokafka
from aiokafka.errors import (
    BrokerResponseError,
    CorruptRecordException,
    IllegalOperation,
    InvalidMessageError,
    InvalidTimestampError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    NodeNotReadyError,
    ProducerClosed,
    RecordListTooLargeError,
    UnknownTopicOrPartitionError,
    kafka_errors,
)
from aiokafka.partitioner import murmur2

from stream_classifier.errors import DeliveryError
from stream_classifier.records import OutputRecord
from stream_classifier.stream.header_keys import AnyKeyBatch

__all__ = ["BatchProducer", "ProduceError", "TransactionalProducer", "key_partition"]

_REQUEST_TIMEOUT_S = 30.0
"""How long a request may take, as for Kafka's own clients: a connection that has gone silent is not noticed earlier."""

_RETRY_S = 0.1

BATCH_TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)


class InvalidRecordError(BrokerResponseError):  # type: ignore[misc]  # aiokafka has no types
    """A record breaks a rule of its topic: a null key where the topic is compacted. aiokafka does not know the code."""

    errno = 87
    message = "INVALID_RECORD"


REFUSED = (
    *BATCH_TOO_LARGE,
    InvalidTimestampError,
    InvalidMessageError,
    CorruptRecordException,
    kafka_errors.setdefault(InvalidRecordError.errno, InvalidRecordError),
)
"""What a broker says of a produce batch it did not append because of what is in it."""


class ProduceError(Exception):
    """The broker refused, or did not acknowledge in time, one produce batch. The caller decides what that means.

    Args:
        records: those of the batch.
        start: the index of the first of them in what was to be sent.
        cause: aiokafka's error.
    """

    def __init__(self, records: Sequence[OutputRecord], start: int, cause: Exception) -> None:
        super().__init__(f"{len(records)} records were not taken: {cause!r}")
        self.records = records
        self.start = start
        self.cause = cause


def key_partition(key: bytes | None, source_partition: int, num_partitions: int) -> int:
    """Kafka's own choice of partition: murmur2 of the key; for a null key the source partition, modulo the count."""
    if key is None:
        return source_partition % num_partitions
    return int(murmur2(key) & 0x7FFFFFFF) % num_partitions


class BatchProducer:
    """An aiokafka producer that takes many records at once.

    Args:
        settings: bootstrap servers, security and client id for `aiokafka.AIOKafkaProducer`.
        delivery_timeout_s: how long a batch is retried. A request without an answer is given up, and its connection
            with it, after 30 s or half of that, so that it is sent again at least once.
        max_batch_bytes: size of a produce batch; a larger single record goes alone.
    """

    def __init__(
        self, settings: Mapping[str, Any], *, delivery_timeout_s: float = 120.0, max_batch_bytes: int = 512 << 10
    ) -> None:
        self._settings = dict(settings)
        self._delivery_timeout_s = delivery_timeout_s
        self._max_batch_bytes = max_batch_bytes
        self._producer: aiokafka.AIOKafkaProducer | None = None
        self._limits: dict[str, int] = {}  # batch bytes of topics that refused larger ones

    async def start(self) -> None:
        """Connect. Raises aiokafka's KafkaConnectionError when no broker answers."""
        producer = self._client()
        try:
            await producer.start()
        except BaseException:  # cancelled while loading, too: a client that is not closed says so later
            await producer.stop()
            raise
        self._producer = producer

    def _client(self) -> Any:
        producer = aiokafka.AIOKafkaProducer(
            acks="all",
            linger_ms=0,
            max_batch_size=self._max_batch_bytes,
            request_timeout_ms=int(min(_REQUEST_TIMEOUT_S, self._delivery_timeout_s / 2) * 1000),
            **self._settings,
        )
        # aiokafka has one setting for both, and so would never send a request again that got no answer.
        producer._message_accumulator._batch_ttl = self._delivery_timeout_s
        return producer

    async def stop(self, timeout_s: float) -> None:
        """Close; batches not acknowledged within `timeout_s` are given up (they were never committed)."""
        producer, self._producer = self._producer, None
        if producer is not None:
            try:
                await asyncio.wait_for(producer.flush(), timeout_s)
            except asyncio.TimeoutError:
                await _abandon(producer)
            else:
                await producer.stop()

    async def send(self, topic: str, partition: int, records: Sequence[OutputRecord]) -> None:
        """Produce records in order; returns when all are acknowledged by all in-sync replicas.

        A produce batch goes out when the one before it is acknowledged (aiokafka would not send it earlier anyway), so
        that nothing overtakes a batch the broker refuses.

        Raises:
            ProduceError: for the first batch that was refused or not acknowledged in time; nothing behind it was sent.
            DeliveryError: the producer was not started, or was stopped.
        """
        start = 0
        while start < len(records):
            producer = self._producer
            if producer is None:
                raise DeliveryError("the producer is not running: nothing more is produced, it is read again")
            builder = producer.create_batch()
            end = self._fill(builder, topic, records, start)
            if end == start:
                builder = AnyKeyBatch(producer, self._max_batch_bytes)
                end = self._fill(builder, topic, records, start)
            try:
                await self._produce(producer, builder, topic, partition)
            except KafkaError as error:
                if isinstance(error, BATCH_TOO_LARGE) and end - start > 1:
                    # Half of what was refused, and never more than before: at least half of what the topic takes.
                    self._limits[topic] = min(builder.size() // 2, self._limits.get(topic, self._max_batch_bytes))
                raise ProduceError(records[start:end], start, error) from error
            start = end

    async def _produce(self, producer: Any, builder: Any, topic: str, partition: int) -> None:
        """One produce batch, until it is acknowledged. Raises aiokafka's KafkaError when it is not."""
        try:
            answer = await producer.send_batch(builder, topic, partition=partition)
        except AssertionError as error:  # what aiokafka says of a topic that has no such partition any more
            raise UnknownTopicOrPartitionError(f"{topic} has no partition {partition}") from error
        await answer

    def _fill(self, builder: Any, topic: str, records: Sequence[OutputRecord], start: int) -> int:
        """Append records from `start` on until the batch is full, or a header key is none for it (header_keys.py);
        returns the index behind the last one.
        """
        limit = self._limits.get(topic)
        append = builder.append
        end = start
        with contextlib.suppress(UnicodeEncodeError):
            for key, value, timestamp, headers in itertools.islice(records, start, None):
                if append(key=key, value=value, timestamp=timestamp, headers=headers) is None:
                    break
                end += 1
                if limit is not None and builder.size() >= limit:
                    break
        builder.close()
        return end


class TransactionalProducer(BatchProducer):
    """A producer whose records and offsets are seen by `read_committed` readers together, or never.

    The calls of one object must not overlap, but for `send` to different partitions inside one transaction.

    Args:
        settings, delivery_timeout_s, max_batch_bytes: as for BatchProducer. The delivery time-out also bounds the end
            of a transaction: aiokafka itself would wait for ever.
        transactional_id: starting a producer with the same id ends this one's transaction and fences it off.
        transaction_timeout_s: after which the broker aborts a transaction that nobody ends.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        *,
        transactional_id: str,
        transaction_timeout_s: float,
        delivery_timeout_s: float = 120.0,
        max_batch_bytes: int = 512 << 10,
    ) -> None:
        transactional = {
            "transactional_id": transactional_id,
            "transaction_timeout_ms": int(transaction_timeout_s * 1000),
        }
        super().__init__(
            {**settings, **transactional}, delivery_timeout_s=delivery_timeout_s, max_batch_bytes=max_batch_bytes
        )
        self.transactional_id = transactional_id

    async def start(self) -> None:
        """Connect, end what an earlier producer with this id left open, and fence it off; tried again while connections
        break, for the delivery time-out.
        """
        await self._bounded(self._start())

    async def _start(self) -> None:
        while True:
            try:
                return await super().start()
            except KafkaConnectionError:
                await asyncio.sleep(_RETRY_S)

    def _client(self) -> Any:
        producer = super()._client()
        lookup = producer.client.coordinator_lookup

        async def coordinator_lookup(*args: Any) -> Any:
            try:
                return await lookup(*args)
            except KafkaConnectionError as error:
                # This one aiokafka's sender tries again; on the other it ends for good, and the transaction with it.
                raise NodeNotReadyError(str(error)) from error

        producer.client.coordinator_lookup = coordinator_lookup
        return producer

    async def begin(self) -> None:
        """Begin a transaction; the broker hears of it with the first record or offset."""
        await self._bounded(self._running().begin_transaction())

    async def commit(self, offsets: Mapping[Any, int | tuple[int, str]], group: str) -> None:
        """Commit what was sent together with the offsets of this consumer group, each alone or with its metadata.

        Raises:
            KafkaError: it was not committed, or (KafkaTimeoutError, a lost connection) nobody knows: start a producer
                with the same id, then read the committed offsets.
        """
        await self._bounded(self._commit(self._running(), offsets, group))

    async def _commit(self, producer: Any, offsets: Mapping[Any, int | tuple[int, str]], group: str) -> None:
        at = {aiokafka.TopicPartition(*partition): offset for partition, offset in offsets.items()}
        await producer.send_offsets_to_transaction(at, group)
        await producer.commit_transaction()

    async def abort(self) -> None:
        """Abort the transaction. Raises KafkaError where it cannot."""
        await self._bounded(self._running().abort_transaction())

    async def close(self) -> None:
        """Close at once. Whoever still waits for an acknowledgement gets ProducerClosed."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer._message_accumulator.fail_all(ProducerClosed())
            waiter = producer._txn_manager.wait_for_transaction_end()
            await _abandon(producer)
            if waiter is not None:
                waiter.add_done_callback(_look_at)

    async def _produce(self, producer: Any, builder: Any, topic: str, partition: int) -> None:
        try:
            await self._bounded(self._sent(producer, builder, topic, partition))  # else it is retried without end
        except REFUSED:
            # Nothing was appended, so the broker expects the sequence number of this batch from the next one. aiokafka
            # has already counted it, and the next batch would fail as out of order.
            producer._txn_manager.increment_sequence_number(
                aiokafka.TopicPartition(topic, partition), -builder.record_count()
            )
            raise

    async def _sent(self, producer: Any, builder: Any, topic: str, partition: int) -> None:
        acknowledged = await producer.send_batch(builder, topic, partition=partition)
        for waiting in producer._message_accumulator._batches.get((topic, partition), ()):
            waiting._drain_waiter.add_done_callback(_look_at)  # fails along with `acknowledged`, and nobody looks
        await acknowledged

    async def _bounded(self, answer: Awaitable[None]) -> None:
        try:
            await asyncio.wait_for(answer, self._delivery_timeout_s)
        except asyncio.TimeoutError as error:
            raise KafkaTimeoutError(f"no answer within {self._delivery_timeout_s:g} s") from error
        except (
            IllegalOperation,
            AssertionError,
        ) as error:  # aiokafka's state after a fatal error that others were told
            raise ProducerClosed() from error

    def _running(self) -> Any:
        if self._producer is None:
            raise ProducerClosed()
        return self._producer


def _look_at(future: asyncio.Future[Any]) -> None:
    """An error that others were told of already: asyncio need not report it as forgotten."""
    if not future.cancelled():
        future.exception()


async def _abandon(producer: Any) -> None:
    """Close a producer whose batches nobody acknowledges: its own `stop` would wait for them without a bound."""
    producer._closed = True
    await producer.client.close()
    sender = producer._sender.sender_task
    while not sender.done():  # when cancelled, it first waits for its open requests: cancelled again, for those no more
        sender.cancel()
        await asyncio.wait([sender], timeout=0.1)
