"""90 seconds of the chaos runner for each guarantee; `python -m benchmarks.faults --minutes 30` is a long one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen

import pytest

from stream_classifier.broker import spawn_tied
from tests.plugins.brokers import kafka_script

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(900)]

GUARANTEES = ("at_least_once", "exactly_once")
OPTIONS = ["--minutes", "1.5", "--seed", "51", "--rate", "300"]
LIMIT_S = 800


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Popen[bytes], Path]]]:
    """A run of each guarantee, with its log. Side by side: most of the time they wait for what a fault has stopped."""
    kafka_script()  # skips, or fails, where there is none
    started: dict[str, tuple[Popen[bytes], Path]] = {}
    for guarantee in GUARANTEES:
        folder = tmp_path_factory.mktemp(guarantee)
        command = ["-m", "benchmarks.faults", *OPTIONS, "--guarantee", guarantee, "--keep", str(folder)]
        with (folder / "run.log").open("wb") as log:
            started[guarantee] = spawn_tied([sys.executable, *command], log=log), folder / "run.log"
    yield started
    for run, _ in started.values():
        if run.poll() is None:
            run.terminate()
        run.wait(60)
        if run.stdin is not None:
            run.stdin.close()


@pytest.mark.parametrize("guarantee", GUARANTEES)
def test_the_promise_is_kept_under_a_mix_of_faults(runs: dict[str, tuple[Popen[bytes], Path]], guarantee: str) -> None:
    run, log = runs[guarantee]
    try:
        code = run.wait(LIMIT_S)
    except subprocess.TimeoutExpired:
        pytest.fail(f"not done after {LIMIT_S} s:\n{log.read_text()}")
    assert code == 0, log.read_text()
