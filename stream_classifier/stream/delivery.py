"""Deliver what a record batch produced: acknowledged, or stopped for; what one record is refused for is a dead letter.

A step of a source partition is delivered when every record of it is acknowledged by the broker. Errors that concern
one record (too large, a timestamp out of range) split its produce batch until that record stands alone; all other
errors end in DeliveryError, after aiokafka has retried the retriable ones for the delivery time-out.
"""

from __future__ import annotations

import asyncio
import logging
import time
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

from aiokafka import errors as kafka

from stream_classifier.errors import DeliveryError, RecordError
from stream_classifier.records import OutputRecord, SourceRecord
from stream_classifier.stream.dead_letter import TIMESTAMP_HEADER, envelope, without_source, without_value
from stream_classifier.stream.producer import BATCH_TOO_LARGE, REFUSED, ProduceError, key_partition

__all__ = ["Delivery", "Placement", "Refusal", "Shipment"]

logger = logging.getLogger(__name__)

_TIMESTAMP_AFTER_MAX_MS = 3_600_000
"""Kafka's default for message.timestamp.after.max.ms (KIP-937); a narrower limit is found by splitting."""


class Producer(Protocol):
    """What delivery needs of a producer; `BatchProducer` is the real one."""

    async def send(self, topic: str, partition: int, records: Sequence[OutputRecord]) -> None: ...


@dataclass(slots=True)
class Shipment:
    """Records for one partition of one topic, in the order of their sources.

    Attributes:
        classifier: whose results these are; None for dead letters.
        sources: the source record of each; where one is refused, its dead letter is made of it.
        dead_letter: the topic for those that are refused.
    """

    topic: str
    partition: int
    records: list[OutputRecord]
    sources: list[SourceRecord]
    classifier: str | None
    dead_letter: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """A result that a topic refused for itself: it was delivered as a dead letter instead."""

    classifier: str
    source: SourceRecord
    error: RecordError


class Placement:
    """Which partition of an output topic a record goes to.

    The source's own where the counts matched at start (order kept, no hashing); otherwise Kafka's hash of the key. A
    source that grows while we run: its new partitions modulo the output's count, with a warning.
    """

    def __init__(self, source: str, num_source: int, num_outputs: Mapping[str, int]) -> None:
        self._source = source
        self._num_source = num_source
        self._num_outputs = dict(num_outputs)
        self._warned: set[int] = set()

    def fixed(self, topic: str, source_partition: int) -> int | None:
        """The one partition all records of this source partition go to, or None when their keys decide."""
        count = self._num_outputs[topic]
        if count != self._num_source:
            return None
        if source_partition >= count and source_partition not in self._warned:
            self._warned.add(source_partition)
            logger.warning(
                "%s has grown: its new partition %d goes to partition %d of %s; "
                "add partitions there and restart the workers",
                self._source,
                source_partition,
                source_partition % count,
                topic,
            )
        return source_partition % count

    def of(self, topic: str, source: SourceRecord) -> int:
        """The partition for what becomes of one source record."""
        fixed = self.fixed(topic, source.partition)
        return key_partition(source.key, source.partition, self._num_outputs[topic]) if fixed is None else fixed


class Delivery:
    """Delivers the shipments of one source.

    Args:
        placement: chooses the partition of dead letters.
    """

    def __init__(self, placement: Placement) -> None:
        self._placement = placement

    async def deliver(self, producer: Producer, shipments: Iterable[Shipment]) -> list[Refusal]:
        """Produce all shipments; returns when everything is acknowledged, the dead letters of refused results included.

        Shipments to one partition go in the order given, all partitions at once.

        Args:
            producer: takes records and returns when they are acknowledged.

        Returns:
            One refusal for each record and classifier, however many topics refused that result, in source order.

        Raises:
            DeliveryError: something was not acknowledged: none of the sources may be committed.
        """
        refused: list[_Refused] = []
        await self._send_all(producer, shipments, refused)
        if not refused:
            return []
        refused.sort(key=_Refused.place)  # partitions are sent side by side, so they come as they fail
        await self._send_all(producer, self._letters(refused), [])
        refusals: dict[tuple[str, int, int], Refusal] = {}
        for item in refused:
            refusals.setdefault((item.classifier, *item.place()), Refusal(item.classifier, item.source, item.error))
        return list(refusals.values())

    async def _send_all(self, producer: Producer, shipments: Iterable[Shipment], refused: list[_Refused]) -> None:
        lanes: dict[tuple[str, int], list[Shipment]] = {}
        for shipment in shipments:
            lanes.setdefault((shipment.topic, shipment.partition), []).append(shipment)
        senders = [_Sender(producer, lane, refused) for lane in lanes.values()]
        tasks = [asyncio.ensure_future(sender.send_all()) for sender in senders]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _letters(self, refused: Sequence[_Refused]) -> list[Shipment]:
        """Dead letters for refused results: one a record, however many classifiers' results were refused."""
        letters: dict[tuple[str, int, int], list[_Refused]] = {}
        for item in refused:
            letters.setdefault((item.dead_letter, *item.place()), []).append(item)
        shipments = []
        for (topic, _, _), items in letters.items():
            source = items[0].source
            letter = envelope(source, items[0].error, sorted({item.classifier for item in items}))
            shipments.append(Shipment(topic, self._placement.of(topic, source), [letter], [source], None, topic))
        return shipments


@dataclass(slots=True)
class _Refused:
    classifier: str
    source: SourceRecord
    dead_letter: str
    error: RecordError

    def place(self) -> tuple[int, int]:
        return self.source.partition, self.source.offset


class _Sender:
    """Sends the records of one partition, splitting off those that are refused for themselves."""

    def __init__(self, producer: Producer, lane: Sequence[Shipment], refused: list[_Refused]) -> None:
        self._producer = producer
        self._topic = lane[0].topic
        self._partition = lane[0].partition
        self._lane = lane
        self._starts = list(accumulate((len(shipment.records) for shipment in lane), initial=0))
        self._refused = refused

    async def send_all(self) -> None:
        lane = self._lane
        await self._send(
            lane[0].records if len(lane) == 1 else [record for shipment in lane for record in shipment.records], 0
        )

    async def _send(self, records: Sequence[OutputRecord], base: int) -> None:
        """Send in order. `base` is the index of the first record in the whole lane."""
        while records:
            try:
                await self._producer.send(self._topic, self._partition, records)
                return
            except ProduceError as error:
                if not isinstance(error.cause, REFUSED):
                    raise DeliveryError(
                        f"{self._topic}[{self._partition}] did not take {len(error.records)} records: {error.cause!r}"
                        f"{_hint(error.cause)}; nothing of them is committed, they are read again after a restart"
                    ) from error
                stopped_by = error
            await self._split(stopped_by, base + stopped_by.start)
            done = stopped_by.start + len(stopped_by.records)
            records, base = records[done:], base + done

    async def _split(self, error: ProduceError, base: int) -> None:
        records = error.records
        if isinstance(error.cause, kafka.InvalidTimestampError):
            restamped = [_restamp_future(record) for record in records]
            if restamped != list(records):
                await self._send(restamped, base)
                return
        if len(records) > 1:
            middle = len(records) // 2
            await self._send(records[:middle], base)
            await self._send(records[middle:], base + middle)
        else:
            await self._send_alone(records[0], error.cause, base)

    async def _send_alone(self, record: OutputRecord, cause: Exception, index: int) -> None:
        """The one record that is refused: mended where that is possible, else refused for good."""
        number = bisect_right(self._starts, index) - 1
        shipment = self._lane[number]
        mended = _mend(record, cause, dead_letter=shipment.classifier is None)
        if mended is not None:
            await self._send([mended], index)
            return
        message = f"{self._topic} refuses a record of {len(record[1] or b'')} bytes: {cause!r}"
        if shipment.classifier is None:
            raise DeliveryError(
                f"a dead letter cannot be delivered: {message}; check the settings of that topic"
            ) from cause
        error = RecordError("deliver", type(cause).__name__, message)
        source = shipment.sources[index - self._starts[number]]
        self._refused.append(_Refused(shipment.classifier, source, shipment.dead_letter, error))


def _hint(cause: Exception) -> str:
    if isinstance(cause, kafka.TopicAuthorizationFailedError):
        return " (allow WRITE on that topic)"
    if isinstance(cause, (kafka.UnknownTopicOrPartitionError, kafka.NotLeaderForPartitionError)):
        return " (the topic may be gone, or made anew with fewer partitions: a restart looks at it again)"
    return ""


def _mend(record: OutputRecord, cause: Exception, *, dead_letter: bool) -> OutputRecord | None:
    """What to send in the place of a record that was refused; None: nothing."""
    key, value, timestamp, headers = record
    if isinstance(cause, kafka.InvalidTimestampError):
        return None if timestamp is None else _restamp(record)
    if dead_letter and isinstance(cause, BATCH_TOO_LARGE):
        if value is not None:
            return without_value(record)
        bare = without_source(record)
        return None if (key, headers) == (bare[0], bare[3]) else bare
    return None


def _restamp(record: OutputRecord) -> OutputRecord:
    """The record with the current time; its own timestamp in a header."""
    key, value, timestamp, headers = record
    return key, value, None, [*headers, (TIMESTAMP_HEADER, str(timestamp).encode())]


def _restamp_future(record: OutputRecord) -> OutputRecord:
    timestamp = record[2]
    if timestamp is not None and timestamp > time.time() * 1000 + _TIMESTAMP_AFTER_MAX_MS:
        return _restamp(record)
    return record
