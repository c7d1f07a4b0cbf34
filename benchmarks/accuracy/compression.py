"""What compressing costs: a student of 3 layers and int8 of one model, against that model on the same test rows.

    python -m benchmarks.accuracy.compression [--only banking77] [--seed 0] [--model DIR]

The model is one that the preset `balanced` makes, or that of --model; student and int8 are made of it with the defaults
of `distill` and `quantize`. Nothing is chosen on the test rows, and nothing is refused: the figures are the point.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import training
from benchmarks.accuracy.sets import SETS, DataSet
from benchmarks.report import RESULTS, environment, exit_with
from training.presets import STUDENT

__all__ = ["main"]

_LAYERS = 3


def main(arguments: list[str] | None = None) -> int:
    """Writes benchmarks/results/accuracy/compression-SET.json and prints the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy.compression", description=__doc__)
    single = [name for name, data_set in SETS.items() if data_set.figure == "accuracy"]
    parser.add_argument("--only", choices=single, default="banking77", help="the set; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=Path, help="made of the same training rows; default: it is made first")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("training").setLevel(logging.INFO)
    data_set = SETS[options.only]
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or _fitted(data_set, Path(folder), options.seed)
        results: dict[str, Any] = {
            "environment": environment(),
            "set": data_set.name,
            "seed": options.seed,
            "student": _student(model, data_set, Path(folder), options.seed),
            "int8": _int8(model, data_set, Path(folder)),
        }
    target = RESULTS / "accuracy" / f"compression-{data_set.name}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    student, int8 = results["student"], results["int8"]
    print(f"{_LAYERS} layers: {student['accuracy_kept']:.2%} of the accuracy, {student['speedup']:.2f} × as fast")
    print(f"int8: {int8['agreement']:.2%} of the labels as in float32, {int8['speedup']:.2f} × as fast")
    return 0


def _fitted(data_set: DataSet, folder: Path, seed: int) -> Path:
    settings = training.preset("balanced", task=data_set.task, seed=seed)
    train, validation = data_set.file("train"), data_set.file("validation")
    return training.fit(train, folder / "model", settings=settings, validation=validation, show_progress=True).path


def _student(model: Path, data_set: DataSet, folder: Path, seed: int) -> dict[str, Any]:
    settings = training.FitSettings(**{**STUDENT, "seed": seed})
    made = training.distill(
        model,
        data_set.file("train"),
        folder / "student",
        layers=_LAYERS,
        settings=settings,
        validation=data_set.file("validation"),
        test=data_set.file("test"),
        force=True,
        show_progress=True,
    )
    return {"layers": _LAYERS, "accuracy_kept": made.as_dict()["accuracy_kept"], **made.parity.as_dict()}


def _int8(model: Path, data_set: DataSet, folder: Path) -> dict[str, Any]:
    """`quantize` takes its ranges from the file train, and judges on the other of its folder: here the test rows."""
    data = folder / "data"
    data.mkdir()
    for kind in ("train", "test"):
        (data / f"{kind}.csv").symlink_to(data_set.file(kind))
    return training.quantize(model, data, out=folder / "int8", force=True).parity.as_dict()


if __name__ == "__main__":
    exit_with("benchmarks.accuracy.compression", main)
