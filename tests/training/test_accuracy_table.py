"""The accuracy table: of cells that were run, those of the commit run last; the others stay empty."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.accuracy import cells
from benchmarks.accuracy.sets import SETS, folder_of
from benchmarks.accuracy.table import render
from stream_classifier.errors import ConfigError


def cell(seed: int, accuracy: float, *, commit: str = "abc", date: str = "2026-01-01") -> dict[str, object]:
    test = {"n": 500, "accuracy": accuracy, "ece": 0.02, "ece_noise_95": 0.03, "nll": 0.2, "out_of_scope": None}
    threshold = {"coverage": 0.5, "precision": 0.99, "refused": "too few"}
    return {
        "set": "trec6",
        "seed": seed,
        "environment": {"commit": commit, "date": date},
        "test": {**test, "baseline": {"accuracy": 0.89}},
        "threshold": threshold,
    }


def test_means_over_seeds_stand_beside_the_goal_and_what_was_not_run_is_empty() -> None:
    page = render({"balanced": {"trec6": [cell(0, 0.96), cell(1, 0.97)]}})
    assert "| trec6 | 0, 1 | 500 | accuracy | 96.50 | 94.4–97.7 | 89.00 | 96.4 | 96.8 |" in page
    assert "| trec6 | 2.00 | 3.00 | 0.200 | 50.0 (as seen) | 99.00 |" in page
    assert "| banking77 | | | accuracy | | | | 93.3 | 93.7 |" in page
    assert "`quick`" not in page
    assert "refit" not in page


def test_a_recipe_that_is_not_the_headline_shows_what_was_run_of_it() -> None:
    page = render({"balanced-refit": {"trec6": [{**cell(0, 0.964), "threshold": None}]}})
    section = page.partition("## `balanced --refit-all`")[2]
    assert "The table above had been\nseen when these were run." in section
    assert "| trec6 | 0 | 500 | accuracy | 96.40 |" in section
    assert "| trec6 | 2.00 | 3.00 | 0.200 | – | – |" in section
    assert "banking77" not in section


def test_cells_of_an_older_commit_are_not_mixed_with_newer_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "RESULTS", tmp_path)
    for seed, commit, date in ((0, "old", "2026-01-01"), (1, "old", "2026-01-02"), (0, "new", "2026-02-01")):
        path = cells.cell_path(SETS["trec6"], seed=seed, recipe="balanced", commit=commit)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(cell(seed, 0.9, commit=commit, date=date)))
    found = cells.find_cells("balanced")
    assert [(c["seed"], c["environment"]["commit"]) for c in found["trec6"]] == [(0, "new")]


def test_a_set_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("STREAM_CLASSIFIER_DATASETS", raising=False)
    with pytest.raises(ConfigError, match="STREAM_CLASSIFIER_DATASETS is not set"):
        folder_of("trec6")
    monkeypatch.setenv("STREAM_CLASSIFIER_DATASETS", str(tmp_path))
    with pytest.raises(ConfigError, match="trec6"):
        folder_of("trec6")
