"""What exactly-once costs: the stream without a model under both guarantees, alternating, in 512-record micro-batches.

    python -m benchmarks.guarantees [--records 400000] [--peer-records 40960] [--runs 3]

Beside both, in the same run, a stock Faust agent at least once, as in stream.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.contender import run_ours
from benchmarks.kafka import PARTITIONS, Kafka, apache_kafka
from benchmarks.report import environment, exit_with, print_table, summary, verdict, write
from benchmarks.stream import records_of, run_peer

CLASSIFIER = 'model = "null"\nthreshold = 0.75\nbatch = { max_records = 512 }'
GUARANTEES = ("at_least_once", "exactly_once")
PEER = "stock_faust"
TARGET_CPU_RATIO = 2.0
TARGET_RATE_RATIO = 15.0


def main(arguments: list[str] | None = None) -> int:
    """Run, print the table, write results/guarantees.json."""
    options = _options(arguments)
    runs: dict[str, list[dict[str, Any]]] = {guarantee: [] for guarantee in (*GUARANTEES, PEER)}
    with apache_kafka() as kafka:
        kafka.fill("records", records_of(options.records))
        kafka.fill("records-peer", records_of(options.peer_records))
        for number in range(-1, options.runs):
            for name in runs:
                run = _run(kafka, name, f"{name}-{number}", options)
                if number >= 0:  # the first of each warms the broker up
                    runs[name].append(run)
                print(f"{name}: {run['records_per_s']:,.0f}/s, {run['cpu_us_per_record']:.1f} CPU µs", flush=True)
    result = {
        **environment(),
        "configuration": {
            "broker": "Apache Kafka 4.3.1, one node on loopback, sharing the cores",
            "partitions": PARTITIONS,
            "records": options.records,
            "peer_records": options.peer_records,
            "classifier": CLASSIFIER.splitlines(),
        },
        **{name: summary(runs[name], "records_per_s", "cpu_us_per_record") for name in runs},
    }
    median = {name: result[name]["median"] for name in runs}
    exactly = median["exactly_once"]
    result["cpu_ratio"] = exactly["cpu_us_per_record"] / median["at_least_once"]["cpu_us_per_record"]
    result["rate_against_stock_faust"] = exactly["records_per_s"] / median[PEER]["records_per_s"]
    rows = [[name, *(f"{median[name][key]:,.1f}" for key in ("records_per_s", "cpu_us_per_record"))] for name in runs]
    print_table("Delivery guarantees", ["guarantee", "records/s", "CPU µs a record"], rows)
    cpu, rate = result["cpu_ratio"], result["rate_against_stock_faust"]
    print(f"CPU of exactly once: {cpu:.2f} ×, target {verdict(cpu, TARGET_CPU_RATIO, at_least=False)}")
    print(f"its rate: {rate:.1f} × stock Faust at least once, target {verdict(rate, TARGET_RATE_RATIO, at_least=True)}")
    write(options.out or "guarantees", result)
    return 0


def _run(kafka: Kafka, name: str, sink: str, options: argparse.Namespace) -> dict[str, Any]:
    if name == PEER:
        return run_peer(kafka, sink, options.peer_records)
    return run_ours(kafka, source="records", sink=sink, count=options.records, classifier=CLASSIFIER, delivery=name)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guarantees", description=__doc__.split("\n\n")[0])
    parser.add_argument("--records", type=int, default=400_000, help="for ours (default %(default)s)")
    parser.add_argument("--peer-records", type=int, default=160 * 256, help="for stock Faust (default %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="of each, alternating (default %(default)s)")
    parser.add_argument("--out", type=Path, help="JSON file (default benchmarks/results/guarantees.json)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    exit_with("benchmarks.guarantees", main)
