"""What came out: how long a reader stood still meanwhile, and every topic read back afterwards."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

__all__ = ["Outcome", "Tail", "read_back"]

_STUCK_S = 120.0
"""How long a reader may stand still before a run counts as failed: brokers on a busy machine are slow."""
_NUM_SHOWN = 20


class Tail:
    """A `read_committed` reader of the sink that notes how long nothing came. Runs in a thread of its own.

    Args:
        told: is given every batch of records, in that thread.
    """

    def __init__(
        self, bootstrap: str, topic: str, partitions: int, told: Callable[[list[Any]], None] = lambda batch: None
    ) -> None:
        self._bootstrap = bootstrap
        self._partitions = [TopicPartition(topic, number) for number in range(partitions)]
        self._told = told
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._read()), name="tail")
        self._last: float | None = None
        self.num_read = 0
        self.longest_stall_s = 0.0
        self._thread.start()

    def watch(self) -> None:
        """From now on records are due all the time."""
        self._last = time.monotonic()

    def idle(self) -> None:
        """From now on nothing is due any more."""
        self._note(time.monotonic())
        self._last = None

    def stop(self) -> None:
        """End it."""
        self._stop.set()
        self._thread.join()

    def _note(self, now: float) -> None:
        if self._last is not None:
            self.longest_stall_s = max(self.longest_stall_s, now - self._last)
            self._last = now

    async def _read(self) -> None:
        while not self._stop.is_set():
            consumer = _reader(self._bootstrap)
            try:
                await consumer.start()
                consumer.assign(self._partitions)
                await consumer.seek_to_end() if self.num_read == 0 else None
                while not self._stop.is_set():
                    batches = await consumer.getmany(timeout_ms=100)
                    for batch in batches.values():
                        self._told(batch)
                    if batches:
                        self.num_read += sum(map(len, batches.values()))
                        self._note(time.monotonic())
            except KafkaError:
                await asyncio.sleep(0.1)  # the broker is away: that is part of the stall
            finally:
                await consumer.stop()


@dataclass
class Outcome:
    """What a run made of its source records.

    Attributes:
        lost: records with neither a result nor a dead letter.
        repeated: results and dead letters too many.
        out_of_order: results that come after the first result of a later record of their source partition.
        lost_at: the first runs of lost records, as "partition: first offset-last offset".
    """

    records: int
    results: int
    dead_letters: int
    lost: int
    repeated: int
    out_of_order: int
    lost_at: list[str]


def read_back(bootstrap: str, sink: str, dead_letter: str | None, *, partitions: int, num_sent: int) -> Outcome:
    """Read the outputs as a `read_committed` reader and hold them against the source, record by record."""
    seen = [bytearray((num_sent - partition + partitions - 1) // partitions) for partition in range(partitions)]
    highest: dict[int, int] = {}
    results = letters = repeated = disordered = 0
    for _, value, _ in asyncio.run(_read_all(bootstrap, sink, partitions)):
        source = json.loads(value)["source"]
        partition, offset = source["partition"], source["offset"]
        results += 1
        if seen[partition][offset]:
            repeated += 1
        elif offset < highest.get(partition, -1):
            disordered += 1
        seen[partition][offset] = 1
        highest[partition] = max(highest.get(partition, -1), offset)
    for _, _, headers in asyncio.run(_read_all(bootstrap, dead_letter, partitions)) if dead_letter else ():
        partition, offset = (int(headers[f"__connect.errors.{name}"]) for name in ("partition", "offset"))
        letters += 1
        repeated += seen[partition][offset]
        seen[partition][offset] = 1
    lost = sum(marks.count(0) for marks in seen)
    return Outcome(num_sent, results, letters, lost, repeated, disordered, _gaps(seen))


def _gaps(seen: list[bytearray]) -> list[str]:
    runs = (
        f"{number}: {run.start()}-{run.end() - 1}"
        for number, marks in enumerate(seen)
        for run in re.finditer(rb"\0+", marks)
    )
    return list(itertools.islice(runs, _NUM_SHOWN))


async def _read_all(bootstrap: str, topic: str, partitions: int) -> list[tuple[int, bytes, dict[str, bytes]]]:
    """All committed records there are now: up to the last stable offset of every partition.

    Raises:
        RuntimeError: nothing more came before the end; what was not read must not count as lost.
    """
    consumer = _reader(bootstrap)
    await consumer.start()
    found: list[tuple[int, bytes, dict[str, bytes]]] = []
    try:
        at = [TopicPartition(topic, number) for number in range(partitions)]
        consumer.assign(at)
        await consumer.seek_to_beginning()
        ends = await consumer.end_offsets(at)
        moved_at, before = time.monotonic(), {}
        while left := {tp: position for tp in at if (position := await consumer.position(tp)) < ends[tp]}:
            if left != before:
                moved_at, before = time.monotonic(), left
            elif time.monotonic() - moved_at > _STUCK_S:
                raise RuntimeError(f"{topic}: nothing came for {_STUCK_S:g} s at {left}, the ends are {ends}")
            for batch in (await consumer.getmany(timeout_ms=200, max_records=20_000)).values():
                found += _plain(batch)
    finally:
        await consumer.stop()
    return found


def _plain(batch: list[Any]) -> Iterator[tuple[int, bytes, dict[str, bytes]]]:
    for record in batch:
        yield record.partition, record.value, dict(record.headers)


def _reader(bootstrap: str) -> AIOKafkaConsumer:
    return AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        request_timeout_ms=5000,
    )
