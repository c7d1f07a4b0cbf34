"""How long it takes to import the package and to show the command line's help.

    python -m benchmarks.startup [--runs 9]

Each run is a new interpreter; `python -c pass`, alternating with the others, is what an interpreter costs anyway. What
`--help` takes is counted whole, what the import takes without that.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.quiet import wait_for_quiet
from benchmarks.report import environment, exit_with, print_table, summary, verdict, write

TARGET_IMPORT_MS = 60.0
TARGET_HELP_MS = 300.0
COMMANDS = {
    "python": [sys.executable, "-c", "pass"],
    "import": [sys.executable, "-c", "import stream_classifier"],
    "help": [str(Path(sys.executable).with_name("stream-classifier")), "--help"],
}
_LOADED = "import sys, json, stream_classifier; print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
_HEAVY = ("torch", "faust", "transformers", "numpy", "aiokafka", "pydantic")


def main(arguments: list[str] | None = None) -> int:
    """Run the timings, print the table, write results/startup.json."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__.split("\n\n")[0])
    parser.add_argument("--runs", type=int, default=9, help="of each, alternating (default %(default)s)")
    parser.add_argument("--out", type=Path, help="JSON file (default benchmarks/results/startup.json)")
    options = parser.parse_args(arguments)
    busy_before = wait_for_quiet()
    loaded = set(json.loads(subprocess.run([sys.executable, "-c", _LOADED], check=True, capture_output=True).stdout))
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in COMMANDS}
    for number in range(options.runs + 1):
        for name, command in COMMANDS.items():
            run = _time(command)
            if number:  # the first round fills the file cache
                runs[name].append(run)
    result: dict[str, Any] = {
        **environment(),
        "busy_before": busy_before,
        "bytecode_cache": not os.environ.get("PYTHONDONTWRITEBYTECODE"),
        "loaded_by_import": [name for name in _HEAVY if name in loaded],
        **{name: summary(of_one, "ms") for name, of_one in runs.items()},
    }
    result["import_alone_ms"] = result["import"]["median"]["ms"] - result["python"]["median"]["ms"]
    _print(result)
    write(options.out or "startup", result)
    return 0


def _time(command: list[str]) -> dict[str, Any]:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return {"ms": (time.perf_counter() - started) * 1000}


def _print(result: dict[str, Any]) -> None:
    rows = [
        [title, f"{result[name]['median']['ms']:.0f}", f"{result[name]['spread']['ms']:.0%}"]
        for name, title in (
            ("python", "python -c pass"),
            ("import", "python -c 'import stream_classifier'"),
            ("help", "stream-classifier --help"),
        )
    ]
    print_table("Start", ["command", "ms", "spread"], rows)
    heavy = ", ".join(name for name in result["loaded_by_import"] if name in ("torch", "faust")) or "neither"
    alone, whole = result["import_alone_ms"], result["help"]["median"]["ms"]
    rows = [
        ["import, ms", f"{alone:.0f}", verdict(alone, TARGET_IMPORT_MS, at_least=False)],
        ["torch or faust loaded by it", heavy, f"neither: {'met' if heavy == 'neither' else 'MISSED'}"],
        ["--help, ms", f"{whole:.0f}", verdict(whole, TARGET_HELP_MS, at_least=False)],
    ]
    print_table("Targets", ["what", "measured", "target"], rows)


if __name__ == "__main__":
    exit_with("benchmarks.startup", main)
