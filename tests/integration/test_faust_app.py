"""StreamClassifier in an ordinary Faust app, run by Faust's own worker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.test_worker import null_answer
from tests.plugins.brokers import Broker, Record
from tests.plugins.ports import free_port
from tests.plugins.workers import Worker

APPS = Path(__file__).parent / "apps"


class FaustApp(Worker):
    """An app of `apps/` under `faust worker`."""

    def __init__(self, script: str, directory: Path, environ: dict[str, str]) -> None:
        self.log_file = directory / "app.log"
        self.port = int(environ["PORT"])
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(APPS / script), "worker", "-l", "info"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "DATADIR": str(directory / "data"), **environ},
            )


@pytest.fixture
def start_app(tmp_path: Path) -> Iterator[Callable[..., FaustApp]]:
    """Start apps that end with the test."""
    apps: list[FaustApp] = []

    def start(script: str, broker: Broker, prefix: str, partitions: int = 2, **environ: str) -> FaustApp:
        environ = {
            "BROKER": broker.bootstrap,
            "PREFIX": prefix,
            "PARTITIONS": str(partitions),
            "PORT": str(free_port()),
            **environ,
        }
        apps.append(FaustApp(script, tmp_path, environ))
        return apps[-1]

    yield start
    for app in apps:
        app.kill()


def test_own_agents_tables_and_timers_run_beside_classifiers(
    broker: Broker, start_app: Callable[..., FaustApp], unique_name: Callable[[str], str]
) -> None:
    prefix = unique_name("beside")
    for topic in ("texts", "orders", "messages", "counted", "triaged", "beats"):
        broker.create_topic(f"{prefix}.{topic}", partitions=2)
    app = start_app("beside.py", broker, prefix)
    app.wait_ready()
    texts = [f"text {i}" for i in range(500)]
    broker.produce(f"{prefix}.texts", [Record(text.encode(), partition=i % 2) for i, text in enumerate(texts)])
    broker.produce(f"{prefix}.orders", [Record(b"order %d" % i, partition=0) for i in range(20)])
    bodies = [{"id": i, "body": f"message {i}"} for i in range(50)] + [{"id": 50}, {"id": 51, "body": 7}]
    broker.produce(f"{prefix}.messages", [Record(json.dumps(body).encode(), partition=0) for body in bodies])

    def values(topic: str, count: int) -> list[dict]:
        return [json.loads(r.value) for r in broker.consume_all(f"{prefix}.{topic}", count=count, timeout_s=60)]

    expected = sorted(null_answer(text)[0] for text in texts)
    assert sorted(value["label"] for value in values("first", 500)) == expected
    assert sorted(value["label"] for value in values("second", 500)) == sorted("ab"[name == "odd"] for name in expected)
    assert sorted(value["count"] for value in values("counted", 20)) == list(range(1, 21))
    answers = {value["id"]: value["answer"] for value in values("triaged", 52)}
    for body in bodies[:50]:
        label, score = null_answer(body["body"])
        assert answers[body["id"]] == f"{label} {'accepted' if score >= 0.75 else 'uncertain'}"
    assert (answers[50], answers[51]) == ("KeyError", "TypeError")
    assert len(values("beats", 3)) >= 3
    assert app.metric("records_total", classifier="first", outcome="accepted") == 500
    assert app.stop() == 0
    committed = broker.committed(f"{prefix}-app", f"{prefix}.texts")
    assert committed == {0: 250, 1: 250}
    assert broker.committed(f"{prefix}-app", f"{prefix}.messages")[0] == 52


def test_an_app_that_asks_for_exactly_once_gets_it_for_its_classifiers(
    apache_kafka: Broker, start_app: Callable[..., FaustApp], unique_name: Callable[[str], str]
) -> None:
    prefix = unique_name("beside")
    for topic in ("texts", "orders", "messages", "counted", "triaged", "beats", "first", "second"):
        apache_kafka.create_topic(f"{prefix}.{topic}", partitions=2)
    apache_kafka.produce(f"{prefix}.texts", [Record(b"text %d" % i, partition=i % 2) for i in range(2000)])
    apache_kafka.produce(f"{prefix}.orders", [Record(b"order %d" % i, partition=0) for i in range(20)])
    doomed = start_app("beside.py", apache_kafka, prefix, GUARANTEE="exactly_once")
    apache_kafka.consume_all(f"{prefix}.first", count=1000, timeout_s=60)
    doomed.kill()
    app = start_app("beside.py", apache_kafka, prefix, GUARANTEE="exactly_once")
    for sink in ("first", "second"):
        results = apache_kafka.consume_all(f"{prefix}.{sink}", count=2000, timeout_s=60)
        sources = [json.loads(record.value)["source"] for record in results]
        assert [(source["partition"], source["offset"]) for source in sources] == [
            (partition, offset) for partition in range(2) for offset in range(1000)
        ]
    counted = [json.loads(r.value)["order"] for r in apache_kafka.consume_all(f"{prefix}.counted", count=20)]
    assert set(counted) == {f"order {i}" for i in range(20)}
    assert app.stop() == 0
    assert apache_kafka.committed(f"{prefix}-app", f"{prefix}.texts") == {0: 1000, 1: 1000}


def test_an_agent_on_a_classifiers_source_is_refused(
    embedded_broker: Broker, start_app: Callable[..., FaustApp], unique_name: Callable[[str], str]
) -> None:
    app = start_app("clash.py", embedded_broker, unique_name("clash"))
    assert app.wait() != 0
    assert "belongs to the classifiers" in app.log
    assert "classify(stream" in app.log


def test_records_of_an_agent_whose_body_raises_are_read_again(
    embedded_broker: Broker, start_app: Callable[..., FaustApp], unique_name: Callable[[str], str]
) -> None:
    prefix = unique_name("raises")
    for topic in ("messages", "seen"):
        embedded_broker.create_topic(f"{prefix}.{topic}", partitions=1)
    embedded_broker.produce(f"{prefix}.messages", [Record(b"%d" % i) for i in range(30)])
    first = start_app("raises.py", embedded_broker, prefix, partitions=1)
    first.wait_for(lambda: "the body raised" in first.log, 60, "failing")
    first.process.send_signal(signal.SIGKILL)
    first.kill()
    assert embedded_broker.committed(f"{prefix}-app", f"{prefix}.messages").get(0, 0) <= 10
    second = start_app("raises.py", embedded_broker, prefix, partitions=1)

    def seen() -> set[int]:
        return {int(record.value) for record in embedded_broker.consume_all(f"{prefix}.seen", count=1)}

    second.wait_for(lambda: seen() == set(range(30)), 60, "done")
