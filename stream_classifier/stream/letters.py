"""Read a dead-letter topic from end to end: which letters are wanted, and counts of them.

In no consumer group and with nothing committed; replay.py adds the position. Ends where the topic ended when reading
began, so that letters that come meanwhile do not keep it going.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiokafka
from aiokafka.errors import KafkaError

from stream_classifier.errors import ConfigError, FatalError
from stream_classifier.stream.dead_letter import Letter
from stream_classifier.stream.header_keys import accept_any_header_key
from stream_classifier.stream.topics import connect

__all__ = ["Count", "Counts", "Reader", "Selection", "open_reader", "partition_counts"]

_MAX_RECORDS = 500
_POLL_S = 0.2
_IDLE_S = 60.0


@dataclass(frozen=True)
class Selection:
    """Which letters are wanted: those that meet everything that is given; an empty field is met by all.

    Attributes:
        sources, stages, errors: the letter's is one of them.
        classifiers: one of them gave no result.
        since, until: ms since 1970, of the record's own timestamp (a dead letter keeps it); from `since` on, before
            `until`.
        partitions: of the dead-letter topic.
        offsets: (first, last) of the dead-letter topic, both included.
    """

    sources: frozenset[str] = frozenset()
    stages: frozenset[str] = frozenset()
    errors: frozenset[str] = frozenset()
    classifiers: frozenset[str] = frozenset()
    since: int | None = None
    until: int | None = None
    partitions: frozenset[int] = frozenset()
    offsets: tuple[int, int] | None = None

    def has(self, letter: Letter) -> bool:
        """Whether it is wanted."""
        return (
            _is_among(letter.source, self.sources)
            and _is_among(letter.stage, self.stages)
            and _is_among(letter.error, self.errors)
            and _is_among(letter.partition, self.partitions)
            and (not self.classifiers or not self.classifiers.isdisjoint(letter.classifiers))
            and (self.since is None or (letter.timestamp is not None and letter.timestamp >= self.since))
            and (self.until is None or (letter.timestamp is not None and letter.timestamp < self.until))
            and (self.offsets is None or self.offsets[0] <= letter.offset <= self.offsets[1])
        )


def _is_among(value: Any, wanted: frozenset[Any]) -> bool:
    return not wanted or value in wanted


@dataclass(slots=True)
class Count:
    """Letters with the same cause. `oldest`, `newest`: timestamps in ms; None where no letter has one."""

    num_letters: int = 0
    oldest: int | None = None
    newest: int | None = None


@dataclass
class Counts:
    """Letters by (source, stage, error, classifiers)."""

    groups: dict[tuple[str, str, str, tuple[str, ...]], Count] = field(default_factory=dict)

    def add(self, letter: Letter) -> None:
        """Count a letter."""
        group = (letter.source, letter.stage, letter.error, letter.classifiers)
        count = self.groups.setdefault(group, Count())
        count.num_letters += 1
        if letter.timestamp is not None:
            count.oldest = min(letter.timestamp, letter.timestamp if count.oldest is None else count.oldest)
            count.newest = max(letter.timestamp, letter.timestamp if count.newest is None else count.newest)

    @property
    def num_letters(self) -> int:
        """Of all groups."""
        return sum(count.num_letters for count in self.groups.values())

    def largest_first(self) -> list[tuple[tuple[str, str, str, tuple[str, ...]], Count]]:
        """The groups with their counts."""
        return sorted(self.groups.items(), key=lambda item: (-item[1].num_letters, item[0]))


async def partition_counts(kafka: Mapping[str, Any], *, timeout_s: float) -> dict[str, int]:
    """All topics and how many partitions they have. Raises ConfigError when no broker answers."""
    admin = await connect(kafka, timeout_s=timeout_s)
    try:
        # All topics, none by name: naming one in a metadata request may create it.
        return {topic["topic"]: len(topic["partitions"]) for topic in await admin.describe_topics()}
    finally:
        await admin.close()


class Reader:
    """Reads all partitions of a topic once. Made by `open_reader`.

    Attributes:
        consumer: aiokafka's; assigned, with a position.
        partitions: of the topic.
        starts: where reading begins, by partition.
        told_ends: where each partition ended, as the broker says when it is asked.
    """

    def __init__(self, consumer: Any, starts: Mapping[Any, int], told_ends: Mapping[Any, int]) -> None:
        self.consumer = consumer
        self.partitions = list(starts)
        self.starts = starts
        self.told_ends = told_ends
        self._ends: dict[Any, int] = {}

    @property
    def num_offsets(self) -> int:
        """Offsets to read, as far as they are known: 0 before the first records came."""
        return sum(max(0, end - self.starts[at]) for at, end in self._ends.items())

    async def records(self) -> AsyncIterator[tuple[Any, list[Any]]]:
        """(partition, records) until the end that each partition had when reading began.

        Raises:
            FatalError: the broker refuses, or is silent for a minute.
        """
        unread = set(self.partitions)
        idle_s = 0.0
        while unread:
            try:
                fetched = await self._fetch(unread)
            except KafkaError as error:
                raise FatalError(f"reading stopped: {error!r}; look at the broker and run this again") from error
            idle_s = 0.0 if fetched else idle_s + _POLL_S
            if idle_s > _IDLE_S:
                raise FatalError(f"the broker sent nothing for {_IDLE_S:g} s; look at it and run this again")
            for partition, records in fetched.items():
                yield partition, records

    async def _fetch(self, unread: set[Any]) -> dict[Any, list[Any]]:
        """What comes next of these partitions; takes those out that have come to their end."""
        consumer = self.consumer
        fetched = await consumer.getmany(*unread, timeout_ms=int(_POLL_S * 1000), max_records=_MAX_RECORDS)
        wanted = {}
        for partition in list(unread):
            stable = consumer.last_stable_offset(partition)
            if stable is None:
                continue
            # The embedded broker may tell too low an end when asked; what it says with records is right.
            end = self._ends.setdefault(partition, max(stable, self.told_ends[partition]))
            records = [record for record in fetched.get(partition, ()) if record.offset < end]
            if records:
                wanted[partition] = records
            if await consumer.position(partition) >= end:
                unread.discard(partition)
        return wanted


@asynccontextmanager
async def open_reader(
    kafka: Mapping[str, Any], topic: str, num_partitions: int, *, group: str | None = None
) -> AsyncIterator[Reader]:
    """A reader of all of a topic's records, from the first one on; `read_committed`.

    Args:
        kafka: bootstrap servers and security, as aiokafka's clients take them.
        group: only to keep a position; nobody joins it.

    Raises:
        ConfigError: it may not be read.
    """
    consumer = aiokafka.AIOKafkaConsumer(
        **kafka,
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        fetch_max_wait_ms=100,
    )
    partitions = [aiokafka.TopicPartition(topic, number) for number in range(num_partitions)]
    try:
        try:
            await consumer.start()
            accept_any_header_key(consumer)
            starts = await consumer.beginning_offsets(partitions)
            ends = await consumer.end_offsets(partitions)
        except KafkaError as error:
            raise ConfigError(f"{topic} cannot be read: {error!r}; look at the broker and at our rights") from error
        consumer.assign(partitions)
        for partition, offset in starts.items():
            consumer.seek(partition, offset)
        yield Reader(consumer, starts, ends)
    finally:
        await consumer.stop()
