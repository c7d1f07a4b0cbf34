"""One cell of the accuracy table: a data set, a seed, a preset, at one commit; a JSON file each, to resume.

The test rows are read once, at the end; everything is chosen on the validation rows.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import training
from benchmarks.accuracy.sets import DataSet
from benchmarks.report import RESULTS, environment
from stream_classifier.errors import ConfigError
from training.baseline import measure_baseline
from training.data import Columns
from training.evaluation import Evaluation
from training.presets import preset
from training.reading import read_table
from training.rejection import set_apart

__all__ = ["REFIT", "cell_path", "find_cells", "run_cell"]

REFIT = "-refit"
"""Behind the name of a preset: with `--refit-all`."""
_PRECISION = 0.99
_FIGURES = ("n", "accuracy", "accuracy_interval", "macro_f1", "weighted_f1", "nll", "brier", "ece", "ece_noise_floor",
            "ece_noise_95", "aurc", "truncated", "multi_label", "out_of_scope")  # fmt: skip


def cell_path(data_set: DataSet, *, seed: int, recipe: str, commit: str) -> Path:
    """Where a cell is kept."""
    return (
        RESULTS
        / "accuracy"
        / recipe
        / f"{data_set.name}-seed{seed}-{commit.replace(', with changes', '-changed')}.json"
    )


def find_cells(recipe: str) -> dict[str, list[dict[str, Any]]]:
    """By set, the cells of the commit that has been run last, by seed."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((RESULTS / "accuracy" / recipe).glob("*.json")):
        cell = json.loads(path.read_text("utf-8"))
        found.setdefault(cell["set"], []).append(cell)
    newest = {}
    for name, cells in found.items():
        last = max(cells, key=lambda cell: str(cell["environment"]["date"]))["environment"]["commit"]
        newest[name] = sorted((c for c in cells if c["environment"]["commit"] == last), key=lambda c: int(c["seed"]))
    return newest


def run_cell(data_set: DataSet, *, seed: int, recipe: str) -> dict[str, Any]:
    """Fits, calibrates, finds thresholds and measures. Blocks for minutes or hours.

    With a refit there are no rows left to find thresholds on.

    Raises:
        ConfigError: the data set is not there.
    """
    refit = recipe.endswith(REFIT)
    settings = preset(
        recipe.removesuffix(REFIT),
        task=data_set.task,
        seed=seed,
        out_of_scope_label=data_set.out_of_scope_label,
        refit_all=refit,
    )
    train, validation, test = (data_set.file(kind) for kind in ("train", "validation", "test"))
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        start = time.monotonic()
        fitted = training.fit(
            train, model, settings=settings, validation=validation, test=test, overwrite=True, show_progress=True
        )
        seconds = time.monotonic() - start
        evaluation = fitted.evaluation
        if data_set.figure == "macro_f1" and not refit:
            training.thresholds(model, validation, training.Goal(f1=True, per_label=True))
            evaluation = training.evaluate(model, test)
        cell: dict[str, Any] = {
            "set": data_set.name,
            "seed": seed,
            "preset": recipe,
            "environment": environment(),
            "fit_seconds": round(seconds),
            "epochs": fitted.history.num_epochs,
            "best_epoch": fitted.history.best_epoch,
            "test": {**_figures(evaluation), "baseline": _baseline(data_set, train, test, evaluation)},
            "threshold": None
            if refit or data_set.figure != "accuracy"
            else _threshold(model, validation, test, Path(folder)),
        }
    return cell


def _figures(evaluation: Evaluation) -> dict[str, Any]:
    figures = evaluation.as_dict()
    return {name: figures[name] for name in _FIGURES}


def _baseline(data_set: DataSet, train: Path, test: Path, evaluation: Evaluation) -> dict[str, Any]:
    """tf-idf, trained on the same rows."""
    tables = [read_table(path, Columns()) for path in (train, test)]
    if data_set.out_of_scope_label is not None:
        tables = [set_apart(table, data_set.out_of_scope_label)[0] for table in tables]
    figures = measure_baseline(tables[0], tables[1].texts, evaluation.answers).as_dict()
    return {**figures, "trained_on": train.name}  # where the sets lie on this machine is nobody's business


def _threshold(model: Path, validation: Path, test: Path, folder: Path) -> dict[str, Any]:
    """A precision of 99 % by its bound, or where the validation rows cannot give it, as seen; held against the test."""
    refused, goal = None, training.Goal(precision=_PRECISION)
    try:
        found = training.thresholds(model, validation, goal, out=folder / "bound")
    except ConfigError as error:
        refused, goal = str(error), training.Goal(precision=_PRECISION, point_estimate=True)
        try:
            found = training.thresholds(model, validation, goal, out=folder / "bound")
        except ConfigError as again:
            return {"goal": str(goal), "refused": str(again)}
    measured = training.evaluate(folder / "bound", test)
    return {
        "goal": str(goal),
        "refused": refused,
        "threshold": found.default,
        "coverage": measured.coverage,
        "precision": measured.precision_at_threshold,
        "accepted": round(measured.coverage * measured.n),
    }
