"""Workers under load while faults are injected, then every topic read back: what was lost, what was repeated.

    python -m benchmarks.faults --seed 1 --minutes 3 --guarantee exactly_once
    python -m benchmarks.faults --minutes 3 --contender stream_classifier --contender stock_faust --out faults

A contender is run once a guarantee, each on a broker of its own, with the same seed, load and time-outs, under a
supervisor that restarts whatever ends. The seed fixes the sequence of faults; what they meet is up to the machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import shlex
import tempfile
import time
from pathlib import Path
from typing import Any

from kafka.errors import KafkaError

from benchmarks.faults.chaos import FAULTS, Chaos
from benchmarks.faults.fleet import Fleet, Launch
from benchmarks.faults.load import Load
from benchmarks.faults.reading import Tail, read_back
from benchmarks.kafka import kafka_script
from benchmarks.report import environment, exit_with, print_table, write
from tests.plugins.brokers import Broker
from tests.plugins.network import ProxiedKafka
from tests.plugins.ports import free_port

GUARANTEES = ("at_least_once", "exactly_once")
PARTITIONS = 4
SOURCE, SINK = "source", "results"
DEAD_LETTER = f"{SOURCE}.dead-letter"
_FINISH_LIMIT_S = 180.0
_SESSION_TIMEOUT_S = 6.0


def main(arguments: list[str] | None = None) -> int:
    """Run, print the table, write JSON where asked; exit code 1 when one of ours broke its promise."""
    options = _options(arguments)
    for client in ("aiokafka", "kafka"):
        logging.getLogger(client).setLevel(logging.CRITICAL)  # a broker that is away is what we are here for
    runs = []
    for contender in options.contender:
        for guarantee in options.guarantee:
            runs.append(_run(contender, guarantee, options))
            _print(runs[-1:])
    if len(runs) > 1:
        _print(runs)
    if options.out:
        configuration = {name: value for name, value in vars(options).items() if name not in ("out", "keep")}
        write(options.out, {**environment(), "configuration": configuration, "runs": runs})
    return int(any(run["contender"] == "stream_classifier" and not run["kept"] for run in runs))


def _run(contender: str, guarantee: str, options: argparse.Namespace) -> dict[str, Any]:
    print(f"{contender}, {guarantee}: {options.minutes:g} minutes, seed {options.seed}", flush=True)
    started = time.monotonic()

    def say(what: str) -> None:
        print(f"  {time.monotonic() - started:6.1f} s  {what}", flush=True)

    with tempfile.TemporaryDirectory(prefix="stream-classifier-faults-") as name:
        folder = options.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        with ProxiedKafka(kafka_script(), Path(name) / "kafka") as kafka:
            for topic in (SOURCE, SINK, DEAD_LETTER):
                kafka.broker.create_topic(topic, partitions=PARTITIONS)
            launch = _LAUNCHES[contender](kafka.address, guarantee, folder)
            return {
                "contender": contender,
                "guarantee": guarantee,
                "seed": options.seed,
                "fault_minutes": options.minutes,
                **_under_fire(launch, kafka, folder, options, say, ours=contender == "stream_classifier"),
            }


def _under_fire(
    launch: Launch, kafka: ProxiedKafka, folder: Path, options: argparse.Namespace, say: Any, *, ours: bool
) -> dict[str, Any]:
    broker = kafka.broker
    fleet = Fleet(launch, folder, options.workers)
    tail = Tail(broker.bootstrap, SINK, PARTITIONS)
    poison = options.poison if ours else 0.0
    load = Load(broker.bootstrap, SOURCE, partitions=PARTITIONS, rate=options.rate, poison=poison)
    chaos = Chaos(
        options.seed,
        options.faults,
        fleet=fleet,
        kafka=kafka,
        every_s=options.every_s,
        freeze_s=1.5 * _SESSION_TIMEOUT_S,
        max_workers=options.workers + 2,
        say=say,
    )
    try:
        load.start()
        _wait(lambda: tail.num_read > 0, _FINISH_LIMIT_S)
        tail.watch()
        say("the first results are there")
        chaos.run(options.minutes * 60, min_kills=options.min_kills)
        num_sent = load.stop()
        say(f"{num_sent:,} records sent; finishing")
        finished = _finish(broker, num_sent, options)
        tail.idle()
    finally:
        load.stop()
        fleet.stop()
        tail.stop()
    outcome = read_back(broker.bootstrap, SINK, DEAD_LETTER if ours else None, partitions=PARTITIONS, num_sent=num_sent)
    exactly = launch.environ(0).get("BENCH_GUARANTEE", "") == "exactly_once"
    return {
        **dataclasses.asdict(outcome),
        "longest_stall_s": tail.longest_stall_s,
        "finished": finished,
        "faults": dict(sorted(chaos.counts.items())),
        "exits": {str(code): number for code, number in sorted(fleet.exits.items())},
        "kept": finished and not outcome.lost and not (exactly and outcome.repeated),
    }


def _finish(broker: Broker, num_sent: int, options: argparse.Namespace) -> bool:
    """Wait until the group has committed all that was sent."""

    def committed() -> bool:
        try:
            return sum(broker.committed(options.group, SOURCE).values()) >= num_sent
        except KafkaError:  # the coordinator of a broker that has just come back may not be there yet: asked again
            return False

    return _wait(committed, _FINISH_LIMIT_S)


def _wait(done: Any, limit_s: float) -> bool:
    deadline = time.monotonic() + limit_s
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def _ours(address: str, guarantee: str, folder: Path) -> Launch:
    def command(number: int) -> list[str]:
        file = folder / f"worker-{number}.toml"
        file.write_text(
            f'[app]\nid = "{SINK}"\nbroker = "{address}"\ndelivery = "{guarantee}"\n'
            f"session_timeout_s = {_SESSION_TIMEOUT_S}\nrebalance_timeout_s = 10\ndrain_timeout_s = 5\n"
            f"[web]\nport = {free_port()}\n"
            f'[[classifier]]\nname = "bench"\nmodel = "null"\nthreshold = 0.75\nsource = "{SOURCE}"\nsink = "{SINK}"\n'
        )
        return ["-m", "stream_classifier", "run", str(file)]

    return Launch(command, lambda number: {**os.environ, "BENCH_GUARANTEE": guarantee})


def _stock_faust(address: str, guarantee: str, folder: Path) -> Launch:
    def environ(number: int) -> dict[str, str]:
        return {
            **os.environ,
            "BENCH_BROKER": address.removeprefix("kafka://"),
            "BENCH_SOURCE": SOURCE,
            "BENCH_SINK": SINK,
            "BENCH_DATADIR": str(folder / f"data-{number}"),
            "BENCH_GUARANTEE": guarantee,
            "BENCH_SESSION_TIMEOUT_S": str(_SESSION_TIMEOUT_S),
        }

    command = shlex.split("-m faust -A benchmarks.peers.stock_faust worker -l info --without-web")
    return Launch(lambda number: command, environ)


_LAUNCHES = {"stream_classifier": _ours, "stock_faust": _stock_faust}


def _print(runs: list[dict[str, Any]]) -> None:
    header = ["", "guarantee", "records", "lost", "repeated", "out of order", "dead letters", "longest stall", "faults"]
    rows = [
        [
            run["contender"],
            run["guarantee"],
            f"{run['records']:,}",
            f"{run['lost']:,}",
            f"{run['repeated']:,}",
            f"{run['out_of_order']:,}",
            f"{run['dead_letters']:,}",
            f"{run['longest_stall_s']:.1f} s",
            ", ".join(f"{number} {fault}" for fault, number in run["faults"].items()),
        ]
        for run in runs
    ]
    print_table(f"Faults for {runs[0]['fault_minutes']:g} minutes, seed {runs[0]['seed']}", header, rows)
    for run in runs:
        print(f"exit codes: {json.dumps(run['exits'])}; finished: {run['finished']}; promise kept: {run['kept']}")
        if run["lost"]:
            print(f"lost, by source partition and offset: {', '.join(run['lost_at'])}")


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=1, help="of the faults (default %(default)s)")
    parser.add_argument("--minutes", type=float, default=3.0, help="of faults (default %(default)s)")
    parser.add_argument("--min-kills", type=int, default=0, help="go on until so many workers were killed")
    parser.add_argument("--guarantee", choices=GUARANTEES, action="append", help="repeatable (default: both)")
    parser.add_argument("--contender", choices=_LAUNCHES, action="append", help="repeatable (default: ours)")
    parser.add_argument("--rate", type=float, default=500.0, help="records a second (default %(default)s)")
    parser.add_argument("--poison", type=float, default=0.001, help="share that is undecodable (default %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="at the start, two more at most (default %(default)s)")
    parser.add_argument("--every-s", type=float, default=6.0, help="between two faults (default %(default)s)")
    parser.add_argument(
        "--faults", nargs="+", choices=FAULTS, default=list(FAULTS), help="a name twice: twice as often"
    )
    parser.add_argument("--keep", type=Path, help="a folder for the workers' logs (default: thrown away)")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args(arguments)
    if options.min_kills and "kill" not in options.faults:
        parser.error("--min-kills needs kill among --faults")
    options.guarantee = options.guarantee or list(GUARANTEES)
    options.contender = options.contender or ["stream_classifier"]
    options.group = SINK
    return options


if __name__ == "__main__":
    exit_with("benchmarks.faults", main)
