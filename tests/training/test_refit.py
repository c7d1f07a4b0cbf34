"""`fit --refit-all`: trained on the validation rows too, and judged by a model that has not seen them."""

from __future__ import annotations

import csv
import json
import logging
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import training
from tests.plugins.models import make_directory
from training.data import Table

WORDS = {"sport": ["match", "goal", "team", "won"], "money": ["bank", "shares", "profit", "loan"]}
SETTINGS: dict[str, Any] = {
    "epochs": 3, "patience": 3, "learning_rate": 2e-3, "max_length": 32, "batch_size": 16, "dtype": "float32",
    "golden_texts": ("a match",), "baseline": False,
}  # fmt: skip


def write_rows(path: Path, count: int, *, wrong: Sequence[int] = ()) -> Path:
    """Rows of two labels; those with numbers in `wrong` have the other one."""
    draw = random.Random(path.name)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for i in range(count):
            label = ("sport", "money")[i % 2]
            text = " ".join(draw.choices(WORDS[label], k=draw.randrange(3, 12)))
            writer.writerow([text, ("money", "sport")[i % 2] if i in wrong else label])
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, rows, and a model without and with a refit."""
    folder = tmp_path_factory.mktemp("refit")
    base = make_directory(folder / "base", labels=("x", "y"))
    train, validation = write_rows(folder / "train.csv", 60), write_rows(folder / "v.csv", 200, wrong=range(0, 200, 9))
    for name, refit in (("before", False), ("refit", True)):
        settings = training.FitSettings(**SETTINGS, base=str(base), refit_all=refit)
        training.fit(train, folder / name, settings=settings, validation=validation)
    return folder


def manifest(model: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((model / "classifier.json").read_text())
    return content


def test_the_second_model_is_another_and_what_is_said_of_it_is_the_firsts(folder: Path) -> None:
    before, refit = folder / "before", folder / "refit"
    assert (before / "model.safetensors").read_bytes() != (refit / "model.safetensors").read_bytes()
    assert manifest(before)["calibration"] is not None
    assert manifest(refit)["calibration"] == manifest(before)["calibration"]
    assert manifest(refit)["reference"] == manifest(before)["reference"]
    assert manifest(refit)["training"]["figures"] == manifest(before)["training"]["figures"]
    assert manifest(refit)["training"]["refit_all"] is True
    assert "this one was trained on them as well" in (refit / "README.md").read_text()
    assert sorted(path.name for path in folder.iterdir()) == ["base", "before", "refit", "train.csv", "v.csv"]


def test_the_report_command_renews_the_card_too(folder: Path, tmp_path: Path) -> None:
    model = shutil.copytree(folder / "before", tmp_path / "before")
    (model / "README.md").write_text("stale")
    training.write_report(model)
    assert (model / "README.md").read_text() == (folder / "before" / "README.md").read_text()


def test_test_rows_are_answered_by_the_model_that_is_kept(folder: Path, tmp_path: Path) -> None:
    settings = training.FitSettings(**SETTINGS, base=str(folder / "base"), refit_all=True)
    test = write_rows(tmp_path / "test.csv", 40)
    fitted = training.fit(
        folder / "train.csv", tmp_path / "model", settings=settings, validation=folder / "v.csv", test=test
    )
    assert fitted.measured_on == "test"
    assert fitted.evaluation.nll == training.evaluate(tmp_path / "model", test).nll


def test_both_parts_are_trained_on_and_the_first_best_epoch_is_the_last(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training import fitting

    calls: list[tuple[Table, int | None]] = []
    fine_tune = fitting.fine_tune

    def watched(encoder: Any, parts: Any, **named: Any) -> Any:
        calls.append((parts.train, named.get("last_epoch")))
        return fine_tune(encoder, parts, **named)

    monkeypatch.setattr(fitting, "fine_tune", watched)
    settings = training.FitSettings(**SETTINGS, base=str(folder / "base"), refit_all=True)
    fitted = training.fit(folder / "train.csv", tmp_path / "model", settings=settings, validation=folder / "v.csv")
    assert [(len(table), last) for table, last in calls] == [(60, None), (260, fitted.history.best_epoch)]


def test_texts_with_several_labels_are_trained_on_again_too(folder: Path, tmp_path: Path) -> None:
    rows = tmp_path / "several.csv"
    rows.write_text((folder / "v.csv").read_text().replace(",money", ",money|news"))
    columns = training.Columns(multi_label=True)
    settings = training.FitSettings(**SETTINGS, base=str(folder / "base"), columns=columns, refit_all=True)
    training.fit(rows, tmp_path / "model", settings=settings)
    assert manifest(tmp_path / "model")["training"]["refit_all"] is True


def test_whoever_tunes_it_on_some_rows_is_warned(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    goal = training.Goal(coverage=0.9)
    for name, warned in (("before", False), ("refit", True)):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "training"):
            training.thresholds(folder / name, folder / "v.csv", goal, out=tmp_path / name)
        assert ("trained on its validation rows too" in caplog.text) is warned
