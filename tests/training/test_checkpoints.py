"""A fit that is interrupted, killed or out of disk, and gone on with: the same model to the bit, or a helpful line."""

from __future__ import annotations

import csv
import os
import random
import resource
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers.trainer_callback import TrainerState

import training
from stream_classifier.errors import ConfigError
from tests.plugins.commands import Commands, Done
from tests.plugins.models import make_directory
from training import checkpoints, fitting
from training.work_dir import check_space, work_path

SETTINGS: dict[str, Any] = {
    "epochs": 3, "learning_rate": 2e-3, "max_length": 32, "seed": 3, "batch_size": 8, "checkpoint_steps": 2,
    "dtype": "float32", "patience": 3, "golden_texts": (), "ema_decay": 0.5,
}  # fmt: skip
"""45 rows to train on: 6 steps an epoch, so checkpoints after steps 2, 4, (6: the epoch's own) …"""


def killed_after_save(step: int, folder: str = "*") -> None:
    after_save = checkpoints.SaveInTime.on_save

    def on_save(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == step and Path(args.output_dir).match(folder):
            os.kill(os.getpid(), signal.SIGKILL)
        after_save(self, args, state, control)

    checkpoints.SaveInTime.on_save = on_save  # type: ignore[method-assign]  # in a process of its own


def killed_in_save(step: int) -> None:
    save_to_json = TrainerState.save_to_json

    def killed(self: Any, path: str) -> None:
        if self.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        save_to_json(self, path)

    TrainerState.save_to_json = killed


def killed_after_training() -> None:
    fitting.publish_fit = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]  # likewise


def signalled(signum: int, step: int) -> None:
    at_step = checkpoints.SaveInTime.on_step_end

    def on_step_end(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == step:
            os.kill(os.getpid(), signum)
        at_step(self, args, state, control)

    checkpoints.SaveInTime.on_step_end = on_step_end  # type: ignore[method-assign]  # likewise


def signalled_when_all_is_trained(signum: int) -> None:
    def on_train_end(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
        os.kill(os.getpid(), signum)

    checkpoints.SaveInTime.on_train_end = on_train_end  # type: ignore[method-assign]  # likewise


def signalled_before_loading() -> None:
    fitting.starting_encoder = lambda *_, **__: os.kill(os.getpid(), signal.SIGINT)  # type: ignore[assignment]  # likewise


def limited_files(limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


Fit = Callable[..., Done]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_directory(tmp_path_factory.mktemp("base") / "tiny", labels=("x", "y"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, draw = tmp_path_factory.mktemp("rows") / "rows.csv", random.Random(1)
    words = {"sport": ["match", "goal", "team", "won"], "money": ["bank", "shares", "profit", "loan"]}
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for i in range(50):
            label = ("sport", "money")[i % 2]
            writer.writerow([" ".join(draw.choices(words[label], k=draw.randrange(2, 12))), label])
    return path


@pytest.fixture(scope="module")
def fit(rows: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Fit:
    """A fit in a process of its own: `fit(out, *flags, patch=…)`."""
    commands = Commands(tmp_path_factory.mktemp("log") / "stderr")
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items() if name != "golden_texts"]

    def run(out: Path, *flags: str, patch: Callable[[], None] | None = None) -> Done:
        arguments = ["fit", str(rows), f"--out={out}", f"--base={base}", "--golden-texts=none", *options, *flags]
        return commands.run(arguments, patch)

    return run


@pytest.fixture(scope="module")
def uninterrupted(fit: Fit, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models of a whole fit, of a frozen encoder's, of few-shot learning and of one with a refit, by the flag."""
    folder = tmp_path_factory.mktemp("whole")
    flags = ("--no-freeze-encoder", "--freeze-encoder", "--preset=few-shot", "--refit-all")
    models = {flag: folder / flag.strip("-") for flag in flags}
    for flag, model in models.items():
        done = fit(model, flag)
        assert done.code == 0, done.stderr
    assert len(list(folder.iterdir())) == len(models), "and no work directory"
    return models


def same_model(first: Path, second: Path) -> bool:
    return (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("patch", "flag"),
    [
        (partial(killed_after_save, 2), "--no-freeze-encoder"),
        (partial(killed_after_save, 8), "--no-freeze-encoder"),
        (partial(killed_after_save, 12), "--no-freeze-encoder"),
        (partial(killed_in_save, 10), "--no-freeze-encoder"),
        (killed_after_training, "--no-freeze-encoder"),
        (partial(killed_after_save, 10), "--freeze-encoder"),
        (partial(killed_after_save, 10), "--preset=few-shot"),
        (partial(killed_after_save, 4, "refit"), "--refit-all"),
    ],
    ids=[
        "first epoch",
        "mid-epoch",
        "between epochs",
        "half-written checkpoint",
        "before measuring",
        "frozen",
        "contrastive",
        "refit",
    ],
)
def test_after_kill_9_resume_gives_the_uninterrupted_model(
    patch: Callable[[], None], flag: str, fit: Fit, tmp_path: Path, uninterrupted: dict[str, Path]
) -> None:
    out = tmp_path / "model"
    killed = fit(out, flag, patch=patch)
    assert killed.code == -signal.SIGKILL, killed.stderr
    assert not out.exists()
    resumed = fit(out, flag, "--resume")
    assert resumed.code == 0, resumed.stderr
    assert same_model(out, uninterrupted[flag])
    ours, theirs = training.read_history(out), training.read_history(uninterrupted[flag])
    times = {"seconds": None, "tokens_per_s": None}
    assert [{**epoch, **times} for epoch in ours.as_dict()["epochs"]] == [
        {**epoch, **times} for epoch in theirs.as_dict()["epochs"]
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_checkpoint_and_says_how_to_go_on(
    signum: int, code: int, fit: Fit, tmp_path: Path, uninterrupted: dict[str, Path]
) -> None:
    out = tmp_path / "model"
    done = fit(out, patch=partial(signalled, signum, 3))
    assert done.code == code, done.stderr
    assert done.last_line == (
        "interrupted at step 3 of 18; the same command with --resume goes on from the checkpoint in model.work/"
    )
    assert "Traceback" not in done.stderr
    assert not out.exists()
    resumed = fit(out, "--resume")
    assert resumed.code == 0, resumed.stderr
    assert same_model(out, uninterrupted["--no-freeze-encoder"])


def test_a_signal_when_all_is_trained_is_not_overheard(
    fit: Fit, tmp_path: Path, uninterrupted: dict[str, Path]
) -> None:
    out = tmp_path / "model"
    done = fit(out, patch=partial(signalled_when_all_is_trained, signal.SIGINT))
    assert done.code == 130, done.stderr
    assert "interrupted when all was trained; the same command with --resume" in done.stderr
    assert fit(out, "--resume").code == 0
    assert same_model(out, uninterrupted["--no-freeze-encoder"])


def test_a_signal_before_the_first_step_leaves_nothing(fit: Fit, tmp_path: Path) -> None:
    done = fit(tmp_path / "model", patch=signalled_before_loading)
    assert (done.code, done.last_line) == (130, "interrupted: nothing was written")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_fit_is_neither_lost_nor_mixed_up(
    fit: Fit, rows: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "model"
    fit(out, patch=partial(killed_after_save, 4))
    settings = training.FitSettings(**{**SETTINGS, "base": str(base)})
    with pytest.raises(ConfigError, match=r"model\.work/; --resume goes on with it, --overwrite starts anew"):
        training.fit(rows, out, settings=settings)
    changed = training.FitSettings(**{**SETTINGS, "base": str(base), "learning_rate": 1e-3})
    with pytest.raises(ConfigError, match=r"learning_rate 0\.002, not 0\.001"):
        training.fit(rows, out, settings=changed, resume=True)
    with pytest.raises(ConfigError, match="other rows"):
        training.fit(_without_last_row(rows, tmp_path), out, settings=settings, resume=True)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=0))
        with pytest.raises(ConfigError, match="GiB are free"):
            training.fit(rows, out, settings=settings, resume=True)
    assert (tmp_path / "model.work" / "checkpoint-4").is_dir(), "no refusal takes it away"
    result = training.fit(rows, out, settings=settings, overwrite=True)
    assert result.history.num_epochs == 3
    assert not (tmp_path / "model.work").exists()


def test_resume_without_a_checkpoint_starts_from_the_beginning(fit: Fit, tmp_path: Path) -> None:
    done = fit(tmp_path / "model", "--resume", "--epochs=1")
    assert done.code == 0, done.stderr
    assert "starting from the beginning" in done.stderr


def test_two_fits_to_one_place_are_one_too_many(rows: Path, base: Path, tmp_path: Path) -> None:
    import fcntl

    path = work_path(tmp_path / "model")
    path.mkdir()
    with (path / "lock").open("w") as lock:
        lock.write("4711\n")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        settings = training.FitSettings(**{**SETTINGS, "base": str(base)})
        with pytest.raises(ConfigError, match=r"another run is at work there \(process 4711\)"):
            training.fit(rows, tmp_path / "model", settings=settings)


def test_no_room_for_a_checkpoint_is_a_line_with_the_fix(fit: Fit, base: Path, tmp_path: Path) -> None:
    limit = (base / "model.safetensors").stat().st_size + 20_000
    done = fit(tmp_path / "model", patch=partial(limited_files, limit))
    assert done.code == 1
    assert "the checkpoint of step 2 cannot be saved" in done.last_line
    assert "free some space, and give the same command with --resume" in done.last_line
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == [], "no checkpoint is whole, and no model half written"


def test_too_small_a_disk_is_refused_before_training(tmp_path: Path) -> None:
    check_space(tmp_path, num_parameters=1000, num_trained=1000)
    with pytest.raises(ConfigError, match=r"need up to .* GiB, .* GiB are free"):
        check_space(tmp_path, num_parameters=10**15, num_trained=0)


def test_checkpoints_that_are_there_are_a_part_of_what_a_fit_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = 3 * (4 * 1000 + 8 * 1000) + 4 * 1000
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=needed - 5000))
    with pytest.raises(ConfigError, match="GiB are free"):
        check_space(tmp_path, num_parameters=1000, num_trained=1000)
    (tmp_path / "checkpoint-4").mkdir()
    (tmp_path / "checkpoint-4" / "model.safetensors").write_bytes(bytes(5000))
    check_space(tmp_path, num_parameters=1000, num_trained=1000)


@pytest.mark.parametrize(("decay", "num_copies"), [(0.0, 1), (0.9, 2)])
def test_a_moving_average_takes_as_much_room_again(
    decay: float, num_copies: int, rows: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr("training.fine_tuning.check_space", lambda place, **given: asked.append(given["num_copies"]))
    changes = {"base": str(base), "epochs": 1, "ema_decay": decay}
    training.fit(rows, tmp_path / "model", settings=training.FitSettings(**{**SETTINGS, **changes}))
    assert asked == [num_copies]


def test_a_place_that_cannot_be_made_is_refused(rows: Path, base: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings = training.FitSettings(base=str(base))
    with pytest.raises(ConfigError, match="give a place that can be written to"):
        training.fit(rows, tmp_path / "file" / "model", settings=settings)


def test_a_base_without_a_tokenizer_is_refused_with_the_fix(rows: Path, base: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).symlink_to(base / name)
    with pytest.raises(ConfigError, match=r"bare.*tokenizer"):
        training.fit(rows, tmp_path / "model", settings=training.FitSettings(base=str(bare)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bare"]


def _without_last_row(rows: Path, folder: Path) -> Path:
    path = folder / "fewer.csv"
    path.write_text("".join(rows.read_text().splitlines(keepends=True)[:-1]))
    return path
