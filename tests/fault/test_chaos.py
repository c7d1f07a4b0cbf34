"""A short run of the chaos runner for each guarantee; `python -m benchmarks.faults --minutes 30` is a long one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.plugins.brokers import kafka_script

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


@pytest.mark.parametrize("guarantee", ["at_least_once", "exactly_once"])
def test_the_promise_is_kept_under_a_mix_of_faults(tmp_path: Path, guarantee: str) -> None:
    kafka_script()  # skips, or fails, where there is none
    options = ["--minutes", "0.5", "--seed", "3", "--rate", "300", "--guarantee", guarantee, "--keep", str(tmp_path)]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.faults", *options], check=False, capture_output=True, text=True, timeout=280
    )
    assert run.returncode == 0, run.stdout + run.stderr
