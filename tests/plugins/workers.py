"""Workers for tests: `stream-classifier run` as a process of its own, with its configuration in a file.

def test_something(broker, start_worker, unique_name):
    worker = start_worker(broker, classifiers=[{"name": "null", "model": "null", "source": …, "sink": …}])
    …
    assert worker.stop() == 0
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.brokers import Broker
from tests.plugins.ports import free_port

START_TIMEOUT_S = 60.0


class Worker:
    """A worker process.

    Args:
        directory: for its configuration and its log.
        settings: the configuration, as nested tables.
        command: what Python runs, before `run FILE`.
        environ: added to its environment.
    """

    def __init__(
        self,
        directory: Path,
        settings: Mapping[str, Any],
        *,
        command: Sequence[str] = ("-m", "stream_classifier"),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.config_file = directory / "pipeline.toml"
        self.config_file.write_text(to_toml(settings))
        self.log_file = directory / "worker.log"
        self.port = settings["web"]["port"]
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command, "run", str(self.config_file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **(environ or {})},
            )

    @property
    def log(self) -> str:
        """What it has written so far."""
        return self.log_file.read_text(errors="replace")

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of one of its pages; status 0 when nothing listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        total = 0.0
        for line in self.get("/metrics")[1].splitlines():
            match = re.fullmatch(rf"stream_classifier_{name}(\{{.*\}})? (\S+)", line)
            if match and all(f'{key}="{value}"' in (match[1] or "") for key, value in labels.items()):
                total += float(match[2])
        return total

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Until /readyz says so."""
        self.wait_for(lambda: self.get("/readyz")[0] == 200, timeout_s, "ready")

    def wait_for(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Poll a condition; fails with the log when it does not come, or the worker ends first."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if self.process.poll() is not None:
                pytest.fail(
                    f"the worker ended with {self.process.returncode} before it was {what}:\n{self.log[-3000:]}"
                )
            if time.monotonic() > deadline:
                pytest.fail(f"the worker was not {what} within {timeout_s:g} s:\n{self.log[-3000:]}")
            time.sleep(0.05)

    def wait(self, timeout_s: float = 60.0) -> int:
        """Until it ends by itself; its exit code."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the worker did not end within {timeout_s:g} s:\n{self.log[-3000:]}")

    def stop(self, timeout_s: float = 30.0) -> int:
        """SIGTERM; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.wait(timeout_s)
        if code:
            print(f"the worker ended with {code}:\n{self.log[-3000:]}")  # for the report of a test that fails by it
        return code

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Start workers that end with the test, and wait until they are ready unless `ready=False`."""
    workers: list[Worker] = []

    def start(
        broker: Broker | str,
        *,
        classifiers: Sequence[Mapping[str, Any]],
        app: Mapping[str, Any] | None = None,
        web: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
        ready: bool = True,
    ) -> Worker:
        address = broker if isinstance(broker, str) else f"kafka://{broker.bootstrap}"
        settings = {
            "app": {
                "id": f"app-{tmp_path.name}",
                "broker": address,
                "session_timeout_s": 6.0,
                "rebalance_timeout_s": 8.0,
                "drain_timeout_s": 5.0,
                **(app or {}),
            },
            "web": {"port": free_port(), **(web or {})},
            "classifier": list(classifiers),
        }
        worker = Worker(tmp_path / f"worker-{len(workers)}", settings, environ=environ)
        workers.append(worker)
        if ready:
            worker.wait_ready()
        return worker

    yield start
    for worker in workers:
        worker.kill()
        print(f"--- {worker.log_file}\n{worker.log[-6000:]}")  # pytest shows it when the test failed


def to_toml(settings: Mapping[str, Any]) -> str:
    """Tables of settings as TOML; values written as JSON are TOML, but for tables, which are written inline."""

    def value(item: Any) -> str:
        if isinstance(item, Mapping):
            return "{ " + ", ".join(f"{json.dumps(key)} = {value(inner)}" for key, inner in item.items()) + " }"
        if isinstance(item, list | tuple):
            return "[" + ", ".join(map(value, item)) + "]"
        return json.dumps(item)

    lines = []
    for name, table in settings.items():
        for entry in table if isinstance(table, list) else [table]:
            lines.append(f"[[{name}]]" if isinstance(table, list) else f"[{name}]")
            lines += [f"{key} = {value(item)}" for key, item in entry.items()]
    return "\n".join(lines) + "\n"
