"""What bad input gets, through the real command line: one line that names the fix, exit 2 before training and 1 in it,
and nothing left behind. Rows and labels that cannot be read are in test_training_data.py and test_reading.py.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import SafetensorError

from tests.plugins.models import make_directory
from tests.training.test_fit import table
from training import cli

Run = Callable[..., tuple[int, str]]
"""Arguments to the exit code and the last line on standard error."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_directory(tmp_path_factory.mktemp("base") / "base", labels=("x", "y"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_directory(
        tmp_path_factory.mktemp("model") / "topics", labels=("money", "sport"), content={"task": "free"}
    )


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)
    table(tmp_path / "rows.csv", 40, 1)

    def command(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["stream-training", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        stderr = capsys.readouterr().err
        assert "Traceback" not in stderr
        return int(str(ended.value.code)), stderr.strip().splitlines()[-1]

    return command


FIT = ("--epochs", "1", "--max-length", "16", "--device", "cpu", "--out", "model")


def broken_config(base: Path) -> None:
    (base / "config.json").write_text("{")


def broken_weights(base: Path) -> None:
    (base / "model.safetensors").write_bytes(b"no weights")


def cut_weights(base: Path) -> None:
    whole = (base / "model.safetensors").read_bytes()
    (base / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def broken_tokenizer(base: Path) -> None:
    (base / "tokenizer.json").write_text("{}")


def without_config(base: Path) -> None:
    for file in base.iterdir():
        file.unlink()


def unfit_config(base: Path) -> None:
    """Of a family that transformers has, with a value that it does not take."""
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "model_type": "t5", "classifier_dropout": None}))


@pytest.mark.parametrize(
    "damage", [broken_config, broken_weights, cut_weights, broken_tokenizer, without_config, unfit_config]
)
def test_a_broken_base_is_refused(damage: Callable[[Path], None], base: Path, run: Run, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "broken")
    damage(tmp_path / "broken")
    code, line = run("fit", "rows.csv", "--base", "broken", *FIT)
    assert (code, line[:6]) == (2, "error:")
    assert "broken" in line
    assert "; " in line, "what to do stands behind what is wrong"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "rows.csv"]


@pytest.mark.parametrize("damage", [None, cut_weights])
def test_a_model_that_cannot_fill_in_words_is_refused_in_a_line(
    damage: Callable[[Path], None] | None, base: Path, tmp_path: Path
) -> None:
    """In a process of its own: transformers' reports go around sys.stderr."""
    shutil.copytree(base, tmp_path / "base")
    if damage is not None:
        damage(tmp_path / "base")
    arguments = ["augment", str(table(tmp_path / "rows.csv", 10, 1)), "--out", str(tmp_path / "more.csv")]
    arguments += ["--methods", "masked", "--masked-model", str(tmp_path / "base")]
    done = subprocess.run([sys.executable, "-m", "training", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith(f"error: --masked-model {tmp_path / 'base'}: ")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("evaluate", "MODEL", "other.csv"), r"1 label is not among those of the model topics: 'chess'"),
        (("calibrate", "MODEL", "other.csv"), r"1 label is not among those of the model topics: 'chess'"),
        (("thresholds", "MODEL", "other.csv", "--precision", "0.9"), r"not among those of the model topics: 'chess'"),
        (("fit", "rows.csv", "--base", "BASE", "--validation", "other.csv", *FIT), "'chess'"),
        (("fit", "numbers.csv", "--base", "BASE", *FIT), "all 40 texts are numbers; name the column"),
        (("fit", "one.csv", "--base", "BASE", *FIT), "all 40 rows have the label 'sport'; give at least two labels"),
        (("fit", "folder.csv", "--base", "BASE", *FIT), "the folder has no rows to train on"),
        (("fit", "utf16.csv", "--base", "BASE", *FIT), "its header is not UTF-8; convert the file"),
        (("evaluate", "MODEL", "utf16.csv"), "its header is not UTF-8; convert the file"),
        (("evaluate", "MODEL", "nested.jsonl"), r"line 2 has a dict as 'text'.*--skip-bad-rows"),
        (("augment", "nested.jsonl", "--out", "more.csv"), r"line 2 has a dict as 'text'.*--skip-bad-rows"),
        (("data", "check", "nested.jsonl"), r"line 2 has a dict as 'text'.*--skip-bad-rows"),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, tuple) else "",
)
def test_data_that_cannot_be_used_is_refused_by_every_command(
    arguments: tuple[str, ...], problem: str, base: Path, model: Path, run: Run, tmp_path: Path
) -> None:
    rows = (tmp_path / "rows.csv").read_text()
    (tmp_path / "other.csv").write_text("text,label\nmate in two,chess\nbank shares,money\n")
    (tmp_path / "numbers.csv").write_text("text,label\n" + "".join(f"{i},{'ab'[i % 2]}\n" for i in range(40)))
    (tmp_path / "one.csv").write_text(rows.replace("money", "sport"))
    (tmp_path / "utf16.csv").write_text(rows, encoding="utf-16")
    (tmp_path / "folder.csv").mkdir()
    lines = [{"text": "a", "label": "x"}, {"text": {"is": "b"}, "label": "y"}]
    (tmp_path / "nested.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    before = sorted(tmp_path.iterdir())
    places = {"MODEL": str(model), "BASE": str(base)}
    code, line = run(*(places.get(argument, argument) for argument in arguments))
    assert code == 2
    assert re.search(problem, line), line
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("command", "place", "arguments"),
    [
        ("evaluate", "training.evaluation.answer_table", ("evaluate", "MODEL", "rows.csv")),
        ("calibrate", "training.recalibration.answer_table", ("calibrate", "MODEL", "rows.csv", "--out", "new")),
        ("augment", "training.augmentation.table.write_rows", ("augment", "rows.csv", "--out", "more.csv")),
        ("distill", "training.distillation.fine_tune", ("distill", "MODEL", "rows.csv", "--out", "student")),
    ],
)
def test_an_interrupt_in_long_work_leaves_nothing(
    command: str,
    place: str,
    arguments: tuple[str, ...],
    model: Path,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(place, interrupted)
    digest_before = (model / "classifier.json").read_bytes()
    code, line = run(*(str(model) if argument == "MODEL" else argument for argument in arguments))
    assert (code, line) == (130, "interrupted: nothing was written")
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]
    assert (model / "classifier.json").read_bytes() == digest_before


def test_a_full_disk_says_so_and_leaves_the_model_as_it_was(
    model: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    shutil.copytree(model, own)
    before = {path.name: path.read_bytes() for path in own.iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "classifier.json")

    monkeypatch.setattr(Path, "replace", full)
    code, line = run("thresholds", str(own), "rows.csv", "--coverage", "0.9")
    assert code == 1
    assert "No space left on device" in line
    assert line.endswith("free some space, and give the same command again")
    assert {path.name: path.read_bytes() for path in own.iterdir()} == before


THRESHOLDS = ("thresholds", "own", "rows.csv", "--coverage", "0.9", "--out", "copy")
QUANTIZE = ("quantize", "own", "rows.csv", "--dtype", "bfloat16", "--out", "copy")


@pytest.mark.parametrize(
    ("arguments", "writes", "raised"),
    [
        (THRESHOLDS, "shutil.copystat", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))),
        (QUANTIZE, "transformers.modeling_utils.safe_save_file", SafetensorError("No space left on device (28)")),
    ],
)
def test_a_full_disk_under_a_copy_is_one_line_and_leaves_nothing(
    arguments: tuple[str, ...], writes: str, raised: Exception, model: Path, run: Run, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    shutil.copytree(model, tmp_path / "own")

    def full(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(writes, full)
    code, line = run(*arguments)
    assert code == 1
    assert line.startswith("error: copy: it cannot be written (")
    assert "No space left on device" in line
    assert line.endswith("free some space if the disk is full, and give the same command again")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own", "rows.csv"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("calibrate", "own", "rows.csv"),
        ("thresholds", "own", "rows.csv", "--coverage", "0.9"),
        ("quantize", "own", "rows.csv"),
        ("export", "own", "--fold-calibration"),
        ("distill", "own", "rows.csv"),
        ("adapt", "own", "rows.csv"),
    ],
)
def test_a_copy_within_the_model_is_refused(arguments: tuple[str, ...], model: Path, run: Run, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "own")
    before = sorted(tmp_path.rglob("*"))
    code, line = run(*arguments, "--out", "own/copy")
    assert (code, line) == (
        2,
        "error: --out own/copy is within own, which it is made of; give a directory beside that",
    )
    assert sorted(tmp_path.rglob("*")) == before
