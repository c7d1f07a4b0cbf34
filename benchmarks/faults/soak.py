"""Ten million records through one worker at a steady pace: does anything grow?

    python -m benchmarks.faults.soak [--records 10000000] [--rate 20000] [--guarantee exactly_once]
    python -m benchmarks.faults.soak --plot benchmarks/results/soak.json docs/explanation/soak.png

`stream-classifier run` with the null model on Apache Kafka. Every few seconds: resident memory, open files, threads,
asyncio tasks and allocated blocks (see inside.py), consumer lag, CPU, and the latency from a record's timestamp to a
`read_committed` reader of the sink, which sees each result. What the second and the last quarter of the run show must
be the same: LIMITS says how much the medians may differ. The topics keep a few minutes of records only.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.faults.reading import Tail
from benchmarks.faults.soak_plot import plot
from benchmarks.kafka import PARTITIONS, Kafka, apache_kafka
from benchmarks.quiet import Disturbance, cpu_seconds
from benchmarks.report import environment, exit_with, median, print_table, write
from benchmarks.stream import records_of
from tests.plugins.ports import free_port
from tests.plugins.workers import Worker

GUARANTEES = ("at_least_once", "exactly_once")
SOURCE, SINK = "records", "soak"
LIMITS: dict[str, tuple[float, float]] = {
    "rss_mib": (1.05, 0.0),
    "open_files": (1.0, 1.0),
    "threads": (1.0, 0.0),
    "tasks": (1.1, 2.0),
    "allocated_blocks": (1.01, 0.0),
    "latency_p50_ms": (1.25, 2.0),
    "latency_p99_ms": (1.5, 20.0),
    "lag_records": (1.25, 2000.0),
    "cpu_us_per_record": (1.25, 0.0),
}
"""Of each figure: the last quarter's median is at most factor × the second quarter's + slack. Tasks and lag are counted
at an instant, between one batch and the next; latency is at the mercy of what else the machine does. aiokafka opens one
connection more when a client's metadata is five minutes old."""

_CLASSIFIER = {"model": "null", "threshold": 0.75, "batch": {"max_records": 1000}}
_KEPT = {"retention.bytes": str(256 << 20), "segment.bytes": str(64 << 20)}
_DISTINCT = 100_000
_STALL_LIMIT_S = 60.0


class Latencies:
    """Milliseconds from a record's timestamp to the reader of its result, since they were last asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: list[np.ndarray[Any, np.dtype[np.float64]]] = []

    def add(self, batch: Sequence[Any]) -> None:
        """A batch of records came."""
        now_ms = time.time() * 1000
        stamps = np.fromiter((record.timestamp for record in batch), dtype=np.float64, count=len(batch))
        with self._lock:
            self._seen.append(now_ms - stamps)

    def take(self) -> dict[str, float]:
        """Median and 99th percentile of what came since the last call; nothing when nothing did."""
        with self._lock:
            seen, self._seen = self._seen, []
        if not seen:
            return {}
        median_ms, high_ms = np.percentile(np.concatenate(seen), (50, 99))
        return {"latency_p50_ms": float(median_ms), "latency_p99_ms": float(high_ms)}


def main(arguments: list[str] | None = None) -> int:
    """Run, print the table, write results/soak.json; exit code 1 when something grew or was lost."""
    options = _options(arguments)
    if options.plot:
        plot(json.loads(options.plot[0].read_text("utf-8")), options.plot[1])
        return 0
    with apache_kafka() as kafka, tempfile.TemporaryDirectory(prefix="stream-classifier-soak-") as folder:
        run = _soak(kafka, Path(folder), options)
    run["growth"] = growth(run["samples"])
    _print(run)
    write(options.out or "soak", {**environment(), **run})
    kept = run["results"] == run["committed"] == options.records and run["exit_code"] == 0
    return int(not kept or not all(row["kept"] for row in run["growth"].values()))


def _soak(kafka: Kafka, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    kafka.create(SOURCE, SINK, config=_KEPT)
    counts = folder / "counts.json"
    worker = Worker(
        folder,
        {
            "app": {"id": SINK, "broker": f"kafka://{kafka.bootstrap}", "delivery": options.guarantee},
            "web": {"port": free_port()},
            "log": {"level": "warning"},
            "classifier": [{"name": "soak", "source": SOURCE, "sink": SINK, **_CLASSIFIER}],
        },
        command=("-m", "benchmarks.faults.inside", str(counts)),
    )
    latencies = Latencies()
    tail = Tail(kafka.bootstrap, SINK, PARTITIONS, told=latencies.add)
    made = list(records_of(min(_DISTINCT, options.records)))
    records = (made[number % len(made)] for number in range(options.records))
    sender = threading.Thread(target=kafka.send, args=(SOURCE, records), kwargs={"rate": options.rate}, name="sender")
    try:
        worker.wait_ready()
        process = psutil.Process(worker.process.pid)
        disturbance = Disturbance([process, kafka.process])
        sender.start()
        samples = _sample(worker, process, tail, latencies, counts, options)
        sender.join()
        others = disturbance.share()
        exit_code = worker.stop()
    finally:
        worker.kill()
        tail.stop()
    return {
        "configuration": {
            "broker": "Apache Kafka 4.3.1, one node on loopback, sharing the cores",
            "partitions": PARTITIONS,
            "guarantee": options.guarantee,
            "records": options.records,
            "rate": options.rate,
            "classifier": _CLASSIFIER,
        },
        "results": tail.num_read,
        "committed": kafka.committed(SINK, SOURCE),
        "exit_code": exit_code,
        "seconds": samples[-1]["seconds"],
        "others": others,
        "samples": _columns(samples),
    }


def _sample(
    worker: Worker,
    process: psutil.Process,
    tail: Tail,
    latencies: Latencies,
    counts: Path,
    options: argparse.Namespace,
) -> list[dict[str, float]]:
    """A row every few seconds until all results were read; fails when none came for a minute."""
    started, cpu_before, read_before = time.monotonic(), cpu_seconds(process), 0
    rows: list[dict[str, float]] = []
    progressed = started
    while tail.num_read < options.records:
        time.sleep(options.every_s)
        read, cpu = tail.num_read, cpu_seconds(process)
        if read > read_before:
            progressed = time.monotonic()
        elif time.monotonic() - progressed > _STALL_LIMIT_S or not process.is_running():
            raise RuntimeError(f"{read:,} of {options.records:,} results, then no more:\n{worker.log[-3000:]}")
        else:
            continue
        inside = json.loads(counts.read_text())
        row = {
            "seconds": time.monotonic() - started,
            "results": float(read),
            "rss_mib": process.memory_info().rss / 2**20,
            "open_files": float(process.num_fds()),
            "threads": float(process.num_threads()),
            "tasks": float(inside["tasks"]),
            "allocated_blocks": float(inside["blocks"]),
            "lag_records": worker.metric("lag_records"),
            "cpu_us_per_record": (cpu - cpu_before) / (read - read_before) * 1e6,
            **latencies.take(),
        }
        rows.append(row)
        cpu_before, read_before = cpu, read
        print(
            f"{row['seconds']:6.0f} s  {read:>11,}  {row['rss_mib']:.1f} MiB  {row['open_files']:.0f} files  "
            f"{row['tasks']:.0f} tasks  {row['allocated_blocks']:,.0f} blocks  lag {row['lag_records']:,.0f}  "
            f"p50 {row['latency_p50_ms']:.0f} ms  p99 {row['latency_p99_ms']:.0f} ms",
            flush=True,
        )
    return rows


def _columns(rows: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def growth(samples: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Any]]:
    """The medians of the second and the last quarter of the samples, what is allowed, and whether it was kept."""
    total = len(samples["seconds"])
    second, last = slice(total // 4, total // 2), slice(total - total // 4, total)
    rows = {}
    for name, (factor, slack) in LIMITS.items():
        before, after = median(samples[name][second]), median(samples[name][last])
        allowed = factor * before + slack
        rows[name] = {
            "second_quarter": before,
            "last_quarter": after,
            "allowed": allowed,
            "kept": after <= allowed,
        }
    return rows


def _print(run: Mapping[str, Any]) -> None:
    table = [
        [name, *(f"{row[key]:,.1f}" for key in ("second_quarter", "last_quarter", "allowed")), _word(row["kept"])]
        for name, row in run["growth"].items()
    ]
    header = ["median of", "second quarter", "last quarter", "at most", ""]
    print_table(f"Soak: {run['results']:,} results in {run['seconds']:.0f} s", header, table)
    print(
        f"committed: {run['committed']:,}; exit code {run['exit_code']}; others took {run['others']:.0%} of the machine"
    )


def _word(kept: bool) -> str:
    return "kept" if kept else "GROWS"


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--records", type=int, default=10_000_000, help="default %(default)s")
    parser.add_argument("--rate", type=float, default=20_000.0, help="records a second (default %(default)s)")
    parser.add_argument("--guarantee", choices=GUARANTEES, default=GUARANTEES[0], help="default %(default)s")
    parser.add_argument("--every-s", type=float, default=5.0, help="between two samples (default %(default)s)")
    parser.add_argument("--out", type=Path, help="JSON file (default benchmarks/results/soak.json)")
    parser.add_argument("--plot", type=Path, nargs=2, metavar=("JSON", "IMAGE"), help="only draw what was measured")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    exit_with("benchmarks.faults.soak", main)
