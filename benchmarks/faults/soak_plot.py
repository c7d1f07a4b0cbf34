"""The plot of a soak: memory, what is held, lag and latency, against the records done."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["plot"]

_PANELS = (
    ("Resident memory", "MiB", ("rss_mib",)),
    ("Open files, threads, asyncio tasks", "", ("open_files", "threads", "tasks")),
    ("Latency, record to reader of its result", "ms", ("latency_p99_ms", "latency_p50_ms")),
    ("Consumer lag", "records", ("lag_records",)),
)
_NAMES = {
    "open_files": "open files",
    "threads": "threads",
    "tasks": "tasks",
    "latency_p50_ms": "median",
    "latency_p99_ms": "99th percentile",
}


def plot(run: Mapping[str, Any], image: Path) -> None:
    """Draw what soak.py measured, four panels over the records done, into a PNG or an SVG."""
    from matplotlib.figure import Figure

    samples = run["samples"]
    millions = [count / 1e6 for count in samples["results"]]
    figure = Figure(figsize=(9.0, 6.0), layout="constrained")
    for axes, (title, unit, names) in zip(figure.subplots(2, 2, sharex=True).flat, _PANELS, strict=True):
        for name in names:
            axes.plot(millions, samples[name], linewidth=1.4, label=_NAMES.get(name))
        axes.set_title(title, fontsize=10)
        axes.set_ylabel(unit)
        axes.set_ylim(0, 1.2 * max(max(samples[name]) for name in names))
        axes.grid(alpha=0.3)
        if len(names) > 1:
            axes.legend(fontsize=8, ncols=3, loc="upper left")
    for axes in figure.axes[2:]:
        axes.set_xlabel("million records")
    guarantee = run["configuration"]["guarantee"].replace("_", " ")
    figure.suptitle(f"{run['results']:,} records, {run['configuration']['rate']:,.0f} a second, {guarantee}")
    figure.savefig(image, dpi=110)
