"""A broker that is away for longer than probes are patient: what the worker holds meanwhile, and says of itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

import psutil
import pytest

from tests.fault.test_exactly_once import delivered
from tests.fault.traffic import Traffic
from tests.plugins.brokers import ApacheKafka, Broker
from tests.plugins.workers import Worker

pytestmark = pytest.mark.slow  # a broker of its own

ABSENCE_S = 30.0
LIVENESS_S = 10.0
MAX_GROWTH_BYTES = 32 << 20
MAX_LINES = 200


def test_a_broker_that_is_away_for_half_a_minute(
    kafka_nodes: Callable[..., ApacheKafka], start_worker: Callable[..., Worker]
) -> None:
    node = kafka_nodes()
    broker = Broker(node.start(), "kafka")
    with ExitStack() as stack:
        running: list[tuple[Traffic, Worker]] = []
        for delivery in ("at_least_once", "exactly_once"):
            traffic = stack.enter_context(Traffic(broker, start_worker, delivery))
            worker = traffic.start(delivery=delivery, web={"liveness_timeout_s": LIVENESS_S})
            running.append((traffic, worker))
        for _, worker in running:
            worker.wait_for(lambda w=worker: delivered(w) > 1000, 60, "at work")
        before = [(rss(worker), len(worker.log.splitlines())) for _, worker in running]
        node.kill()
        try:
            watch([worker for _, worker in running])
            for (_, worker), (rss_before, lines_before) in zip(running, before, strict=True):
                assert "the broker does not answer" in worker.get("/livez")[1]
                assert "the broker does not answer" in worker.log
                assert rss(worker) < rss_before + MAX_GROWTH_BYTES
                assert len(worker.log.splitlines()) < lines_before + MAX_LINES
        finally:
            node.start()  # the load waits for it
        for traffic, worker in running:
            worker.wait_for(lambda w=worker: "the broker answers again" in w.log, 60, "aware of it")
            traffic.finish(worker)


def watch(workers: list[Worker]) -> None:
    """Probe them while the broker is away: they live, and a restart would not help."""
    back_at = time.monotonic() + ABSENCE_S
    while time.monotonic() < back_at:
        for worker in workers:
            status, body = worker.get("/livez")
            assert status == 200, body
            assert worker.get("/readyz")[0] == 200
        time.sleep(0.5)


def rss(worker: Worker) -> int:
    return int(psutil.Process(worker.process.pid).memory_info().rss)
