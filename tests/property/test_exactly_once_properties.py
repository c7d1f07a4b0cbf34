"""The commit protocol of exactly-once against a broker that may fail anywhere.

The real consumer, watermark and transactions, with everything else played by the machine: workers that read, take
steps, commit, let go of partitions, are given them, and die, at any moment and whether or not another worker owns the
same partition; and a broker whose answers come in any order, fail, or are lost after the request has taken effect. At
every moment what a `read_committed` reader sees of a partition is one result for each offset below the committed one,
in order; and in the end a healthy worker finishes the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import faust
import pytest
from faust.types import TP
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from stream_classifier.errors import DeliveryError
from stream_classifier.stream.intake import Intake
from stream_classifier.stream.producer import ProduceError
from stream_classifier.stream.record_batch import RecordBatch
from stream_classifier.stream.transactions import TransactionAborted, Transactions
from stream_classifier.stream.transport import BatchConsumer, BatchTransport
from stream_classifier.stream.watermark import TopicPartition
from tests.plugins.records import record
from tests.plugins.transactional_broker import OUTCOMES, PARTITIONS, Broker, Producer

TOTAL = 24


class _Transport(BatchTransport):
    Consumer = BatchConsumer


@dataclass(eq=False)
class Worker:
    """A worker's consumer, and what its pipeline would be doing. `alive`: neither killed nor stopped."""

    broker: Broker
    consumer: BatchConsumer
    alive: bool = True
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    moving: asyncio.Task[None] | None = None
    owned: set[int] = field(default_factory=set)
    positions: dict[int, int] = field(default_factory=dict)
    queues: dict[int, list[RecordBatch]] = field(default_factory=lambda: {partition: [] for partition in PARTITIONS})
    stepping: set[int] = field(default_factory=set)
    told: dict[int, int] = field(default_factory=lambda: dict.fromkeys(PARTITIONS, 0))
    """partition → up to which offset it was told that its results are delivered."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def move(self, partitions: set[int]) -> None:
        """A rebalance, as aiokafka and Faust go through it: let go of everything, own, read the committed offsets."""
        await self.consumer.on_partitions_revoked({TP("texts", partition) for partition in self.owned})
        self.owned = set()
        await self.consumer.on_partitions_assigned({TP("texts", partition) for partition in partitions})
        if self.alive:
            self.owned = partitions
            self.positions = {partition: self.broker.committed[partition] for partition in partitions}
            self.consumer._expected.clear()

    def read(self, partition: int, number: int) -> None:
        first = self.positions[partition]
        last = min(first + number, TOTAL) - 1
        if last < first:
            return
        run = [record(offset, partition=partition) for offset in range(first, last + 1)]
        batch = RecordBatch("texts", partition, run)
        self.consumer._start(batch)
        batch.span.handed_on = True
        self.positions[partition] = last + 1
        self.queues[partition].append(batch)

    async def step(self, partition: int, number: int) -> None:
        """As a lane and the pipeline take one."""
        taken, self.queues[partition] = self.queues[partition][:number], self.queues[partition][number:]
        ready = [batch for batch in taken if not batch.span.dropped]
        if not ready:
            return
        self.stepping.add(partition)
        transactions = self.consumer.intake.transactions
        assert transactions is not None
        try:
            async with transactions.step(TopicPartition("texts", partition)) as step:
                for batch in ready:
                    await step.producer.send("labels", partition, [(r.offset, b"", None, []) for r in batch.records])
                for batch in ready:
                    self.consumer.finish(batch)
                step.end = end = ready[-1].offset + 1
                step.delivered.append(lambda: self.told.update({partition: end}))
        except TransactionAborted as error:
            if not error.released and self.alive:
                self.consumer.read_again(error.partition, error)
        except ProduceError as error:
            self.fail(error)
        finally:
            self.stepping.discard(partition)

    def fail(self, error: Exception) -> None:
        """It has to stop: what is in flight is given up, what is delivered may be committed."""
        if self.alive:
            self.alive = False
            self.consumer.abandon()
            self.spawn(self._stop())

    async def _stop(self) -> None:
        assert self.consumer.intake.transactions is not None
        await self.consumer._commit_transactions(60.0)
        await self.consumer.intake.transactions.close(0.0)

    def kill(self) -> None:
        self.alive = False
        assert self.consumer.intake.transactions is not None
        for task in [*self.tasks, *self.consumer.intake.transactions._commits.values()]:
            task.cancel()


class ExactlyOnce(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.broker = Broker()
        self.workers: list[Worker] = []

    # The machinery --------------------------------------------------------------------------------------------------

    def run(self, work: Callable[[], Any]) -> None:
        """Do something inside the event loop, then let everything go as far as it can without the broker."""

        async def settle() -> None:
            work()
            for _ in range(30):
                await asyncio.sleep(0)

        self.loop.run_until_complete(settle())
        for worker in self.workers:
            for task in [task for task in worker.tasks if task.done() and not task.cancelled()]:
                task.result()

    def hire(self) -> Worker:
        app = faust.App("app", broker="kafka://127.0.0.1:1", datadir=self.folder.name, store="memory://")
        transactions = Transactions(lambda partition: Producer(self.broker, partition.partition), "app")
        intake = Intake(topics={"texts"}, drain_timeout_s=0.0, transactions=transactions)
        transport = _Transport(app.conf.broker_consumer, app, intake=intake)
        consumer = transport.create_consumer(
            callback=_nothing, on_partitions_revoked=_nothing, on_partitions_assigned=_nothing
        )
        consumer._thread.rejoin = lambda: None
        worker = Worker(self.broker, consumer)
        intake.on_failed = worker.fail
        self.workers.append(worker)
        return worker

    def living(self, number: int) -> Worker | None:
        alive = [worker for worker in self.workers if worker.alive]
        return alive[number % len(alive)] if alive else None

    # What may happen ------------------------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        self.run(self.hire)
        self.rebalance(0, set(PARTITIONS))
        self.answer_all()

    @rule(partitions=st.sets(st.sampled_from(PARTITIONS)))
    def join(self, partitions: set[int]) -> None:
        """A worker more, which is given partitions whoever has them."""
        if sum(worker.alive for worker in self.workers) < 2:
            self.run(self.hire)
            worker = self.workers[-1]
            self.run(lambda: setattr(worker, "moving", worker.spawn(worker.move(partitions))))

    @rule(number=st.integers(0, 1), partitions=st.sets(st.sampled_from(PARTITIONS)))
    def rebalance(self, number: int, partitions: set[int]) -> None:
        worker = self.living(number)
        if worker is not None and (worker.moving is None or worker.moving.done()):
            self.run(lambda: setattr(worker, "moving", worker.spawn(worker.move(partitions))))

    @rule(
        number=st.integers(0, 1), partition=st.sampled_from(PARTITIONS), lengths=st.lists(st.integers(1, 3), max_size=3)
    )
    def work(self, number: int, partition: int, lengths: list[int]) -> None:
        """Read some batches, and take a step of up to two if none is under way."""
        worker = self.living(number)
        if worker is not None and partition in worker.owned:
            for length in lengths:
                self.run(lambda n=length: worker.read(partition, n))
            if partition not in worker.stepping:
                self.run(lambda: worker.spawn(worker.step(partition, 2)))

    @rule(number=st.integers(0, 1))
    def commit(self, number: int) -> None:
        worker = self.living(number)
        if worker is not None:
            self.run(lambda: worker.spawn(_ignoring_result(worker.consumer.commit())))

    @rule(numbers=st.lists(st.integers(0, 3), min_size=1, max_size=4))
    def answer(self, numbers: list[int]) -> None:
        for number in numbers:
            if self.broker.requests:
                request = self.broker.requests[number % len(self.broker.requests)]
                self.run(lambda r=request: self.broker.process(r, "done"))

    @rule(number=st.integers(0, 3), outcome=st.sampled_from(OUTCOMES))
    def answer_badly(self, number: int, outcome: str) -> None:
        if self.broker.requests:
            request = self.broker.requests[number % len(self.broker.requests)]
            self.run(lambda: self.broker.process(request, outcome))

    @rule()
    def answer_all(self) -> None:
        for _ in range(40):
            if self.broker.requests:
                self.run(lambda: self.broker.process(self.broker.requests[0], "done"))

    @rule(partition=st.sampled_from(PARTITIONS))
    def take_over(self, partition: int) -> None:
        """Another worker is given a partition whose owner is about to commit, and knows nothing of it."""
        self.commit(0)
        self.join({partition})

    @rule(number=st.integers(0, 1))
    def stop_for_an_error(self, number: int) -> None:
        """Its model is broken, say."""
        worker = self.living(number)
        if worker is not None:
            self.run(lambda: worker.fail(DeliveryError("the model is broken")))

    @rule(partition=st.sampled_from(PARTITIONS))
    def time_out(self, partition: int) -> None:
        """The broker ends a transaction that was open for too long: its producer is fenced off."""
        self.run(lambda: self.broker.start(partition))

    @rule(number=st.integers(0, 1))
    def kill(self, number: int) -> None:
        worker = self.living(number)
        if worker is not None:
            self.run(worker.kill)

    # What always holds ----------------------------------------------------------------------------------------------

    @invariant()
    def a_reader_sees_one_result_for_each_committed_offset(self) -> None:
        for partition in PARTITIONS:
            assert self.broker.visible[partition] == list(range(self.broker.committed[partition]))

    @invariant()
    def delivered_means_committed(self) -> None:
        for worker in self.workers:
            for partition, offset in worker.told.items():
                assert offset <= self.broker.committed[partition]

    def teardown(self) -> None:
        try:
            for worker in self.workers:
                self.run(worker.kill)
            self.answer_all()
            self._finish()
        finally:
            for worker in self.workers:
                self.run(worker.kill)
                worker.consumer._thread.thread_loop.close()
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()
            self.folder.cleanup()

    def _finish(self) -> None:
        """A healthy worker on a healthy broker finishes the rest."""
        self.run(self.hire)
        worker = self.workers[-1]
        self.run(lambda: worker.spawn(worker.move(set(PARTITIONS))))
        self.answer_all()
        for _ in range(TOTAL):
            for partition in PARTITIONS:
                self.run(lambda p=partition: worker.read(p, 5))
                self.run(lambda p=partition: worker.spawn(worker.step(p, 2)))
            self.answer_all()
            self.run(lambda: worker.spawn(_ignoring_result(worker.consumer.commit())))
            self.answer_all()
        assert worker.alive
        assert self.broker.committed == dict.fromkeys(PARTITIONS, TOTAL)
        self.a_reader_sees_one_result_for_each_committed_offset()


def test_a_successor_begins_where_the_last_commit_of_its_predecessor_ends() -> None:
    machine = ExactlyOnce()
    machine.begin()
    machine.work(0, 0, [3])
    machine.answer_all()
    machine.take_over(0)  # the predecessor's commit and the successor's start are on their way
    machine.answer_all()
    machine.work(1, 0, [2])
    machine.answer_all()
    machine.commit(1)
    machine.answer_all()
    machine.a_reader_sees_one_result_for_each_committed_offset()
    assert machine.broker.committed[0] == 5
    machine.teardown()


def test_what_was_acknowledged_after_all_was_given_up_is_not_committed() -> None:
    machine = ExactlyOnce()
    machine.begin()
    machine.work(0, 0, [2])
    machine.answer_all()
    machine.work(0, 0, [2])
    machine.stop_for_an_error(0)
    machine.answer_all()
    machine.a_reader_sees_one_result_for_each_committed_offset()
    machine.teardown()


async def _nothing(*args: Any) -> None:
    """Takes no message."""


async def _ignoring_result(work: Coroutine[Any, Any, Any]) -> None:
    with contextlib.suppress(DeliveryError):
        await work


TestExactlyOnce = pytest.mark.slow(ExactlyOnce.TestCase)
TestExactlyOnce.settings = settings(
    max_examples=100, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
