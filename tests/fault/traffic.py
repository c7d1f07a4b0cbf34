"""A source that gets records all the time, and what must be true of its results in the end."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from benchmarks.faults.load import Load
from tests.fault.test_broker_faults import offsets_seen
from tests.fault.test_exactly_once import PARTITIONS, Scene
from tests.plugins.brokers import Broker
from tests.plugins.workers import Worker


class Traffic(Scene):
    """A topic under load, as a context manager, and the workers of one group that read it.

    Args:
        address: where the workers find the broker, if not where the test does.
        rate: records a second.
    """

    def __init__(
        self,
        broker: Broker,
        start_worker: Callable[..., Worker],
        source: str,
        address: str | None = None,
        *,
        rate: float = 400.0,
    ) -> None:
        super().__init__(broker, start_worker, source, address)
        broker.create_topic(source, partitions=PARTITIONS)
        self._delivery = ""
        self._load = Load(broker.bootstrap, source, partitions=PARTITIONS, rate=rate, poison=0.0)

    def start(self, *, delivery: str, **options: Any) -> Worker:
        """A worker of the group, with this guarantee."""
        self._delivery = delivery
        return super().start(delivery=delivery, **options)

    def finish(self, worker: Worker) -> None:
        """No more records come: all that came have their results, each once where that was promised."""
        total = self._load.stop()
        worker.wait_for(lambda: sum(self.broker.committed(self.group, self.source).values()) >= total, 120, "done")
        assert worker.stop() == 0
        if self._delivery == "exactly_once":
            self.assert_one_each(total)
        else:
            wanted = {(number % PARTITIONS, number // PARTITIONS) for number in range(total)}
            assert offsets_seen(self.broker, f"{self.source}.results") == wanted

    def __enter__(self) -> Traffic:
        self._load.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._load.stop()
