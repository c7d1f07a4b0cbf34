"""The accuracy table: `python -m benchmarks.accuracy [--only SET] [--seeds 0,1,2] [--preset balanced] [--refit-all]`.

Every cell that is not there yet is run and kept in benchmarks/results/accuracy/, a file a set, seed and commit; stopped
and started again it goes on. Then the page docs/reference/accuracy.md is made anew.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys

from benchmarks.accuracy.cells import REFIT, cell_path, find_cells, run_cell
from benchmarks.accuracy.sets import SETS
from benchmarks.accuracy.table import PAGE, render
from benchmarks.report import environment, exit_with
from training.presets import PRESETS

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Runs what is missing and renders the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("--only", choices=list(SETS), action="append", help="one set; may be given several times")
    parser.add_argument("--seeds", default="0,1,2", help="default: %(default)s")
    parser.add_argument("--preset", choices=list(PRESETS), default="balanced", help="default: %(default)s")
    parser.add_argument("--refit-all", action="store_true", help="train on the validation rows too, at the end")
    parser.add_argument("--render", action="store_true", help="only make the page anew")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("training").setLevel(logging.INFO)
    commit = str(environment()["commit"])
    recipe = options.preset + REFIT * options.refit_all
    if not options.render:
        for seed in map(int, options.seeds.split(",")):
            for name in options.only or SETS:
                path = cell_path(SETS[name], seed=seed, recipe=recipe, commit=commit)
                if path.exists():
                    continue
                print(f"{name}, seed {seed}, {recipe}", file=sys.stderr)
                cell = run_cell(SETS[name], seed=seed, recipe=recipe)
                path.parent.mkdir(parents=True, exist_ok=True)
                aside = path.with_suffix(f".{os.getpid()}.new")
                aside.write_text(json.dumps(cell, indent=2) + "\n", "utf-8")
                aside.replace(path)
                print(f"{name}, seed {seed}: accuracy {cell['test']['accuracy']:.2%}")
    PAGE.write_text(
        render({name + refit: find_cells(name + refit) for name in PRESETS for refit in ("", REFIT)}), "utf-8"
    )
    return 0


if __name__ == "__main__":
    exit_with("benchmarks.accuracy", main)
