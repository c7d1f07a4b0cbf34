"""A stream worker as a child process, timed from outside by what reaches its sink.

The clock runs from the first results seen to the last one, so neither start-up nor the join of the group counts; what
was there at the first look is not counted either. A slow model delivers too coarsely for that: there the records are
sent when the worker is ready, and the clock starts with them. Only end offsets are asked for, 25 times a second.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.kafka import Kafka
from benchmarks.quiet import Disturbance, cpu_seconds, wait_for_quiet
from tests.plugins.ports import free_port

__all__ = ["run_ours", "timed"]

_LOOK_S = 0.04
_START_LIMIT_S = 120.0
_STALL_LIMIT_S = 60.0
_STOP_LIMIT_S = 20.0


def run_ours(
    kafka: Kafka,
    *,
    source: str,
    sink: str,
    count: int,
    classifier: str,
    feed: Callable[[], None] | None = None,
    rss_at: int = 0,
    delivery: str = "at_least_once",
) -> dict[str, Any]:
    """Time `stream-classifier run` on a configuration file, until the sink holds `count` results.

    Args:
        classifier: TOML lines of the classifier's table, without name, source and sink.
        feed: sends the records, once the worker is ready; None: they are there already.
        rss_at: results after which the resident memory is noted for the first time; 0: not at all.
        delivery: under exactly-once it is watched by its committed offsets, and its sink is not counted.
    """
    with tempfile.TemporaryDirectory(prefix="stream-classifier-bench-") as folder:
        file, port = Path(folder) / "pipeline.toml", free_port()
        file.write_text(
            f'[app]\nid = "{sink}"\nbroker = "kafka://{kafka.bootstrap}"\ndelivery = "{delivery}"\n'
            f"[web]\nport = {port}\n"
            f'[log]\nlevel = "warning"\n'
            f'[[classifier]]\nname = "bench"\nsource = "{source}"\nsink = "{sink}"\n{classifier}\n',
            "utf-8",
        )
        command = [sys.executable, "-m", "stream_classifier", "run", str(file)]
        fed = None if feed is None else (port, feed)
        delivered = (lambda: kafka.committed(sink, source)) if delivery == "exactly_once" else None
        return timed(
            kafka, command, sink=sink, count=count, folder=Path(folder), fed=fed, rss_at=rss_at, delivered=delivered
        )


def timed(
    kafka: Kafka,
    command: Sequence[str],
    *,
    sink: str,
    count: int,
    folder: Path,
    env: Mapping[str, str] | None = None,
    fed: tuple[int, Callable[[], None]] | None = None,
    rss_at: int = 0,
    delivered: Callable[[], int] | None = None,
) -> dict[str, Any]:
    """Run a worker until its sink holds `count` results, then stop it with SIGTERM.

    Args:
        command: of the worker.
        folder: for its log.
        env: added to its environment.
        fed: its web port, and what sends the records once it is ready there; None: they are there already.
        rss_at: results after which the resident memory is noted for the first time; 0: not at all.
        delivered: how many results there are; None: what the sink holds.

    Returns:
        records_per_s, cpu_us_per_record (user and system time of the worker alone), seconds, exit_code, busy_before and
        others (see quiet.py); rss_mib_early, rss_mib_end and rss_mib_peak when asked for.

    Raises:
        RuntimeError: it ended, or nothing more came; with the end of its log.
    """
    kafka.create(sink)
    delivered = delivered or (lambda: kafka.count(sink))
    busy_before = wait_for_quiet()
    log_file = folder / "worker.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})}, cwd=Path.cwd()
        )
        try:
            result = _watch(kafka, psutil.Process(process.pid), delivered, count, fed, rss_at)
        except (psutil.Error, _StalledError) as error:
            tail = log_file.read_text("utf-8", "replace")[-3000:]
            raise RuntimeError(f"{' '.join(command[:4])}… did not finish: {error!r}; its log ends:\n{tail}") from error
        finally:
            process.terminate()
            try:
                process.wait(_STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    if delivered() != count:
        raise RuntimeError(f"{sink}: {delivered()} results instead of {count}")
    return {**result, "exit_code": process.returncode, "busy_before": round(busy_before, 3)}


class _StalledError(Exception):
    pass


def _watch(
    kafka: Kafka,
    worker: psutil.Process,
    num_delivered: Callable[[], int],
    count: int,
    fed: tuple[int, Callable[[], None]] | None,
    rss_at: int,
) -> dict[str, Any]:
    if fed is None:
        first = _wait_for_results(num_delivered, worker)
    else:
        first, (port, feed) = 0, fed
        _wait_until_ready(worker, port)
    started, cpu_started = time.perf_counter(), cpu_seconds(worker)
    if fed is not None:
        feed()
    disturbance = Disturbance([worker, kafka.process])
    delivered, changed, peak, early = first, time.monotonic(), 0, 0
    while delivered < count:
        time.sleep(_LOOK_S)
        now = num_delivered()
        if now > delivered:
            delivered, changed = now, time.monotonic()
        elif time.monotonic() - changed > _STALL_LIMIT_S or worker.status() == psutil.STATUS_ZOMBIE:
            raise _StalledError(f"{delivered} of {count} results, then no more")
        if rss_at:
            rss = worker.memory_info().rss
            peak = max(peak, rss)
            early = early or (rss if delivered >= rss_at else 0)
    seconds, cpu_s = time.perf_counter() - started, cpu_seconds(worker) - cpu_started
    timed_records = count - first
    result = {
        "records_per_s": timed_records / seconds,
        "cpu_us_per_record": cpu_s / timed_records * 1e6,
        "seconds": seconds,
        "timed_records": timed_records,
        "others": disturbance.share(),
    }
    if rss_at:
        result |= {
            "rss_mib_early": early / 2**20,
            "rss_mib_end": worker.memory_info().rss / 2**20,
            "rss_mib_peak": peak / 2**20,
        }
    return result


def _wait_for_results(num_delivered: Callable[[], int], worker: psutil.Process) -> int:
    """Until there is a result; returns how many there are."""
    deadline = time.monotonic() + _START_LIMIT_S
    while not (now := num_delivered()):
        _check_starting(worker, deadline)
        time.sleep(_LOOK_S / 4)
    return now


def _wait_until_ready(worker: psutil.Process, port: int) -> None:
    """Until the worker's /readyz says so: its model is warm and its partitions are assigned."""
    deadline = time.monotonic() + _START_LIMIT_S
    while True:
        _check_starting(worker, deadline)
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2):
                return
        except (urllib.error.URLError, OSError):  # not there yet, or 503
            time.sleep(_LOOK_S)


def _check_starting(worker: psutil.Process, deadline: float) -> None:
    if worker.status() == psutil.STATUS_ZOMBIE or time.monotonic() > deadline:
        raise _StalledError(f"nothing within {_START_LIMIT_S:.0f} s")
