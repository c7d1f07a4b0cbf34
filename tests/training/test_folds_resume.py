"""A cross-validation that is killed or interrupted, and gone on with: the same tables, and no fold trained twice."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from stream_classifier.errors import ConfigError
from tests.plugins.commands import Commands, Done
from tests.plugins.models import make_directory
from tests.plugins.tables import write_rows
from training import checkpoints
from training.cli import cli

WORDS = {"sport": ["match", "ended", "won", "two"], "money": ["bank", "shares", "fell", "rose"]}
FROZEN, WHOLE = "--freeze-encoder", "--no-freeze-encoder"
CrossValidate = Callable[..., Done]


def signalled_in(fold: str, signum: int, step: int = 0) -> None:
    """At that step of the training of a fold."""
    at_step = checkpoints.SaveInTime.on_step_end

    def on_step_end(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
        if Path(args.output_dir).name == fold and state.global_step >= step:
            os.kill(os.getpid(), signum)
        at_step(self, args, state, control)

    checkpoints.SaveInTime.on_step_end = on_step_end  # type: ignore[method-assign]  # in a process of its own


@pytest.fixture(scope="module")
def cross_validate(tmp_path_factory: pytest.TempPathFactory) -> CrossValidate:
    """In a process of its own: `cross_validate(out, *flags, patch=…)`; 80 rows in 3 folds, 6 steps an epoch."""
    folder, draw = tmp_path_factory.mktemp("cv"), random.Random(0)
    base = make_directory(folder / "tiny", labels=("x", "y"))
    labels = [("sport", "money")[i % 2] for i in range(80)]
    data = write_rows(folder / "rows.csv", [f"{' '.join(draw.choices(WORDS[label], k=6))} {i}" for i, label in
                                            enumerate(labels)], labels)  # fmt: skip
    commands = Commands(folder / "log")
    options = [f"--base={base}", "--folds=3", "--epochs=2", "--batch-size=8", "--dtype=float32", "--max-length=32"]

    def run(out: Path, *flags: str, patch: Callable[[], None] | None = None) -> Done:
        return commands.run(["cross-validate", str(data), f"--out={out}", *options, *flags], patch)

    return run


@pytest.fixture(scope="module")
def uninterrupted(cross_validate: CrossValidate, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The predictions of a whole one, by the flag."""
    folder, predictions = tmp_path_factory.mktemp("whole"), {}
    for flag in (FROZEN, WHOLE):
        done = cross_validate(folder / flag.strip("-"), flag)
        assert done.code == 0, done.stderr
        predictions[flag] = (folder / flag.strip("-") / "predictions.csv").read_bytes()
    return predictions


@pytest.mark.parametrize("flag", [FROZEN, WHOLE])
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_resume_goes_on_with_the_folds_that_are_not_done(
    signum: int, code: int, flag: str, cross_validate: CrossValidate, uninterrupted: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "cv"
    stopped = cross_validate(out, flag, patch=partial(signalled_in, "fold-1-share-1", signum, 3))
    assert stopped.code == code, stopped.stderr
    if signum == signal.SIGINT:
        assert "the same command with --resume goes on from the checkpoint in cv.work/" in stopped.stderr
    assert not out.exists()
    refused = cross_validate(out, flag)
    assert refused.code == 2
    assert "--resume goes on with it" in refused.stderr
    never_again = partial(signalled_in, "fold-0-share-1", signal.SIGKILL)
    resumed = cross_validate(out, flag, "--resume", patch=never_again)
    assert resumed.code == 0, resumed.stderr
    assert (out / "predictions.csv").read_bytes() == uninterrupted[flag]
    assert [path.name for path in tmp_path.iterdir()] == ["cv"]


def test_without_a_place_for_the_tables_there_is_nothing_to_go_on_with(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["cross-validate", str(tmp_path / "rows.csv"), "--resume"])
    assert isinstance(done.exception, ConfigError)
    assert "give --out as it had" in str(done.exception)
