"""Workers thought dead: stopped for longer than the session time-out while another took over, then continued."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from tests.fault.test_broker_faults import offsets_seen
from tests.fault.test_exactly_once import PARTITIONS, Scene, delivered
from tests.plugins.brokers import Broker
from tests.plugins.workers import Worker


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
def test_a_worker_that_was_stopped_and_comes_back_loses_and_repeats_nothing(
    apache_kafka: Broker, start_worker: Callable[..., Worker], unique_name: Callable[[str], str], delivery: str
) -> None:
    source = unique_name("source")
    apache_kafka.create_topic(source, partitions=PARTITIONS)
    scene = Scene(apache_kafka, start_worker, source)
    zombie = scene.start(delivery=delivery)
    load = scene.fill_meanwhile(8000, 0)
    zombie.wait_for(lambda: delivered(zombie) > 0, 60, "at work")
    zombie.process.send_signal(signal.SIGSTOP)
    load.join()
    try:
        successor = scene.start(delivery=delivery)
        scene.wait_for_results(8000, successor)
    finally:
        zombie.process.send_signal(signal.SIGCONT)
    load = scene.fill_meanwhile(16_000, 8000)
    scene.wait_for_results(16_000, successor)
    load.join()
    zombie.wait_for(lambda: zombie.process.poll() is None and "lag_records{" in zombie.get("/metrics")[1], 60, "back")
    assert zombie.stop() == 0
    assert successor.stop() == 0
    if delivery == "exactly_once":
        scene.assert_one_each(16_000)
    else:
        seen = offsets_seen(apache_kafka, f"{source}.results")
        assert seen == {(number % PARTITIONS, number // PARTITIONS) for number in range(16_000)}
