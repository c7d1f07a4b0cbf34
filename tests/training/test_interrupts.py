"""Ctrl-C and SIGTERM in the middle of every long command: an end at once, a line that is true, nothing half written.

What a resumed fit gives is in test_checkpoints.py.
"""

from __future__ import annotations

import importlib
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from stream_classifier import Classifier
from tests.plugins.commands import Commands
from tests.plugins.models import make_directory, masked_directory
from tests.plugins.tables import write_rows

NOTHING = "interrupted: nothing was written"
RESUME = "; the same command with --resume goes on from the checkpoint in out.work/"
TRAINING = "--batch-size=8 --max-length=32 --dtype=float32 --learning-rate=1e-3 --golden-texts=none --base={base}"
STEP = "training.checkpoints.SaveInTime.on_step_end"
ANSWER = "stream_classifier.model.classifier.Classifier.answer"


def signalled(signum: int, spot: str, call: int) -> None:
    """The function at `spot` gets a signal when it is called for so many times, and must not be called again."""
    owner_name, _, name = spot.rpartition(".")
    module_name = owner_name if owner_name.rpartition(".")[2].islower() else owner_name.rpartition(".")[0]
    owner: Any = importlib.import_module(module_name)
    if module_name != owner_name:
        owner = getattr(owner, owner_name.rpartition(".")[2])
    original, calls = getattr(owner, name), 0

    def function(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signum)
        if calls > call:
            print("it went on")
            os._exit(99)
        return original(*args, **kwargs)

    setattr(owner, name, function)


@dataclass(frozen=True)
class Case:
    """A command, where the signal comes, and the line that is expected: `{base}` and the like are paths."""

    command: str
    spot: str
    call: int
    line: str = NOTHING
    left: tuple[str, ...] = ()


CASES = {
    "adapt": Case(
        "adapt {base} {texts} --out={out} --epochs=2 --batch-size=8", STEP, 3,
        "interrupted at step 3 of 14" + RESUME, ("out.work",),
    ),
    "distill": Case(
        f"distill {{model}} {{rows}} --out={{out}} --epochs=2 {TRAINING}", STEP, 3,
        "interrupted at step 3 of 12" + RESUME, ("out.work",),
    ),
    "fit --search": Case(f"fit {{rows}} --out={{out}} --search=3 --epochs=1 {TRAINING}", STEP, 3),
    "fit --search, later": Case(
        f"fit {{rows}} --out={{out}} --search=3 --epochs=1 {TRAINING}", STEP, 9,
        "interrupted in trial 2 of 3" + RESUME, ("out.work",),
    ),
    "cross-validate": Case(f"cross-validate {{rows}} --out={{out}} --folds=2 --epochs=1 {TRAINING}", STEP, 6,
        "interrupted at step 3 of 3" + RESUME, ("out.work",),
    ),
    "cross-validate, writing": Case(
        f"cross-validate {{rows}} --out={{out}} --folds=2 --epochs=1 {TRAINING}",
        "training.fold_tables._write_table", 2,
        "interrupted" + RESUME, ("out.work",),
    ),
    "cross-validate, frozen": Case(
        f"cross-validate {{rows}} --out={{out}} --folds=2 --epochs=1 --freeze-encoder {TRAINING}",
        "training.folds.FrozenFolds.logits", 2,
        "interrupted" + RESUME, ("out.work",),
    ),
    "quantize": Case("quantize {model} {rows} --force", "training.quantization.measure_parity", 1),
    "compare": Case("compare {model} {other} {rows}", ANSWER, 2),
    "evaluate": Case("evaluate {model} {rows} --baseline={rows}", ANSWER, 1),
    "augment": Case("augment {rows} --out={out}.csv", "training.augmentation.writing.without_surrogates", 70),
    "augment, masked": Case(
        "augment {rows} --out={out}.csv --methods=masked --masked-model={masked}",
        "training.augmentation.masked.MaskedModel.substitute", 2,
        "interrupted; the same command with --resume goes on from the checkpoint in out.csv.work/", ("out.csv.work",),
    ),
    "thresholds": Case(
        "thresholds {model} {rows} --coverage=0.5 --out={out}", "training.manifest_updates.renew_documents", 1
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Commands:
    return Commands(tmp_path_factory.mktemp("log") / "stderr")


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("there")
    labels = [("money", "sport")[i % 2] for i in range(54)]
    texts = [f"{('bank shares profit', 'match goal team')[i % 2]} number {i}" for i in range(54)]
    (folder / "texts.txt").write_text("\n".join(texts))
    return {
        "base": make_directory(folder / "base", labels=("x", "y")),
        "masked": masked_directory(folder / "masked", "bert"),
        "model": make_directory(folder / "model", labels=("money", "sport"), content={"task": "free"}),
        "other": make_directory(folder / "other", labels=("money", "sport"), content={"task": "free"}),
        "rows": write_rows(folder / "rows.csv", texts, labels),
        "texts": folder / "texts.txt",
    }


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", CASES)
def test_a_signal_ends_a_command_at_once_and_leaves_nothing_half_written(
    name: str, signum: signal.Signals, commands: Commands, paths: dict[str, Path], tmp_path: Path
) -> None:
    case = CASES[name]
    before = contents(paths["model"].parent)
    arguments = case.command.format(out=tmp_path / "out", **paths).split()
    patch: Callable[[], None] = partial(signalled, signum, case.spot, case.call)
    done = commands.run(arguments, patch)
    assert done.code == 128 + signum, done.stderr
    assert done.last_line == case.line
    assert "Traceback" not in done.stderr
    assert not done.has_left_processes
    assert sorted(path.name for path in tmp_path.iterdir()) == [*case.left]
    assert contents(paths["model"].parent) == before


def test_after_a_signal_between_the_model_and_its_report_the_line_says_so(
    commands: Commands, paths: dict[str, Path], tmp_path: Path
) -> None:
    model = shutil.copytree(paths["model"], tmp_path / "model")
    patch = partial(signalled, signal.SIGTERM, "training.manifest_updates.renew_documents", 1)
    done = commands.run(["thresholds", str(model), str(paths["rows"]), "--coverage=0.5"], patch)
    assert done.code == 143, done.stderr
    assert done.last_line == (
        f"interrupted: classifier.json is written, card and report are not: stream-training report {model} renews them"
    )
    assert Classifier.load(model).digest != Classifier.load(paths["model"]).digest


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
