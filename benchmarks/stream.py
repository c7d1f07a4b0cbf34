"""The stream without a model: records consumed to results delivered, on Apache Kafka, against a stock Faust agent.

    python -m benchmarks.stream [--records 400000] [--peer-records 40960] [--runs 3] [--rss-records 1000000]

Ours is `stream-classifier run` with `model = "null"`; the peer is peers/stock_faust.py under `faust worker`. Both read
keyed records of about 60 bytes from four partitions and write the same results, which is checked: the two sinks must
hold the same multiset of partition, key, value and timestamp. Ours waits for its acknowledgements before it commits,
the stock agent does not.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.contender import run_ours, timed
from benchmarks.kafka import PARTITIONS, Kafka, apache_kafka
from benchmarks.report import environment, exit_with, print_table, spread, summary, verdict, write

OURS = 'model = "null"\nthreshold = 0.75\nbatch = { max_records = 1000 }'
"""A model that costs nothing gains from micro-batches as large as the record batches."""
WORDS = ("card", "lost", "order", "late", "refund", "please", "app", "login", "invoice", "cancel", "today", "thanks")
TARGET_RATIO = 30.0
TARGET_CPU_US = 10.0
TARGET_RSS_RATIO = 1.1
_RSS_AT = 100_000


def main(arguments: list[str] | None = None) -> int:
    """Run the comparison, print the tables, write results/stream.json."""
    options = _options(arguments)
    with apache_kafka() as kafka:
        result = _compare(kafka, options)
    _print(result)
    write(options.out or "stream", result)
    return 0


def _compare(kafka: Kafka, options: argparse.Namespace) -> dict[str, Any]:
    print(f"filling topics with {options.records + options.peer_records:,} records …", flush=True)
    kafka.fill("records", records_of(options.records))
    kafka.fill("records-peer", records_of(options.peer_records))
    same = _check_results(kafka, options.peer_records)
    ours: list[dict[str, Any]] = []
    peer: list[dict[str, Any]] = []
    for number in range(options.runs):
        peer.append(run_peer(kafka, f"peer-{number}", options.peer_records))
        _say("stock Faust", peer[-1])
        ours.append(run_ours(kafka, source="records", sink=f"ours-{number}", count=options.records, classifier=OURS))
        _say("stream_classifier", ours[-1])
        kafka.delete(f"peer-{number}", f"ours-{number}")
    result = {
        **environment(),
        "configuration": {
            "broker": "Apache Kafka 4.3.1, one node on loopback, sharing the cores",
            "partitions": PARTITIONS,
            "records": options.records,
            "peer_records": options.peer_records,
            "rss_records": options.rss_records,
            "value_bytes_mean": sum(len(value) for _, value in records_of(1000)) / 1000,
            "classifier": OURS.splitlines(),
            "peer": "faust -A benchmarks.peers.stock_faust worker -l info: take_events(256, within=0.1), topic.send",
        },
        "same_results": same,
        "ours": summary(ours, "records_per_s", "cpu_us_per_record"),
        "stock_faust": summary(peer, "records_per_s", "cpu_us_per_record"),
    }
    result["ratio"] = {
        key: result["ours"]["median"][key] / result["stock_faust"]["median"][key]
        for key in ("records_per_s", "cpu_us_per_record")
    }
    result["ratio"]["records_per_s_runs"] = [
        one["records_per_s"] / other["records_per_s"] for one, other in zip(ours, peer, strict=True)
    ]
    if options.rss_records:
        kafka.fill("records-rss", records_of(options.rss_records))
        result["rss"] = run_ours(
            kafka, source="records-rss", sink="ours-rss", count=options.rss_records, classifier=OURS, rss_at=_RSS_AT
        )
    return result


def records_of(count: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and texts of 40 to 80 bytes, the same at every call; 1000 customers have several records each."""
    source = random.Random(3)
    for number in range(count):
        words = " ".join(source.choices(WORDS, k=8))
        yield b"customer-%d" % source.randrange(1000), f"{number} {words}".encode()


def _check_results(kafka: Kafka, count: int) -> dict[str, Any]:
    """Both on the same topic, once, unmeasured (it also warms the broker up): what they wrote must be equal."""
    run_ours(kafka, source="records-peer", sink="check-ours", count=count, classifier=OURS)
    run_peer(kafka, "check-peer", count)
    ours, peer = kafka.read("check-ours", count), kafka.read("check-peer", count)
    if ours != peer:
        different = next((pair for pair in zip(ours, peer, strict=False) if pair[0] != pair[1]), None)
        raise RuntimeError(f"the sinks differ: {len(ours)} and {len(peer)} results, the first different: {different}")
    kafka.delete("check-ours", "check-peer")
    mean_bytes = sum(len(value or b"") for _, _, value, _ in ours) / len(ours)
    print(f"same results: {len(ours):,} records of {mean_bytes:.0f} bytes, equal byte for byte", flush=True)
    return {"records": len(ours), "result_bytes_mean": mean_bytes, "compared": "partition, key, value, timestamp"}


def run_peer(kafka: Kafka, sink: str, count: int) -> dict[str, Any]:
    """Time the stock Faust agent on the topic "records-peer", until the sink holds `count` results."""
    with tempfile.TemporaryDirectory(prefix="stream-classifier-bench-") as folder:
        command = [sys.executable, "-m", "faust", "-A", "benchmarks.peers.stock_faust", "worker", "-l", "info"]
        env = {
            "BENCH_BROKER": kafka.bootstrap,
            "BENCH_SOURCE": "records-peer",
            "BENCH_SINK": sink,
            "BENCH_DATADIR": folder,
        }
        return timed(kafka, [*command, "--without-web"], sink=sink, count=count, folder=Path(folder), env=env)


def _say(name: str, run: dict[str, Any]) -> None:
    print(
        f"{name}: {run['records_per_s']:,.0f} records/s, {run['cpu_us_per_record']:.1f} CPU µs a record "
        f"(other processes took {run['others']:.0%} of the machine)",
        flush=True,
    )


def _print(result: dict[str, Any]) -> None:
    ours, peer, ratio = result["ours"], result["stock_faust"], result["ratio"]
    rows = [
        [
            name,
            f"{runs['median']['records_per_s']:,.0f}",
            f"{runs['spread']['records_per_s']:.0%}",
            f"{runs['median']['cpu_us_per_record']:.1f}",
            f"{runs['spread']['cpu_us_per_record']:.0%}",
        ]
        for name, runs in (("stock Faust, take(256) + topic.send", peer), ("stream-classifier run, null model", ours))
    ]
    header = ["consume → delivered, Apache Kafka", "records/s", "spread", "CPU µs/record", "spread"]
    print_table("Stream without a model", header, rows)
    by_run = ratio["records_per_s_runs"]
    targets = [
        [
            "rate against stock Faust",
            f"{ratio['records_per_s']:.1f} × (spread {spread(by_run):.0%})",
            verdict(ratio["records_per_s"], TARGET_RATIO, at_least=True),
        ],
        [
            "CPU µs a record",
            f"{ours['median']['cpu_us_per_record']:.1f}",
            verdict(ours["median"]["cpu_us_per_record"], TARGET_CPU_US, at_least=False),
        ],
    ]
    if "rss" in result:
        rss = result["rss"]
        grown = rss["rss_mib_end"] / rss["rss_mib_early"]
        targets.append(
            [
                f"RSS at {_RSS_AT:,} → {result['configuration']['rss_records']:,} records",
                f"{rss['rss_mib_early']:.0f} → {rss['rss_mib_end']:.0f} MiB, {grown:.2f} ×",
                verdict(grown, TARGET_RSS_RATIO, at_least=False),
            ]
        )
    print_table("Targets", ["what", "measured", "target"], targets)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stream", description=__doc__.split("\n\n")[0])
    parser.add_argument("--records", type=int, default=400_000, help="for ours (default %(default)s)")
    parser.add_argument("--peer-records", type=int, default=160 * 256, help="for stock Faust (default %(default)s)")
    parser.add_argument("--rss-records", type=int, default=1_000_000, help="for the memory run; 0: none")
    parser.add_argument("--runs", type=int, default=3, help="of each, alternating (default %(default)s)")
    parser.add_argument("--out", type=Path, help="JSON file (default benchmarks/results/stream.json)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    exit_with("benchmarks.stream", main)
