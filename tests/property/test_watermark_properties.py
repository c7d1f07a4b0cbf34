"""The watermark never passes unfinished work, whatever the order in which work ends, is dropped or is abandoned."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from stream_classifier.stream.watermark import Span, TopicPartition, Watermark

PARTITIONS = [TopicPartition("texts", 0), TopicPartition("texts", 1), TopicPartition("news", 0)]


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 3)), min_size=1, max_size=12), st.randoms())
def test_it_is_the_end_of_the_finished_prefix_in_every_order_of_finishing(runs, random):
    watermark, spans, at = Watermark(), [], 0
    for length, gap in runs:  # gaps: offsets of control records and of what compaction removed
        at += gap
        spans.append(watermark.start(PARTITIONS[0], at, at + length - 1, length, 1))
        at += length
    order = list(spans)
    random.shuffle(order)
    for finished in order:
        assert watermark.finish(finished)
        prefix = [span for i, span in enumerate(spans) if all(before.finished for before in spans[: i + 1])]
        assert watermark.offset(PARTITIONS[0]) == (prefix[-1].last + 1 if prefix else None)
    assert not watermark.pending
    assert watermark.oldest_started_at() is None


class WatermarkAgainstRecords(RuleBasedStateMachine):
    """Against the simplest model there is: the set of offsets that were read and not yet delivered."""

    spans = Bundle("spans")

    def __init__(self) -> None:
        super().__init__()
        self.watermark = Watermark()
        self.next: dict[TopicPartition, int] = {}
        self.undelivered: dict[TopicPartition, set[int]] = {}
        self.delivered: dict[TopicPartition, set[int]] = {}
        self.live: list[Span] = []
        self.frozen: dict[TopicPartition, int | None] | None = None

    @rule(target=spans, partition=st.sampled_from(PARTITIONS), length=st.integers(1, 4), gap=st.integers(0, 2))
    def read(self, partition: TopicPartition, length: int, gap: int) -> Span:
        first = self.next.get(partition, 0) + gap
        span = self.watermark.start(partition, first, first + length - 1, length, 10 * length)
        self.next[partition] = first + length
        assert span.dropped == (self.frozen is not None)
        if self.frozen is None:
            self.undelivered.setdefault(partition, set()).update(range(first, first + length))
            self.delivered.setdefault(partition, set())
            self.live.append(span)
        return span

    @rule(span=spans)
    def deliver(self, span: Span) -> None:
        counted = self.watermark.finish(span)
        assert counted == (span in self.live)
        if counted:
            self.live.remove(span)
            offsets = set(range(span.first, span.last + 1))
            self.undelivered[span.partition] -= offsets
            self.delivered[span.partition] |= offsets

    @rule(partitions=st.sets(st.sampled_from(PARTITIONS)))
    def drop(self, partitions: set[TopicPartition]) -> None:
        lost = [span for span in self.live if span.partition in partitions]
        assert sorted(self.watermark.drop(partitions), key=id) == sorted(lost, key=id)
        assert all(span.dropped for span in lost)
        self.live = [span for span in self.live if span not in lost]
        for partition in partitions:
            self.undelivered.pop(partition, None)
            self.delivered.pop(partition, None)
            self.next.pop(partition, None)  # read again from anywhere
            if self.frozen is not None:
                self.frozen[partition] = None

    @rule()
    def abandon(self) -> None:
        before = {partition: self.watermark.offset(partition) for partition in PARTITIONS}
        assert sorted(self.watermark.abandon(), key=id) == sorted(self.live, key=id)
        assert all(span.dropped for span in self.live)
        self.live = []
        self.undelivered = {}
        self.frozen = before

    @invariant()
    def no_unfinished_record_is_passed(self) -> None:
        for partition in PARTITIONS:
            offset = self.watermark.offset(partition)
            if offset is not None:
                assert all(unfinished >= offset for unfinished in self.undelivered.get(partition, ()))

    @invariant()
    def all_that_may_be_committed_is(self) -> None:
        for partition in PARTITIONS:
            if self.frozen is not None:
                assert self.watermark.offset(partition) == self.frozen[partition]
                continue
            first_missing = min(self.undelivered.get(partition, ()), default=10**9)
            done = [offset for offset in self.delivered.get(partition, ()) if offset < first_missing]
            assert self.watermark.offset(partition) == (max(done) + 1 if done else None)

    @invariant()
    def what_waits_is_counted(self) -> None:
        assert self.watermark.pending == bool(self.live)
        for partition in PARTITIONS:
            assert self.watermark.num_in_flight(partition) == len(self.undelivered.get(partition, ()))
        oldest = min((span.started_at for span in self.live), default=None)
        assert self.watermark.oldest_started_at() == oldest


TestWatermarkAgainstRecords = WatermarkAgainstRecords.TestCase


def test_records_that_were_handed_on_before_are_refused():
    watermark = Watermark()
    watermark.start(PARTITIONS[0], 0, 9, 10, 1)
    with pytest.raises(ValueError, match="offset 9 was already handed on"):
        watermark.start(PARTITIONS[0], 9, 12, 4, 1)


def test_a_partition_that_comes_back_starts_anew():
    watermark = Watermark()
    old = watermark.start(PARTITIONS[0], 0, 9, 10, 1)
    watermark.drop([PARTITIONS[0]])
    again = watermark.start(PARTITIONS[0], 5, 9, 5, 1)
    assert not watermark.finish(old)
    assert watermark.offset(PARTITIONS[0]) is None
    assert watermark.finish(again)
    assert watermark.offset(PARTITIONS[0]) == 10


def test_nothing_read_after_all_was_abandoned_is_committed_or_waited_for():
    watermark = Watermark()
    first = watermark.start(PARTITIONS[0], 0, 9, 10, 1)
    watermark.finish(first)
    watermark.start(PARTITIONS[0], 10, 19, 10, 1)
    watermark.abandon()
    late = watermark.start(PARTITIONS[0], 20, 29, 10, 1)
    assert late.dropped
    assert not watermark.finish(late)
    assert watermark.offset(PARTITIONS[0]) == 10
    assert not watermark.pending
