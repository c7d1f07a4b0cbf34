"""Models that fail: one text's failure is its own, a broken model stops the worker, a hanging one ends the process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.plugins.brokers import Broker, Record
from tests.plugins.ports import free_port
from tests.plugins.workers import Worker

APP = Path(__file__).parent / "apps" / "poisoned.py"


class PoisonedApp(Worker):
    """`apps/poisoned.py` under Faust's own worker."""

    def __init__(self, directory: Path, environ: dict[str, str]) -> None:
        self.log_file = directory / "app.log"
        self.port = int(environ["PORT"])
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(APP), "worker", "-l", "info"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "DATADIR": str(directory / "data"), **environ},
            )


class Scene:
    """A source topic and an app that reads it."""

    def __init__(self, broker: Broker, prefix: str, directory: Path) -> None:
        self.broker, self.prefix, self.directory = broker, prefix, directory
        self.apps: list[PoisonedApp] = []
        broker.create_topic(f"{prefix}.texts", partitions=1)

    def start(self, **environ: str) -> PoisonedApp:
        port = str(free_port())
        environ = {"BROKER": self.broker.bootstrap, "PREFIX": self.prefix, "PORT": port, **environ}
        self.apps.append(PoisonedApp(self.directory, environ))
        self.apps[-1].wait_ready()
        return self.apps[-1]

    def produce(self, texts: list[str]) -> None:
        self.broker.produce(f"{self.prefix}.texts", [Record(text.encode()) for text in texts])

    def results(self, count: int) -> list[int]:
        records = self.broker.consume_all(f"{self.prefix}.results", count=count, timeout_s=60)
        return [json.loads(record.value)["source"]["offset"] for record in records]

    def letters(self, count: int) -> list[tuple[bytes, str, str]]:
        """(value, stage, error) of each dead letter."""
        found = []
        for record in self.broker.consume_all(f"{self.prefix}.texts.dead-letter", count=count, timeout_s=60):
            headers = {key: value.decode() for key, value in record.headers}
            error = headers["__connect.errors.exception.class.name"]
            found.append((record.value, headers["__connect.errors.stage"], error))
        return found


@pytest.fixture
def scene(embedded_broker: Broker, unique_name: Callable[[str], str], tmp_path: Path) -> Iterator[Scene]:
    """A scene of its own, ended with the test."""
    made = Scene(embedded_broker, unique_name("poisoned"), tmp_path)
    yield made
    for app in made.apps:
        app.kill()


def test_poison_texts_become_dead_letters_and_their_batch_mates_results(scene: Scene) -> None:
    texts = [f"text {i}" for i in range(400)]
    for row, text in ((3, "raise one"), (4, "raise two"), (120, "nan"), (399, "raise last")):
        texts[row] = text
    app = scene.start()
    scene.produce(texts)
    assert scene.letters(4) == [
        (b"raise one", "infer", "ValueError"),
        (b"raise two", "infer", "ValueError"),
        (b"nan", "infer", "NonFiniteScores"),
        (b"raise last", "infer", "ValueError"),
    ]
    assert scene.results(396) == [row for row in range(400) if row not in (3, 4, 120, 399)]
    assert app.metric("dead_letters_total", classifier="obedient", stage="infer", error="ValueError") == 3
    assert app.metric("records_total", outcome="dead_letter") == 4
    assert app.stop() == 0


def test_out_of_memory_halves_the_batch_and_goes_on(scene: Scene) -> None:
    app = scene.start(MEMORY="10")
    scene.produce([f"text {i}" for i in range(300)])
    assert scene.results(300) == list(range(300))
    assert 1 <= app.metric("retries_total", reason="out_of_memory") <= 10
    assert app.stop() == 0


def test_a_broken_model_stops_the_worker_and_dead_letters_nothing(scene: Scene) -> None:
    app = scene.start()
    scene.produce(["fine", "break", "never answered"])
    assert app.wait() == 1
    assert "it is broken" in app.log
    assert scene.letters(0) == []
    assert scene.broker.committed(f"{scene.prefix}-app", f"{scene.prefix}.texts").get(0, 0) <= 1


def test_a_hanging_forward_pass_ends_the_process(scene: Scene) -> None:
    app = scene.start()
    scene.produce(["fine"])
    assert scene.results(1) == [0]
    scene.produce(["hang"])
    assert app.wait(30) == 1
    assert "hangs" in app.log
    assert scene.letters(0) == []
