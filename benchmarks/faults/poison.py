"""A hundred thousand records that nobody wants: is each answered, does the worker live, is its memory bounded?

    python -m benchmarks.faults.poison [--records 100000] [--seed 1]

The campaign of tests/fault/test_poison.py at length, on Apache Kafka: random bytes, broken and deeply nested JSON,
texts of 10 MB, every Unicode block, a thousand headers and more (tests/plugins/poison.py has them all), for one
classifier that reads JSON and one that takes whole values. Each record must have a result or a dead letter from both,
with its own key, headers, timestamp and, in a dead letter, value.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.kafka import kafka_script
from benchmarks.report import environment, exit_with, print_table, write
from tests.plugins.brokers import ApacheKafka, Broker
from tests.plugins.models import make_directory
from tests.plugins.poison import MAX_GROWN_MIB, Outcome, campaign, poison
from tests.plugins.ports import free_port
from tests.plugins.workers import Worker

_SAY_EVERY_S = 10.0


def main(arguments: list[str] | None = None) -> int:
    """Run, print the tables, write results/poison.json; exit code 1 when a promise was broken."""
    options = _options(arguments)
    started = time.monotonic()
    outcome = _run(options)
    kinds = Counter(kind for kind, _ in poison(options.seed, options.records))
    kept = not outcome.wrong and outcome.exit_code == 0 and outcome.grown_mib < MAX_GROWN_MIB
    _print(outcome, options, kept=kept)
    result = {
        **environment(),
        "configuration": {"records": options.records, "seed": options.seed, "kinds": dict(kinds)},
        "seconds": time.monotonic() - started,
        "answers": dict(outcome.counts.most_common()),
        "wrong": outcome.wrong[:100],
        "num_wrong": len(outcome.wrong),
        "exit_code": outcome.exit_code,
        "rss_mib": {"ready": outcome.rss_mib[0][1], "highest": max(mib for _, mib in outcome.rss_mib)},
        "kept": kept,
    }
    write(options.out or "poison", result)
    return int(not kept)


def _run(options: argparse.Namespace) -> Outcome:
    workers: list[Worker] = []
    with tempfile.TemporaryDirectory(prefix="stream-classifier-poison-") as name:
        folder = Path(name)
        node = ApacheKafka(kafka_script(), folder / "kafka")
        broker = Broker(node.start(), "kafka")

        def start(classifiers: list[dict[str, Any]], app: dict[str, Any]) -> Worker:
            settings = {
                "app": {**app, "broker": f"kafka://{broker.bootstrap}"},
                "web": {"port": free_port()},
                "classifier": classifiers,
            }
            workers.append(Worker(folder / "worker", settings))
            workers[0].wait_ready()
            return workers[0]

        try:
            return campaign(
                broker,
                start,
                source="poison",
                model=make_directory(folder / "model", content={"task": "free"}),
                seed=options.seed,
                count=options.records,
                timeout_s=options.limit_s,
                said=_Progress(),
            )
        finally:
            for worker in workers:
                worker.kill()
            node.kill()


class _Progress:
    """A line every few seconds."""

    def __init__(self) -> None:
        self._started = self._said = time.monotonic()

    def __call__(self, committed: int, rss_mib: float) -> None:
        now = time.monotonic()
        if now - self._said >= _SAY_EVERY_S:
            self._said = now
            print(f"{now - self._started:6.0f} s  {committed:>9,} records  {rss_mib:,.0f} MiB", flush=True)


def _print(outcome: Outcome, options: argparse.Namespace, *, kept: bool) -> None:
    rows = [[cause, f"{number:,}"] for cause, number in outcome.counts.most_common()]
    print_table(f"Poison: {options.records:,} records, two classifiers", ["answer", "records"], rows)
    for line in outcome.wrong[:20]:
        print(line)
    print(
        f"wrong: {len(outcome.wrong)}; exit code {outcome.exit_code}; {outcome.rss_mib[0][1]:.0f} MiB when ready, "
        f"{outcome.grown_mib:.0f} MiB more at the highest (at most {MAX_GROWN_MIB:.0f}); promise kept: {kept}"
    )


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults.poison",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--records", type=int, default=100_000, help="default %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="of the records (default %(default)s)")
    parser.add_argument("--limit-s", type=float, default=3600.0, help="for the worker (default %(default)s)")
    parser.add_argument("--out", type=Path, help="JSON file (default benchmarks/results/poison.json)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    exit_with("benchmarks.faults.poison", main)
