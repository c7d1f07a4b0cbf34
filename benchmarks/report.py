"""What every benchmark reports: where it ran, its runs, medians and spread; a table to read and a JSON file to keep."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

from stream_classifier.errors import StreamClassifierError

__all__ = ["environment", "exit_with", "median", "print_table", "spread", "summary", "verdict", "write"]

RESULTS = Path(__file__).parent / "results"
_ROOT = Path(__file__).parents[1]
_CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")
_PACKAGES = (
    "stream-classifier",
    "faust-streaming",
    "aiokafka",
    "torch",
    "openvino",
    "transformers",
    "tokenizers",
    "numpy",
    "orjson",
)


def environment() -> dict[str, Any]:
    """Commit, hardware and versions; nothing that names the machine."""
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(),
        "hardware": {"cpu": _cpu_model(), "cores": os.cpu_count(), "flags": _cpu_flags(), "memory_gib": _memory_gib()},
        "versions": {"python": platform.python_version(), **dict(_versions())},
    }


def median(values: Iterable[float]) -> float:
    """Of the runs; the figure that is quoted."""
    return statistics.median(values)


def spread(values: Iterable[float]) -> float:
    """(largest - smallest) / median: 0.1 means the runs lie within 10 % of each other."""
    values = list(values)
    return (max(values) - min(values)) / statistics.median(values)


def summary(runs: Sequence[Mapping[str, Any]], *keys: str) -> dict[str, Any]:
    """All runs of one contender, and the median and spread of each of `keys`."""
    return {
        "runs": list(runs),
        "median": {key: median(run[key] for run in runs) for key in keys},
        "spread": {key: round(spread(run[key] for run in runs), 3) for key in keys},
    }


def exit_with(name: str, main: Callable[[], int]) -> NoReturn:
    """End the process with what `main` returns; what its user can mend is one line, and exit code 2."""
    try:
        sys.exit(main())
    except StreamClassifierError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(2)


def verdict(value: float, limit: float, *, at_least: bool) -> str:
    """The target beside the figure, in words for the table."""
    met = value >= limit if at_least else value <= limit
    return f"{'≥' if at_least else '≤'} {limit:g}: {'met' if met else 'MISSED'}"


def print_table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A Markdown table, aligned so that it reads in a terminal too."""
    cells = [list(header), *[[str(cell) for cell in row] for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    print(f"\n{title}\n")
    for number, row in enumerate(cells):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
        if number == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    print(flush=True)


def write(path: str | Path, result: Mapping[str, Any]) -> None:
    """The JSON file: a name puts it into benchmarks/results/, a path where it says."""
    file = RESULTS / f"{path}.json" if isinstance(path, str) else path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(_rounded(result), indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(f"wrote {file.relative_to(_ROOT) if file.is_relative_to(_ROOT) else file}", flush=True)


def _rounded(value: Any) -> Any:
    """Floats with 6 significant digits: no more was measured."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, (list, tuple)) else value


def _commit() -> str:
    """The commit that is checked out, marked when the packages differ from it."""
    try:
        commit = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--", "stream_classifier", "training", "benchmarks/*.py")
    except (OSError, subprocess.CalledProcessError):  # a copy without its history
        return "unknown"
    return f"{commit}, with changes" if changed else commit


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=_ROOT, check=True, capture_output=True, text=True, timeout=30
    ).stdout.strip()


def _cpu_info() -> dict[str, str]:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").split("\n\n")[0].splitlines()
    except OSError:  # not Linux
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _cpu_model() -> str:
    info = _cpu_info()
    if "model name" not in info:
        return platform.processor() or platform.machine()
    return f"{info['model name']} (family {info.get('cpu family', '?')}, model {info.get('model', '?')})"


def _cpu_flags() -> list[str]:
    flags = _cpu_info().get("flags", "").split()
    return [flag for flag in _CPU_FLAGS if flag in flags]


def _memory_gib() -> float:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


def _versions() -> Iterable[tuple[str, str]]:
    for package in _PACKAGES:
        try:
            yield package, metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
