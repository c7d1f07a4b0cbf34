"""Deliver what a record batch produced: acknowledged, or stopped for; what one record is refused for is a dead letter.

A step of a source partition is delivered when every record of it is acknowledged by the broker. Errors that concern one
record (too large, a timestamp out of range) split its produce batch until that record stands alone; all other errors end
in DeliveryError, after aiokafka has retried the retriable ones for the delivery time-out.
"""

from __future__ import annotations

import asyncio
import logging
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

from aiokafka import errors as kafka

from stream_classifier.errors import DeliveryError, RecordError
from stream_classifier.records import OutputRecord, SourceRecord
from stream_classifier.stream.dead_letter import envelope, without_value
from stream_classifier.stream.producer import BATCH_TOO_LARGE, ProduceError, key_partition

__all__ = ["Delivery", "Placement", "Refusal", "Shipment"]

logger = logging.getLogger(__name__)

TIMESTAMP_HEADER = "stream-classifier.source-timestamp"
_RECORD_ERRORS = (
    *BATCH_TOO_LARGE,
    kafka.InvalidTimestampError,
    kafka.InvalidMessageError,
    kafka.CorruptRecordException,
)
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
                "%s has grown: its new partition %d goes to partition %d of %s; restart the workers after adding partitions there",
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
        producer: takes records and returns when they are acknowledged.
        placement: chooses the partition of dead letters.
    """

    def __init__(self, producer: Producer, placement: Placement) -> None:
        self._producer = producer
        self._placement = placement

    async def deliver(self, shipments: Iterable[Shipment]) -> list[Refusal]:
        """Produce all shipments; returns when everything is acknowledged, the dead letters of refused results included.

        Shipments to one partition go in the order given, all partitions at once.

        Raises:
            DeliveryError: something was not acknowledged: none of the sources may be committed.
        """
        lanes: dict[tuple[str, int], list[Shipment]] = {}
        for shipment in shipments:
            lanes.setdefault((shipment.topic, shipment.partition), []).append(shipment)
        refused: list[_Refused] = []
        tasks = [asyncio.ensure_future(self._send_lane(lane, refused)) for lane in lanes.values()]
        try:
            for task in tasks:
                await task
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return await self._bury(refused)

    async def _send_lane(self, lane: list[Shipment], refused: list[_Refused]) -> None:
        first = lane[0]
        records = first.records if len(lane) == 1 else [record for shipment in lane for record in shipment.records]
        starts = list(accumulate((len(shipment.records) for shipment in lane), initial=0))

        def refuse(index: int, error: RecordError) -> None:
            number = bisect_right(starts, index) - 1
            refused.append(_Refused(lane[number], index - starts[number], error))

        await _Sender(self._producer, first, refuse).send(records, 0)

    async def _bury(self, refused: list[_Refused]) -> list[Refusal]:
        """Dead letters for refused results: one a record, however many classifiers' results were refused."""
        refusals: list[Refusal] = []
        letters: dict[tuple[str, int, int], tuple[_Refused, list[str]]] = {}
        for item in refused:
            classifier = item.shipment.classifier
            if classifier is None:
                raise DeliveryError(
                    f"{item.shipment.topic} refuses a dead letter even without its value: {item.error.message}"
                )
            source = item.source
            refusals.append(Refusal(classifier, source, item.error))
            key = (item.shipment.dead_letter, source.partition, source.offset)
            letters.setdefault(key, (item, []))[1].append(classifier)
        for (topic, _, _), (item, classifiers) in letters.items():
            source = item.source
            letter = envelope(source, item.error, sorted(set(classifiers)))
            shipment = Shipment(topic, self._placement.of(topic, source), [letter], [source], None, topic)
            await self._send_lane([shipment], _NeverRefused())
        return refusals


@dataclass(slots=True)
class _Refused:
    shipment: Shipment
    index: int
    error: RecordError

    @property
    def source(self) -> SourceRecord:
        return self.shipment.sources[self.index]


class _NeverRefused(list[_Refused]):
    def append(self, item: _Refused) -> None:
        raise DeliveryError(f"{item.shipment.topic} refuses a dead letter: {item.error.message}")


Refuse = Callable[[int, RecordError], None]


class _Sender:
    """Sends the records of one partition, splitting off those that are refused for themselves."""

    def __init__(self, producer: Producer, lane: Shipment, refuse: Refuse) -> None:
        self._producer = producer
        self._topic = lane.topic
        self._partition = lane.partition
        self._dead_letters = lane.classifier is None
        self._refuse = refuse

    async def send(self, records: Sequence[OutputRecord], base: int) -> None:
        """Send in order. `base` is the index of the first record in the whole lane."""
        while records:
            try:
                await self._producer.send(self._topic, self._partition, records)
                return
            except ProduceError as error:
                if not isinstance(error.cause, _RECORD_ERRORS):
                    raise DeliveryError(
                        f"{self._topic}[{self._partition}] did not take {len(error.records)} records: {error.cause!r}; "
                        "nothing of them is committed, they are read again after a restart"
                    ) from error
                await self._split(error, base + error.start)
                done = error.start + len(error.records)
                records, base = records[done:], base + done

    async def _split(self, error: ProduceError, base: int) -> None:
        records = error.records
        if isinstance(error.cause, kafka.InvalidTimestampError):
            restamped = [_restamp_future(record) for record in records]
            if restamped != list(records):
                await self.send(restamped, base)
                return
        if len(records) > 1:
            middle = len(records) // 2
            await self.send(records[:middle], base)
            await self.send(records[middle:], base + middle)
        else:
            await self._send_alone(records[0], error.cause, base)

    async def _send_alone(self, record: OutputRecord, cause: Exception, base: int) -> None:
        """The one record that is refused: mended where that is possible, else refused for good."""
        _, value, timestamp, headers = record
        restamped = any(name == TIMESTAMP_HEADER for name, _ in headers)
        if isinstance(cause, kafka.InvalidTimestampError) and timestamp is not None and not restamped:
            await self.send([_restamp(record)], base)
        elif isinstance(cause, BATCH_TOO_LARGE) and self._dead_letters and value is not None:
            await self.send([without_value(record)], base)
        else:
            message = f"{self._topic} refuses a record of {len(value or b'')} bytes: {cause!r}"
            self._refuse(base, RecordError("deliver", type(cause).__name__, message))


def _restamp(record: OutputRecord) -> OutputRecord:
    """The record with the current time; its own timestamp in a header."""
    key, value, timestamp, headers = record
    return key, value, int(time.time() * 1000), [*headers, (TIMESTAMP_HEADER, str(timestamp).encode())]


def _restamp_future(record: OutputRecord) -> OutputRecord:
    timestamp = record[2]
    if timestamp is not None and timestamp > time.time() * 1000 + _TIMESTAMP_AFTER_MAX_MS:
        return _restamp(record)
    return record
