"""Three nodes of Apache Kafka as one cluster, each to be killed and started again by a test."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from tests.plugins.brokers import ApacheKafka, Broker
from tests.plugins.ports import free_port_pair

_SETTINGS = [
    "default.replication.factor=3",
    "min.insync.replicas=2",
    "offsets.topic.replication.factor=3",
    "transaction.state.log.replication.factor=3",
    "transaction.state.log.min.isr=2",
]


class KafkaCluster:
    """A cluster whose topics, the internal ones too, are on all three nodes, as a context manager.

    Attributes:
        nodes: by their number less one.
        broker: all three of them, for what a test itself does; topics it makes are on all nodes.
    """

    def __init__(self, script: Path, data_dir: Path) -> None:
        ports: list[int] = []
        while len(ports) < 3:
            port = free_port_pair()
            if all(abs(port - other) > 1 for other in ports):
                ports.append(port)
        voters = ",".join(f"{number}@127.0.0.1:{port + 1}" for number, port in enumerate(ports, 1))
        self.nodes = [
            ApacheKafka(
                script,
                data_dir / f"node-{number}",
                port,
                settings=[f"node.id={number}", f"controller.quorum.voters={voters}", *_SETTINGS],
                light=True,
            )
            for number, port in enumerate(ports, 1)
        ]
        self.broker = Broker(",".join(node.bootstrap for node in self.nodes), "kafka", replicas=3)

    def __enter__(self) -> KafkaCluster:
        try:
            with ThreadPoolExecutor() as pool:  # none of them answers before most of them are there
                list(pool.map(ApacheKafka.start, self.nodes))
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._kill()

    def _kill(self) -> None:
        for node in self.nodes:
            node.kill()

    def partitions(self) -> list[dict[str, Any]]:
        """Topic, number, leader, replicas and in-sync replicas of every partition, the internal topics' too."""
        with self.broker.admin() as admin:
            described = admin.describe_topics()
        return [{"topic": topic["name"], **partition} for topic in described for partition in topic["partitions"]]

    def wait_in_sync(self, timeout_s: float = 60.0) -> None:
        """Until every partition has a leader and all its replicas are in sync: one node may be lost now."""
        deadline = time.monotonic() + timeout_s
        while behind := [at for at in self.partitions() if len(at["isr_nodes"]) < 3 or at["leader_id"] < 1]:
            if time.monotonic() > deadline:
                pytest.fail(f"{len(behind)} partitions are not in sync after {timeout_s:g} s: {behind[0]}")
            time.sleep(0.2)
