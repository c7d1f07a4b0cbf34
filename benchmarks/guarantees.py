"""What exactly-once costs: the stream without a model under both guarantees, alternating, in 512-record micro-batches.

python -m benchmarks.guarantees [--records 100000] [--runs 3]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks.contender import run_ours
from benchmarks.kafka import PARTITIONS, apache_kafka
from benchmarks.report import environment, print_table, summary, verdict, write
from benchmarks.stream import records_of

CLASSIFIER = 'model = "null"\nthreshold = 0.75\nbatch = { max_records = 512 }'
GUARANTEES = ("at_least_once", "exactly_once")
TARGET_CPU_RATIO = 2.0


def main(arguments: list[str] | None = None) -> int:
    """Run, print the table, write results/guarantees.json."""
    options = _options(arguments)
    runs: dict[str, list[dict[str, Any]]] = {guarantee: [] for guarantee in GUARANTEES}
    with apache_kafka() as kafka:
        kafka.fill("records", records_of(options.records))
        for number in range(-1, options.runs):
            for guarantee in GUARANTEES:
                sink = f"{guarantee}-{number}"
                run = run_ours(
                    kafka, source="records", sink=sink, count=options.records, classifier=CLASSIFIER, delivery=guarantee
                )
                if number >= 0:  # the first of each warms the broker up
                    runs[guarantee].append(run)
                print(f"{guarantee}: {run['records_per_s']:,.0f}/s, {run['cpu_us_per_record']:.1f} CPU µs", flush=True)
    result = {
        **environment(),
        "configuration": {
            "broker": "Apache Kafka 4.3.1, one node on loopback, sharing the cores",
            "partitions": PARTITIONS,
            "records": options.records,
            "classifier": CLASSIFIER.splitlines(),
        },
        **{guarantee: summary(runs[guarantee], "records_per_s", "cpu_us_per_record") for guarantee in GUARANTEES},
    }
    cpu = {guarantee: result[guarantee]["median"]["cpu_us_per_record"] for guarantee in GUARANTEES}
    result["cpu_ratio"] = cpu["exactly_once"] / cpu["at_least_once"]
    rows = [
        [guarantee, *(f"{result[guarantee]['median'][key]:,.1f}" for key in ("records_per_s", "cpu_us_per_record"))]
        for guarantee in GUARANTEES
    ]
    print_table("Delivery guarantees", ["guarantee", "records/s", "CPU µs a record"], rows)
    print(f"CPU: {result['cpu_ratio']:.2f} ×, target {verdict(result['cpu_ratio'], TARGET_CPU_RATIO, at_least=False)}")
    write(options.out or "guarantees", result)
    return 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guarantees", description=__doc__.split("\n\n")[0])
    parser.add_argument("--records", type=int, default=100_000, help="default %(default)s")
    parser.add_argument("--runs", type=int, default=3, help="of each, alternating (default %(default)s)")
    parser.add_argument("--out", type=Path, help="JSON file (default benchmarks/results/guarantees.json)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
