"""What bad input gets from Python: an error that names the fix, and nothing is lost or taken for what it is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import training
from stream_classifier.errors import ConfigError
from training.reading import read_table
from training.work_dir import work_dir


@pytest.mark.parametrize("measure", ["evaluate", "calibrate", "thresholds", "compare", "cross_validate"])
def test_made_rows_measure_nothing(measure: str, tmp_path: Path, tiny_bert_dir: Path) -> None:
    rows = tmp_path / "more.csv"
    made = "text,label,augmented_from,augmentation\nthe match,sport,,\nteh match,sport,2,typing\n"
    rows.write_text(made, "utf-8")
    calls: dict[str, Callable[[], object]] = {
        "evaluate": lambda: training.evaluate(tiny_bert_dir, rows),
        "calibrate": lambda: training.calibrate(tiny_bert_dir, rows, out=tmp_path / "out"),
        "thresholds": lambda: training.thresholds(
            tiny_bert_dir, rows, training.Goal(coverage=0.5), out=tmp_path / "out"
        ),
        "compare": lambda: training.compare(tiny_bert_dir, tiny_bert_dir, rows),
        "cross_validate": lambda: training.cross_validate(rows),
    }
    with pytest.raises(ConfigError, match="1 of its 2 rows were made by augment, and are no measure of a model"):
        calls[measure]()


def test_a_quote_that_nothing_closes_loses_no_row_uncounted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = tmp_path / "rows.csv"
    lines = [f"text {i},{'xy'[i % 2]}" for i in range(60)]
    lines[4] = '"' + lines[4]
    rows.write_text("\n".join(["text,label", *lines]) + "\n", "utf-8")
    with pytest.raises(ConfigError, match=r"line 6 is broken .*, and so are those up to line 61"):
        read_table(rows)
    table = read_table(rows, training.Columns(skip_bad_rows=True))
    assert (len(table), table.num_skipped) == (4, 56)


def test_a_folder_that_a_fit_did_not_make_is_left_alone(tmp_path: Path) -> None:
    work = tmp_path / "model.work"
    work.mkdir()
    (work / "notes.txt").write_text("mine", "utf-8")
    refused = pytest.raises(ConfigError, match=r"model.work/ is where its checkpoints go, and notes.txt is there")
    with refused, work_dir(tmp_path / "model", {}, resume=False, overwrite=False):
        pass
    assert (work / "notes.txt").read_text("utf-8") == "mine"


@pytest.mark.parametrize("change", [{"seed": -1}, {"seed": 2**32}, {"checkpoint_steps": 0}])
def test_settings_of_adapt_that_cannot_be_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(change))} is"):
        training.AdaptSettings(**change)
