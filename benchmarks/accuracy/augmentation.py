"""What augmentation brings where rows are few: models of a tenth of the training rows, without and with made rows.

    python -m benchmarks.accuracy.augmentation [--only trec6] [--seeds 0,1,2] [--share 0.1]

Every model is fitted with the preset `balanced` and measured on the validation rows, which have no part in the fit: it
keeps a part of its own rows to choose the epoch. Fits that are there already are not run again.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import random
import statistics
import tempfile
from pathlib import Path
from typing import Any

import training
from benchmarks.accuracy.sets import SETS, DataSet
from benchmarks.report import RESULTS, environment, exit_with
from training.reading import read_table

__all__ = ["main"]

_KINDS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "typing": {"methods": ("typing",)},
    "drop": {"methods": ("drop",)},
    "swap": {"methods": ("swap",)},
    "typing, drop and swap": {"methods": ("typing", "drop", "swap"), "copies": 3},
}


def main(arguments: list[str] | None = None) -> int:
    """Writes benchmarks/results/accuracy/augmentation.json after every fit, and prints the means."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy.augmentation", description=__doc__)
    parser.add_argument("--only", choices=list(SETS), action="append", help="default: trec6 and sms_spam")
    parser.add_argument("--seeds", default="0,1,2", help="default: %(default)s")
    parser.add_argument("--share", type=float, default=0.1, help="of the training rows; default: %(default)s")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    target = RESULTS / "accuracy" / "augmentation.json"
    kept: dict[str, Any] = json.loads(target.read_text("utf-8")) if target.exists() else {"share": options.share}
    fits: dict[str, Any] = kept.setdefault("fits", {})
    for name in options.only or ("trec6", "sms_spam"):
        for kind in _KINDS:
            for seed in map(int, options.seeds.split(",")):
                key = f"{name}, {kind}, seed {seed}"
                if key not in fits:
                    fits[key] = _fit(SETS[name], kind, seed, share=options.share)
                    kept["environment"] = environment()
                    target.write_text(json.dumps(kept, indent=2) + "\n", "utf-8")
            accuracies = [fit["accuracy"] for key, fit in fits.items() if key.startswith(f"{name}, {kind}, ")]
            print(f"{name}, {kind}: {statistics.mean(accuracies):.2%} of {len(accuracies)} fits")
    return 0


def _fit(data_set: DataSet, kind: str, seed: int, *, share: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows, how = _some_rows(data_set, folder / "rows.csv", seed, share=share), _KINDS[kind]
        if how is not None:
            settings = training.AugmentSettings(seed=seed, **how)
            rows = training.augment(rows, folder / "more.csv", settings=settings).path
        fitted = training.fit(
            rows,
            folder / "model",
            settings=training.preset("balanced", task=data_set.task, seed=seed, golden_texts=()),
            test=data_set.file("validation"),
        )
        evaluation = fitted.evaluation
        return {"accuracy": evaluation.accuracy, "macro_f1": evaluation.macro_f1, "epochs": fitted.history.num_epochs}


def _some_rows(data_set: DataSet, path: Path, seed: int, *, share: float) -> Path:
    """As large a share of every label, others for every seed."""
    table, draw = read_table(data_set.file("train")), random.Random(seed)
    by_label: dict[str, list[int]] = {}
    for row, label in enumerate(table.labels):
        by_label.setdefault(label, []).append(row)
    picked = [row for own in by_label.values() for row in draw.sample(own, max(10, round(share * len(own))))]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([table.texts[row], table.labels[row]] for row in picked)
    return path


if __name__ == "__main__":
    exit_with("benchmarks.accuracy.augmentation", main)
