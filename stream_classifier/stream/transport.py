"""The batch transport for Faust: pluggable classes only, nothing of Faust is patched.

Stock Faust spends four asyncio tasks a record before an agent sees it. Here the consumer hands on *record batches*: a
contiguous run of one partition stands in for one message, and its event's value is the run. Topics that are not
registered as batch topics keep Faust's own path, record by record.

Also at home here, because stock does otherwise (docs/explanation/architecture.md says what it costs):
- intake stops while the in-flight budget is used up, without pausing other topics;
- offsets are committed behind a watermark of delivered batches;
- on revocation and on stop, what is in flight is finished and committed *before* Faust forgets the offsets, within a
  bound; what did not finish is dropped, and read again by the next owner;
- under exactly-once, offsets are committed by the transactions that hold the outputs (transactions.py);
- records are always read `read_committed`, whatever bytes their header keys are (fetching.py).

Used by URL (`broker="kafkabatch://localhost"`) or, as StreamClassifier does, by setting `app.transport`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from time import monotonic
from typing import Any, ClassVar, cast

from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ConsumerMessage, Message

from stream_classifier.errors import DeliveryError
from stream_classifier.stream.fetching import BatchConsumerThread, BatchScheduler, partition_states
from stream_classifier.stream.intake import Intake
from stream_classifier.stream.record_batch import RecordBatch
from stream_classifier.stream.transactions import TransactionAborted
from stream_classifier.stream.watermark import Span, TopicPartition, Watermark, listed

__all__ = ["BatchConsumer", "BatchTransport"]

logger = logging.getLogger(__name__)

_POLL_OTHERS_S = 0.05
"""How long a fetch for other topics may last while batch topics wait for room, which may come back meanwhile."""

_MIN_COMMIT_S = 1.0
_MAX_READ_AGAIN = 3
"""How often a partition is read again with nothing committed in between, before the worker stops."""


class BatchConsumer(driver.Consumer):
    """A Faust consumer that hands on record batches and commits behind a watermark."""

    mundane_level = "debug"

    _thread: BatchConsumerThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.intake = cast("BatchTransport", self.transport).intake
        self.watermark = Watermark()
        self.scheduler = BatchScheduler(self.intake)
        self.drained_in_time = True
        self._draining = False
        self._delivered = asyncio.Event()
        self._expected: dict[TopicPartition, int] = {}
        self._gap_checks: set[asyncio.Task[None]] = set()
        self._read_again: Counter[TopicPartition] = Counter()

    def _new_consumer_thread(self) -> BatchConsumerThread:
        return BatchConsumerThread(self, loop=self.loop, beacon=self.beacon)

    # Intake ---------------------------------------------------------------------------------------------------------

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Mapping[TP, list[Any]]:
        intake = self.intake
        if not intake.topics or active_partitions is None:
            return await self._thread.getmany(active_partitions, timeout)
        if room := intake.budget.room:
            return await self._thread.getmany(active_partitions, timeout, room)
        if others := {tp for tp in active_partitions if tp.topic not in intake.topics}:
            return await self._thread.getmany(others, min(timeout, _POLL_OTHERS_S))
        await intake.budget.wait_for_room(timeout)
        return {}

    async def _wait_next_records(self, timeout: float) -> tuple[Any, set[TP] | None]:
        # Where the flow was stopped meanwhile stock seeks to the committed offsets, beside what a stop or rebalance
        # seeks and commits: what is delivered would be forgotten uncommitted. Only what was fetched is put back.
        fetched = await super()._wait_next_records(timeout)
        if self.flow_active:
            return fetched
        await self._thread.put_back(fetched[0] or {})
        return None, None

    def _to_message(self, tp: TP, record: Any) -> ConsumerMessage:
        if type(record) is RecordBatch:
            self._start(record)
        return super()._to_message(tp, record)

    def _start(self, batch: RecordBatch) -> None:
        tp = TopicPartition(batch.topic, batch.partition)
        expected = self._expected.get(tp)
        if expected is not None and batch.first_offset > expected:
            self._check_gap(tp, expected, batch.first_offset)
        self._expected[tp] = batch.offset + 1
        num_bytes = batch.num_bytes
        batch.span = self.watermark.start(tp, batch.first_offset, batch.offset, len(batch), num_bytes)
        self.intake.budget.take(len(batch), num_bytes)

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        if tp.topic not in self.intake.topics:  # the watermark does not care for offsets that hold no record
            await super()._add_gap(tp, offset_from, offset_to)

    # Delivered: what the pipeline says of a batch -------------------------------------------------------------------

    def finish(self, batch: RecordBatch) -> None:
        """Everything the batch produced is acknowledged: its offsets may be committed."""
        if self.watermark.finish(batch.span):
            self.intake.budget.give(batch.span.num_records, batch.span.num_bytes)
            self._delivered.set()

    def ack(self, message: Message) -> bool:
        if isinstance(message.value, RecordBatch):
            raise TypeError("a record batch is finished with BatchConsumer.finish(), not acknowledged as an event")
        return super().ack(message)

    def hand_on(self, message: Message) -> RecordBatch:
        """The batch of a message that an agent was given, from now on worked on; the watermark alone keeps track of it:
        Faust must not wait for its acknowledgement.
        """
        self._unacked_messages.discard(message)
        batch = cast("RecordBatch", message.value)
        batch.span.handed_on = True
        return batch

    def drop(self, partitions: Iterable[TopicPartition]) -> None:
        """Forget what is in flight of these partitions: not produced, not committed, read again by the next owner."""
        partitions = list(partitions)
        if self.intake.transactions is not None:
            self.intake.transactions.drop(partitions)
        self._release(self.watermark.drop(partitions))

    def abandon(self) -> None:
        """Give up all that is in flight, because the pipeline has failed: it is read again after a restart."""
        self._release(self.watermark.abandon())

    def read_again(self, partition: TopicPartition, error: TransactionAborted) -> None:
        """Nothing of the partition's open transaction will be seen: read it again from its committed offset.

        By joining the group anew: a worker that is no longer the partition's owner then learns of it.
        """
        self.drop([partition])
        if self._draining or self.app.should_stop:
            return
        self._read_again[partition] += 1
        if self._read_again[partition] > _MAX_READ_AGAIN:
            why = f"{error}; it was read again {_MAX_READ_AGAIN} times and nothing could be committed"
            self.intake.on_failed(DeliveryError(why))
        else:
            self.log.warning("%s: nothing of it is committed, joining the group again to read it again", error)
            self._thread.rejoin()

    def _release(self, spans: Iterable[Span]) -> None:
        for span in spans:
            self.intake.budget.give(span.num_records, span.num_bytes)
        self._delivered.set()

    # Commit ---------------------------------------------------------------------------------------------------------

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        yield from super()._filter_tps_with_pending_acks(topics)
        if self.intake.transactions is not None:
            return
        for tp in self.watermark.partitions:
            if topics is None or tp in topics or tp.topic in topics:
                yield TP(*tp)

    def _new_offset(self, tp: TP) -> int | None:
        if tp.topic in self.intake.topics:
            return self.watermark.offset(TopicPartition(*tp))
        return super()._new_offset(tp)

    async def force_commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        # Started here and told of by the next round: a partition whose commit is slow holds up no other.
        committed = await self._commit_transactions(0.0)
        return await super().force_commit(topics, start_new_transaction=start_new_transaction) or committed

    async def _commit_transactions(self, timeout_s: float) -> bool:
        """Commit the batch topics under exactly-once; whether anything was."""
        if self.intake.transactions is None:
            return False
        committed = await self.intake.transactions.commit(self.watermark.offset, timeout_s)
        offsets = {TP(*partition): offset for partition, offset in committed.offsets.items()}
        self._thread.tp_last_committed_at.update(dict.fromkeys(offsets, monotonic()))
        self._committed_offset.update(offsets)
        self.app.monitor.on_tp_commit(offsets)
        for partition in committed.offsets:
            self._read_again.pop(partition, None)
        for partition, error in committed.errors.items():
            if isinstance(error, TransactionAborted):
                self.read_again(partition, error)
            elif self._draining or self.app.should_stop:
                self.log.warning("%s[%d]: not committed: %r; it is read again", *partition, error)
            else:
                await self.crash(
                    DeliveryError(f"{partition.topic}[{partition.partition}] cannot be committed: {error!r}")
                )
        return bool(offsets)

    # Watching -------------------------------------------------------------------------------------------------------

    def lag(self) -> dict[tuple[str, int], int]:
        """Records still to be delivered of each assigned batch partition: last stable offset - position + in flight."""
        consumer = self._thread._consumer
        lags: dict[tuple[str, int], int] = {}
        for aiokafka_tp, state in ({} if consumer is None else partition_states(consumer)).items():
            tp = TopicPartition(aiokafka_tp.topic, aiokafka_tp.partition)
            if tp.topic in self.intake.topics and state is not None and state.has_valid_position:
                stable = state.lso if state.lso is not None else state.position
                lags[tp] = max(0, stable - state.position) + self.watermark.num_in_flight(tp)
        return lags

    async def check_group(self) -> None:
        """Raise what keeps this worker out of its group, such as a missing permission.

        aiokafka reports it to fetches alone, and Faust fetches nothing before it has an assignment.
        """
        consumer = self._thread._consumer
        if consumer is not None and consumer._coordinator is not None and not self.should_stop:
            await self._thread.call_thread(consumer._coordinator.check_errors)

    # Letting go -----------------------------------------------------------------------------------------------------

    async def drain(self, timeout_s: float) -> bool:
        """Wait until nothing is worked on, `timeout_s` at most; whether that was reached.

        What was read and not handed on does not count: Faust has emptied its agents' queues, nobody will work on it.
        """
        deadline = monotonic() + timeout_s
        while self.watermark.working:
            self._delivered.clear()
            try:
                await asyncio.wait_for(self._delivered.wait(), deadline - monotonic())
            except asyncio.TimeoutError:
                return False
        return True

    async def _let_go(self, partitions: Iterable[TopicPartition], timeout_s: float) -> None:
        """Finish and commit what is in flight; drop what does not finish in time."""
        deadline, is_stop = monotonic() + timeout_s, self.app.should_stop
        self._draining = True
        try:
            drained = await self.drain(timeout_s)
            if not drained:
                self.log.warning(
                    "%d records were still in flight after %.1f s: dropped here, read again by the next owner",
                    self.intake.budget.records,
                    timeout_s,
                )
            commit = asyncio.ensure_future(self._commit_delivered())
            # Not cancelled where it takes longer, for stock's commit goes on regardless.
            await asyncio.wait({commit}, timeout=_commit_s(deadline))
            if commit.done():
                commit.result()
            else:
                self.log.warning("offsets were not committed in time: what they cover is read again")
            # Of a rebalance, also of one that the stop came into, nothing is told: the stop has its own time.
            if is_stop and not (drained and commit.done()):
                self.drained_in_time = False
            await self._commit_transactions(_commit_s(deadline))
            self.drop(partitions)
        finally:
            self._draining = False

    async def _commit_delivered(self) -> None:
        """Commit all that is delivered by now.

        Stock `commit` does nothing while another one runs, which may have begun before the last deliveries: the next
        owner would repeat them.
        """
        while await self.maybe_wait_for_commit_to_finish():
            pass
        await self.commit()

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        # Stock pops the acknowledged offsets of revoked partitions before its last commit (consumer.py:657-664), so
        # what was delivered since the commit before would be repeated: commit while they are known.
        app = self.app
        # Stock leaves the flow on where nothing was assigned: what is given next would be read before its seek too.
        self.stop_flow()
        app.flow_control.suspend()
        if revoked:
            self.pause_partitions(revoked)
            app.flow_control.clear()
            limit_s = min(self.intake.drain_timeout_s, app.conf.broker_rebalance_timeout / 2)
            partitions = [TopicPartition(*tp) for tp in revoked]
            await self._let_go(partitions, limit_s)
            if self.intake.transactions is not None:
                await self.intake.transactions.release(partitions, limit_s / 4)
            logger.info("let go of %s", listed(partitions))
        await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        # Before anything reads the committed offsets: an earlier owner may be about to move them.
        ours = [TopicPartition(*tp) for tp in assigned if tp.topic in self.intake.topics]
        if self.intake.transactions is not None and not self.app.should_stop:
            try:
                await self.intake.transactions.assign(ours, self.app.conf.broker_rebalance_timeout)
            except DeliveryError as error:
                if not self.app.should_stop:
                    self.intake.on_failed(error)
                return
        logger.info("assigned: %s", listed(ours))
        await super().on_partitions_assigned(assigned, generation_id)

    async def wait_empty(self) -> None:
        # Stock has no bound here and would wait for ever on a batch that was dropped.
        started, is_stop = monotonic(), self.app.should_stop
        await self._let_go(self.watermark.partitions, self.intake.drain_timeout_s)
        remaining_s = max(0.1, self.intake.drain_timeout_s - (monotonic() - started))
        try:
            await asyncio.wait_for(super().wait_empty(), remaining_s)
        except asyncio.TimeoutError:
            if is_stop:
                self.drained_in_time = False
            self.log.warning("agents were still busy after %.1f s: their events are read again", remaining_s)

    async def perform_seek(self) -> None:
        if not self.assignment():
            return
        if not self._draining:
            self.drop(self.watermark.partitions)
        await super().perform_seek()
        await self._seek_uncommitted()
        self._expected = {TopicPartition(*tp): read for tp, read in self._read_offset.items() if read is not None}

    async def _seek_uncommitted(self) -> None:
        """Go to where batch partitions begin of which nothing is committed: the same place at each assignment.

        aiokafka's seek to committed offsets leaves those where they are: behind what was fetched during a rebalance and
        thrown away, so that it would never be read. Where they begin at the end, that end is committed at once.
        """
        read = self._read_offset
        uncommitted = [tp for tp in self.assignment() if tp.topic in self.intake.topics and not read[tp]]
        from_end = self.app.conf.consumer_auto_offset_reset == "latest"
        new = [tp for tp in uncommitted if from_end and read[tp] is None]
        if beginning := [driver.ensure_aiokafka_TP(tp) for tp in uncommitted if tp not in new]:
            await self._thread.seek_to_beginning(*beginning)
        if new:
            ends = await self._thread.end_offsets(new)
            await self._thread.seek_wait(ends)
            await self._thread.commit(ends)

    async def on_stop(self) -> None:
        await self._let_go(self.watermark.partitions, self.intake.drain_timeout_s)
        for task in self._gap_checks:
            task.cancel()
        await super().on_stop()

    # Records that retention has overtaken ---------------------------------------------------------------------------

    def _check_gap(self, tp: TopicPartition, expected: int, found: int) -> None:
        """A gap in the offsets is a transaction's marker, a compacted record, or loss: only the broker knows which."""
        task = asyncio.ensure_future(self._report_gap(tp, expected, found))
        self._gap_checks.add(task)
        task.add_done_callback(self._gap_checks.discard)

    async def _report_gap(self, tp: TopicPartition, expected: int, found: int) -> None:
        earliest = (await self.earliest_offsets(TP(*tp)))[TP(*tp)]
        skipped = min(earliest, found) - expected
        if skipped > 0:
            self.log.error(
                "%s[%d]: retention has overtaken %d records (offsets %d to %d) before they were read",
                tp.topic,
                tp.partition,
                skipped,
                expected,
                expected + skipped - 1,
            )
            if self.intake.on_skipped is not None:
                self.intake.on_skipped(tp.topic, skipped)


def _commit_s(deadline: float) -> float:
    """What a commit may take: what is left, and a little where nothing is."""
    return max(_MIN_COMMIT_S, deadline - monotonic())


class BatchTransport(driver.Transport):
    """Faust's aiokafka transport with the batch consumer."""

    Consumer: ClassVar[type[BatchConsumer]] = BatchConsumer

    def __init__(self, *args: Any, intake: Intake | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.intake = intake if intake is not None else Intake()
