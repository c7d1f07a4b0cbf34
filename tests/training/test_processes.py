"""Several processes under torchrun: the model of one, written once."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import training
from stream_classifier.errors import ConfigError
from tests.plugins.models import make_directory
from tests.training.test_fit import table

pytestmark = pytest.mark.slow

SETTINGS: dict[str, Any] = {
    "epochs": 2, "learning_rate": 1e-3, "max_length": 32, "seed": 3, "dropout": 0.0, "dtype": "float32",
    "class_weights": {"sport": 3.0}, "max_grad_norm": 0.05, "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_directory(tmp_path_factory.mktemp("base") / "tiny", labels=("x", "y"))


def torchrun(*arguments: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", str(port)]
    return subprocess.run(
        [sys.executable, "-m", *launcher, "-m", "training", *arguments],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_two_processes_give_the_model_of_one(base: Path, tmp_path: Path) -> None:
    rows = table(tmp_path / "rows.csv", 61, 1)  # 55 to train on: the last step is not full, and not even
    settings = training.FitSettings(**SETTINGS, base=str(base), batch_size=8)
    one = training.fit(rows, tmp_path / "one", settings=settings)
    recipe = tmp_path / "one" / "run.toml"
    done = torchrun("fit", str(rows), f"--out={tmp_path / 'two'}", f"--config={recipe}", "--batch-size=4", "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["accuracy"] == one.evaluation.accuracy
    two = training.read_history(tmp_path / "two")
    for ours, theirs in zip(two.epochs, one.history.epochs, strict=True):
        assert ours.steps == theirs.steps == 7
        assert ours.train_loss == pytest.approx(theirs.train_loss, abs=1e-5)
        assert ours.validation_loss == pytest.approx(theirs.validation_loss, abs=1e-5)
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-3)
    expected = load_file(tmp_path / "one" / "model.safetensors")
    for name, weight in load_file(tmp_path / "two" / "model.safetensors").items():
        if not name.endswith("key.bias"):  # its gradient is rounding alone, which Adam magnifies
            torch.testing.assert_close(weight, expected[name], atol=1e-5, rtol=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "rows.csv", "two"]
    assert "epoch 2 of 2" in done.stderr
    assert done.stderr.count("epoch 2 of 2") == 1, "only the main process talks"


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_a_model_in_parts_is_refused_before_anything_is_read(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "true")
    with pytest.raises(ConfigError, match=f"{variable} is set.*torchrun"):
        training.fit(tmp_path / "rows.csv", tmp_path / "out")


def test_what_several_processes_cannot_do_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    settings = training.FitSettings(gradual_unfreezing=1)
    with pytest.raises(ConfigError, match="there are 2"):
        training.fit(tmp_path / "rows.csv", tmp_path / "out", settings=settings)
