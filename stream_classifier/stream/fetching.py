"""What the consumer's thread fetches: committed records, as record batches, and no more than there is room for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import aiokafka
from faust.transport.drivers import aiokafka as driver
from faust.transport.utils import DefaultSchedulingStrategy
from faust.types import TP

from stream_classifier.stream.committed_offsets import heed_group_errors
from stream_classifier.stream.header_keys import accept_any_header_key
from stream_classifier.stream.intake import Intake
from stream_classifier.stream.record_batch import RecordBatch

__all__ = ["BatchConsumerThread", "BatchScheduler", "partition_states"]

_FETCH_MAX_WAIT_MS = 100
"""Faust asks brokers to answer an empty fetch after 1.5 s; the embedded broker answers any fetch only then."""


class BatchScheduler(DefaultSchedulingStrategy):
    """Hands on record batches of batch topics, round robin over partitions, and single records of all others."""

    def __init__(self, intake: Intake) -> None:  # the base classes only declare one
        self._intake = intake

    def iterate(self, records: Mapping[TP, list[Any]]) -> Iterator[tuple[TP, Any]]:
        runs = {tp: run for tp, run in records.items() if run and tp.topic in self._intake.topics}
        if len(runs) != len(records):
            yield from super().iterate({tp: run for tp, run in records.items() if tp not in runs})
        size = self._intake.max_batch_records
        start = 0
        while runs:
            for tp, run in list(runs.items()):
                yield tp, RecordBatch(tp.topic, tp.partition, run if len(run) <= size else run[start : start + size])
                if start + size >= len(run):
                    del runs[tp]
            start += size


def partition_states(consumer: aiokafka.AIOKafkaConsumer) -> dict[Any, Any]:
    """aiokafka's state of each assigned partition: where the consumer is, and how far there are records."""
    subscription = consumer._subscription.subscription
    assignment = subscription.assignment if subscription is not None else None
    return {} if assignment is None else {tp: assignment.state_value(tp) for tp in assignment.tps}


class BatchConsumerThread(driver.AIOKafkaConsumerThread):
    """Reads committed records only, and no more of them than the consumer has room for."""

    mundane_level = "debug"

    def _create_worker_consumer(self, transport: driver.Transport) -> aiokafka.AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"
        consumer._fetch_max_wait_ms = _FETCH_MAX_WAIT_MS
        return consumer

    async def on_start(self) -> None:
        await super().on_start()
        consumer = self._ensure_consumer()
        accept_any_header_key(consumer)
        heed_group_errors(consumer)

    async def getmany(
        self, active_partitions: set[TP] | None, timeout: float, max_records: int | None = None
    ) -> Mapping[TP, list[Any]]:
        consumer = self._ensure_consumer()
        limits = [limit for limit in (consumer._max_poll_records, max_records) if limit is not None]
        fetched = await self.call_thread(
            self._fetch_records,
            consumer,
            active_partitions,
            timeout=timeout,
            max_records=min(limits) if limits else None,
        )
        return cast("Mapping[TP, list[Any]]", fetched)

    async def put_back(self, records: Mapping[TP, list[Any]]) -> None:
        """Let what was fetched, and not handed on, be fetched again; unless somebody has sought to before it."""
        await self.call_thread(self._put_back, records)

    async def _put_back(self, records: Mapping[TP, list[Any]]) -> None:
        consumer = self._ensure_consumer()
        states = partition_states(consumer)
        for tp, run in records.items():
            partition = driver.ensure_aiokafka_TP(tp)
            state = states.get(partition)
            if state is not None and state.has_valid_position and state.position > run[0].offset:
                consumer.seek(partition, run[0].offset)

    async def stop(self) -> None:
        # One that has crashed has closed its loop; nothing is left to stop, and mode would log a traceback of that.
        if not self.thread_loop.is_closed():
            await super().stop()

    def close(self) -> None:
        """Nothing: whoever stops it leaves the group soon.

        Stock closes a stopping consumer when a rebalance comes, in the wrong event loop. That fails half-way, and what
        is left does not leave the group, which waits for it until its session ends.
        """

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        # Where all of them were let go of meanwhile, stock commits nothing at all, which aiokafka refuses: a crash.
        return bool(self.assignment() & offsets.keys()) and await super()._commit(offsets)

    async def end_offsets(self, partitions: Sequence[TP]) -> Mapping[TP, int]:
        """Behind the last record of each that may be read: records of open transactions come later."""
        found = await self.call_thread(self._ensure_consumer().end_offsets, partitions)
        return {tp: found[tp] for tp in partitions}

    def rejoin(self) -> None:
        """Join the group anew: all partitions are let go of, and read from their committed offsets again."""
        self.thread_loop.call_soon_threadsafe(self._ensure_consumer()._coordinator.request_rejoin)
