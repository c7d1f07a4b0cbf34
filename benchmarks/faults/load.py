"""The load: numbered records, each in the source exactly once, at an even rate, whatever happens to the broker."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

from aiokafka import AIOKafkaProducer

__all__ = ["Load"]

POISON = b"\xff, which is no UTF-8"
_TICK_S = 0.1
_PATIENCE_MS = 600_000
"""How long a broker may be away before the load gives up, which ends the run: no fault lasts as long."""


class Load:
    """Sends records round robin over the partitions until told to stop.

    Args:
        rate: records a second.
        poison: the share of records that cannot be decoded and must become dead letters, 0-1.
    """

    def __init__(self, bootstrap: str, topic: str, *, partitions: int, rate: float, poison: float) -> None:
        self._bootstrap = bootstrap
        self._topic = topic
        self._partitions = partitions
        self._rate = rate
        self._poison_every = round(1 / poison) if poison else 0
        self._stop = threading.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._sent: Future[None] | None = None
        self.num_sent = 0

    def start(self) -> None:
        """Begin to send, in a thread of its own."""
        self._sent = self._thread.submit(lambda: asyncio.run(self._send()))

    def stop(self) -> int:
        """Stop; returns how many records are in the source, when all are acknowledged. Raises what ended it early."""
        self._stop.set()
        self._thread.shutdown()
        if self._sent is not None:
            self._sent.result()
        return self.num_sent

    async def _send(self) -> None:
        # Idempotent: a retry after a broker died must not put a record into the source twice.
        async with AIOKafkaProducer(
            bootstrap_servers=self._bootstrap, enable_idempotence=True, request_timeout_ms=_PATIENCE_MS
        ) as producer:
            started = time.monotonic()
            pending: set[asyncio.Future[object]] = set()
            while not self._stop.is_set():
                due = int((time.monotonic() - started) * self._rate)
                for number in range(self.num_sent, due):
                    value = POISON if self._poison_every and number % self._poison_every == 7 else b"text %d" % number
                    partition = number % self._partitions
                    pending.add(await producer.send(self._topic, value, key=b"k%d" % number, partition=partition))
                    self.num_sent = number + 1
                await asyncio.sleep(_TICK_S)
                pending = {future for future in pending if not future.done() or future.result() is None}
            await asyncio.gather(*pending)
