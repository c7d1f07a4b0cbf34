"""Three nodes of Apache Kafka, every topic on all of them: any of them may die under load, and leaders move."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.fault.test_exactly_once import delivered
from tests.fault.traffic import Traffic
from tests.plugins.brokers import kafka_script
from tests.plugins.clusters import KafkaCluster
from tests.plugins.workers import Worker

pytestmark = [pytest.mark.kafka, pytest.mark.slow]  # a cluster of its own

DELIVERIES = ("at_least_once", "exactly_once")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[KafkaCluster]:
    with KafkaCluster(kafka_script(), tmp_path) as cluster:
        yield cluster


def test_any_node_may_be_killed_under_load_and_come_back(
    cluster: KafkaCluster, start_worker: Callable[..., Worker]
) -> None:
    """Each in its turn, so the leader of every partition, and the coordinator of each group and transaction."""
    with ExitStack() as stack:
        running: list[tuple[Traffic, Worker]] = []
        for delivery in DELIVERIES:
            traffic = stack.enter_context(Traffic(cluster.broker, start_worker, delivery))
            running.append((traffic, traffic.start(delivery=delivery)))
        for node in cluster.nodes:
            cluster.wait_in_sync()
            leaders = {(at["topic"], at["partition_index"]): at["leader_id"] for at in cluster.partitions()}
            before = [delivered(worker) for _, worker in running]
            for (_, worker), number in zip(running, before, strict=True):
                worker.wait_for(lambda w=worker, n=number: delivered(w) > n, 60, "at work")
            node.kill()
            before = [delivered(worker) for _, worker in running]
            for (_, worker), number in zip(running, before, strict=True):
                worker.wait_for(lambda w=worker, n=number: delivered(w) > n + 400, 60, "at work without the node")
            now = {(at["topic"], at["partition_index"]): at["leader_id"] for at in cluster.partitions()}
            assert now != leaders, "leaders have moved"
            node.start()
        for traffic, worker in running:
            traffic.finish(worker)
