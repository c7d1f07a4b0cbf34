"""What is in flight of each partition, and how far its offsets may be committed.

The consumer starts a span for every record batch it hands on and finishes it when all that the batch produced is
acknowledged. The watermark of a partition is the offset behind its longest finished prefix: it never passes unfinished
work, in whatever order spans finish. Dropped spans (their partition was taken away, or is read again) never count, and
once all work was abandoned nothing counts any more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from time import monotonic
from typing import NamedTuple

__all__ = ["Span", "TopicPartition", "Watermark", "listed"]


class TopicPartition(NamedTuple):
    """A partition of a topic. Equal to, and hashed like, any other named tuple of the same two values."""

    topic: str
    partition: int


def listed(partitions: Iterable[TopicPartition]) -> str:
    """Partitions for a line of the log.

    >>> listed([TopicPartition("texts", 1), TopicPartition("news", 4), TopicPartition("texts", 0)])
    'news[4] texts[0,1]'
    """
    numbers: dict[str, list[str]] = {}
    for topic, number in sorted(partitions):
        numbers.setdefault(topic, []).append(str(number))
    return " ".join(f"{topic}[{','.join(known)}]" for topic, known in numbers.items()) or "nothing"


@dataclass(slots=True, eq=False)
class Span:
    """A contiguous run of records of one partition, from being read to being delivered.

    Attributes:
        first, last: the offsets of its first and last record.
        num_records, num_bytes: what it holds in memory.
        handed_on: it is worked on; until then it waits in a queue of Faust's, which a rebalance or a stop empties.
        finished: everything it produced is acknowledged.
        dropped: the partition was taken away or is read again, or all was abandoned: nothing of it may be produced or
            committed any more.
    """

    partition: TopicPartition
    first: int
    last: int
    num_records: int
    num_bytes: int
    started_at: float = field(default_factory=monotonic)
    handed_on: bool = False
    finished: bool = False
    dropped: bool = False


class Watermark:
    """Spans in flight of all partitions, in the order they were read.

    >>> watermark, tp = Watermark(), TopicPartition("texts", 0)
    >>> a, b = watermark.start(tp, 0, 9, 10, 100), watermark.start(tp, 10, 14, 5, 50)
    >>> watermark.finish(b), watermark.offset(tp)
    (True, None)
    >>> watermark.finish(a), watermark.offset(tp)
    (True, 15)
    """

    def __init__(self) -> None:
        self._spans: dict[TopicPartition, deque[Span]] = {}
        self._offsets: dict[TopicPartition, int] = {}
        self._abandoned = False

    def start(self, partition: TopicPartition, first: int, last: int, num_records: int, num_bytes: int) -> Span:
        """A new span behind all others of its partition; `first` must lie behind their last offsets.

        After `abandon` it is a dropped one: to count it would commit past what was abandoned.
        """
        if self._abandoned:
            return Span(partition, first, last, num_records, num_bytes, dropped=True)
        spans = self._spans.setdefault(partition, deque())
        if spans and first <= spans[-1].last:
            raise ValueError(f"{partition}: offset {first} was already handed on (up to {spans[-1].last})")
        span = Span(partition, first, last, num_records, num_bytes)
        spans.append(span)
        return span

    def finish(self, span: Span) -> bool:
        """Mark a span as delivered. False when it was dropped or finished before: then nothing changes."""
        if span.dropped or span.finished:
            return False
        span.finished = True
        spans = self._spans[span.partition]
        while spans and spans[0].finished:
            self._offsets[span.partition] = spans.popleft().last + 1
        return True

    def offset(self, partition: TopicPartition) -> int | None:
        """The offset to commit: that of the first record not yet known to be delivered. None: nothing was delivered."""
        return self._offsets.get(partition)

    def drop(self, partitions: Iterable[TopicPartition]) -> list[Span]:
        """Forget partitions; returns their unfinished spans, now marked as dropped."""
        dropped: list[Span] = []
        for partition in partitions:
            self._offsets.pop(partition, None)
            for span in self._spans.pop(partition, ()):
                if not span.finished:
                    span.dropped = True
                    dropped.append(span)
        return dropped

    def abandon(self) -> list[Span]:
        """Drop all unfinished spans for good, but keep what may be committed; returns them. There is no way back."""
        self._abandoned = True
        dropped = [span for spans in self._spans.values() for span in spans if not span.finished]
        for span in dropped:
            span.dropped = True
        for spans in self._spans.values():
            spans.clear()
        return dropped

    @property
    def partitions(self) -> list[TopicPartition]:
        """All partitions something was read from since they were last dropped."""
        return list(self._spans)

    @property
    def pending(self) -> bool:
        """Whether anything that was read is not yet delivered."""
        return any(self._spans.values())

    @property
    def working(self) -> bool:
        """Whether anything is being worked on: what letting go of partitions waits for."""
        return any(span.handed_on and not span.finished for spans in self._spans.values() for span in spans)

    def num_in_flight(self, partition: TopicPartition) -> int:
        """Records of the partition that were read and are not yet delivered."""
        return sum(span.num_records for span in self._spans.get(partition, ()) if not span.finished)

    def oldest_started_at(self) -> float | None:
        """`time.monotonic()` of when the longest-waiting unfinished span was read; None when nothing waits."""
        return min((spans[0].started_at for spans in self._spans.values() if spans), default=None)
