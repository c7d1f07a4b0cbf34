"""How quiet the machine is: before a run, and what others took of it meanwhile.

A rate that was measured beside a test run is worth nothing; a run says how much it was disturbed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import psutil

__all__ = ["Disturbance", "cpu_seconds", "wait_for_quiet"]


def wait_for_quiet(*, busy_at_most: float = 0.15, limit_s: float = 60.0) -> float:
    """Wait until the machine is idle for two seconds, `limit_s` at most; returns how busy it was last, 0-1."""
    deadline = time.monotonic() + limit_s
    while True:
        busy = psutil.cpu_percent(2.0) / 100
        if busy <= busy_at_most or time.monotonic() > deadline:
            return busy


def cpu_seconds(process: psutil.Process) -> float:
    """User and system time of a process so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


class Disturbance:
    """The share of all cores that processes other than ours took since it was made, 0-1."""

    def __init__(self, ours: Sequence[psutil.Process]) -> None:
        self._ours = [psutil.Process(), *ours]
        self._start = (time.monotonic(), _busy_seconds(), self._own_seconds())

    def share(self) -> float:
        """While ours are still running."""
        started, busy, own = self._start
        seconds = (time.monotonic() - started) * psutil.cpu_count()
        others = (_busy_seconds() - busy) - (self._own_seconds() - own)
        return round(max(0.0, others / seconds), 3)

    def _own_seconds(self) -> float:
        return sum(cpu_seconds(process) for process in self._ours)


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + getattr(times, "steal", 0.0))
