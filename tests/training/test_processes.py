"""Several processes under torchrun: the model of one, written once."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, TrainingArguments

import training
from stream_classifier.errors import ConfigError
from tests.plugins.commands import command_line, fork_context
from tests.plugins.models import FAMILIES, make_directory
from tests.plugins.ports import free_port
from tests.training.test_checkpoints import killed_after_save
from tests.training.test_fit import table
from training.processes import Processes
from training.sharding import check_sharding, complete_setup, set_sharding, without_weights

pytestmark = pytest.mark.slow

SETTINGS: dict[str, Any] = {
    "epochs": 2, "learning_rate": 1e-3, "max_length": 32, "seed": 3, "dropout": 0.0, "dtype": "float32",
    "class_weights": {"sport": 3.0}, "max_grad_norm": 0.05, "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_directory(tmp_path_factory.mktemp("base") / "tiny", labels=("x", "y"))


def torchrun(*arguments: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    launcher = ["torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", str(free_port())]
    return subprocess.run(
        [sys.executable, "-m", *launcher, "-m", "training", *arguments],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def assert_same(model: Path, one: training.FitResult) -> None:
    """The history and the weights of `one`, whose steps are 7 an epoch."""
    for ours, theirs in zip(training.read_history(model).epochs, one.history.epochs, strict=True):
        assert ours.steps == theirs.steps == 7
        assert ours.train_loss == pytest.approx(theirs.train_loss, abs=1e-5)
        assert ours.validation_loss == pytest.approx(theirs.validation_loss, abs=1e-5)
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-3)
    expected = load_file(one.path / "model.safetensors")
    weights = load_file(model / "model.safetensors")
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():
        if not name.endswith("key.bias"):  # its gradient is rounding alone, which Adam magnifies
            torch.testing.assert_close(weight, expected[name], atol=1e-5, rtol=0)


def test_two_processes_give_the_model_of_one(base: Path, tmp_path: Path) -> None:
    rows = table(tmp_path / "rows.csv", 61, 1)  # 55 to train on: the last step is not full, and not even
    settings = training.FitSettings(**SETTINGS, base=str(base), batch_size=8)
    one = training.fit(rows, tmp_path / "one", settings=settings)
    recipe = tmp_path / "one" / "run.toml"
    done = torchrun("fit", str(rows), f"--out={tmp_path / 'two'}", f"--config={recipe}", "--batch-size=4", "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["accuracy"] == one.evaluation.accuracy
    assert_same(tmp_path / "two", one)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "rows.csv", "two"]
    assert "epoch 2 of 2" in done.stderr
    assert done.stderr.count("epoch 2 of 2") == 1, "only the main process talks"


def test_processes_that_divide_the_model_give_the_whole_of_it(base: Path, tmp_path: Path) -> None:
    rows, contrary = table(tmp_path / "rows.csv", 55, 1), tmp_path / "contrary.csv"  # by it, the first epoch is best
    swapped = {"sport": "money", "money": "sport"}
    lines = table(contrary, 6, 2).read_text("utf-8").splitlines()
    texts = [line.rsplit(",", 1) for line in lines[1:]]
    contrary.write_text("\n".join([lines[0], *(f"{text},{swapped[label]}" for text, label in texts)]) + "\n", "utf-8")
    settings = training.FitSettings(
        **SETTINGS, base=str(base), batch_size=8, ema_decay=0.0, linear_probe=False, metric="loss"
    )
    one = training.fit(rows, tmp_path / "one", settings=settings, validation=contrary)
    recipe, out = tmp_path / "one" / "run.toml", tmp_path / "two"
    arguments = [f"--out={out}", f"--validation={contrary}", f"--config={recipe}", "--batch-size=4", "--fsdp", "--json"]
    done = torchrun("fit", str(rows), *arguments)
    assert done.returncode == 0, done.stderr
    share = re.search(r"each of 2 processes holds ([0-9.]+) % of", done.stderr)
    assert share is not None, done.stderr
    assert 50 <= float(share[1]) < 52
    assert_same(out, one)
    assert json.loads(done.stdout)["accuracy"] == one.evaluation.accuracy
    assert one.history.best_epoch == 1, "not what was in memory at the end"
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in one.path.iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["contrary.csv", "one", "rows.csv", "two"]
    model = AutoModelForSequenceClassification.from_pretrained(out)
    assert type(model).__name__ == "BertForSequenceClassification"
    assert {type(weight) for weight in model.parameters()} == {torch.nn.Parameter}


def started_as(rank: int, port: int, killed_at: int | None) -> None:
    """As torchrun starts one of two; the main one ends itself with SIGKILL once it has saved that step."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in names.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    if killed_at is not None and rank == 0:
        killed_after_save(killed_at)


def run_two(arguments: list[str], folder: Path, *, killed_at: int | None = None) -> list[tuple[int | None, str]]:
    """Exit codes and standard errors of two processes: forks of one that has all imported, quicker than torchrun."""
    context: Any = fork_context()
    port = free_port()
    logs = [folder / f"stderr-{rank}" for rank in (0, 1)]
    processes = [
        context.Process(target=command_line, args=(arguments, log, partial(started_as, rank, port, killed_at)))
        for rank, log in enumerate(logs)
    ]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(120)
    finally:
        for process in processes:
            process.kill()
    return [(process.exitcode, log.read_text()) for process, log in zip(processes, logs, strict=True)]


def test_a_divided_fit_that_was_killed_goes_on_to_the_same_model(base: Path, tmp_path: Path) -> None:
    rows, logs = table(tmp_path / "rows.csv", 61, 1), tmp_path / "logs"
    logs.mkdir()
    settings = training.FitSettings(
        **SETTINGS, base=str(base), batch_size=8, layer_decay=0.8, ema_decay=0.0, linear_probe=False
    )
    one = training.fit(rows, tmp_path / "one", settings=settings)
    arguments = ["fit", str(rows), f"--out={tmp_path / 'two'}", f"--config={tmp_path / 'one' / 'run.toml'}"]
    arguments += ["--batch-size=4", "--fsdp", "--gradient-checkpointing", "--checkpoint-steps=5"]
    (code, stderr), (other_code, _) = run_two(arguments, logs, killed_at=10)
    assert code == -signal.SIGKILL, stderr
    assert other_code not in (0, None), "it does not wait for the dead one"
    assert not (tmp_path / "two").exists()
    resumed = run_two([*arguments, "--resume"], logs)
    assert [code for code, _ in resumed] == [0, 0], resumed
    assert "going on at step 10 of 14" in resumed[0][1]
    assert_same(tmp_path / "two", one)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["logs", "one", "rows.csv", "two"]


@pytest.mark.parametrize(
    ("variable", "fix"), [("ACCELERATE_USE_FSDP", "--fsdp"), ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed is not supported")]
)
def test_a_launcher_that_divides_the_model_is_refused_before_anything_is_read(
    variable: str, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "true")
    with pytest.raises(ConfigError, match=f"{variable} is set.*{fix}"):
        training.fit(tmp_path / "rows.csv", tmp_path / "out")


def test_what_several_processes_cannot_do_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    settings = training.FitSettings(gradual_unfreezing=1)
    with pytest.raises(ConfigError, match="there are 2"):
        training.fit(tmp_path / "rows.csv", tmp_path / "out", settings=settings)


def test_one_process_has_nobody_to_divide_a_model_with(tmp_path: Path) -> None:
    rows, out, settings = tmp_path / "rows.csv", tmp_path / "out", training.FitSettings(fsdp=True)
    for work in (
        lambda: training.fit(rows, out, settings=settings),
        lambda: training.cross_validate(rows, settings=settings),
        lambda: training.distill(tmp_path / "teacher", rows, out, settings=settings),
    ):
        with pytest.raises(ConfigError, match=r"there is one; start it with torchrun .*--no-fsdp"):
            work()


@pytest.mark.parametrize("changes", [{"dtype": torch.float16}, {"dtype": torch.bfloat16, "gpus": True}], ids=str)
def test_what_a_model_is_not_divided_for_is_refused(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: "gpus" in changes)
    with pytest.raises(ConfigError, match=r"--fsdp .*; (give|leave) --d"):
        check_sharding(torch.device("cpu"), changes["dtype"])


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # DeBERTa's modelling
@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "albert"])
def test_every_family_is_divided_layer_by_layer(family: str, tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(make_directory(tmp_path / family, family=family))
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    set_sharding(arguments, model, torch.float32)
    named = arguments.fsdp_plugin_args["transformer_cls_names_to_wrap"]
    assert [type(module).__name__ in named for module in model.modules()].count(True) == 2


def test_a_process_that_divided_a_model_may_fit_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # as accelerate leaves it
    complete_setup(accelerator=None, arguments=SimpleNamespace(device=torch.device("cuda")))
    assert Processes.started().count == 1


def test_a_module_gives_its_weights_away_and_takes_others(tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(make_directory(tmp_path / "tiny")).eval()
    inputs = {"input_ids": torch.tensor([[2, 5, 6, 3]])}
    expected, weights = model(**inputs).logits, list(model.parameters())
    divided = without_weights(model)
    assert [id(weight) for weight in divided.parameters()] == [id(weight) for weight in weights]
    assert {weight.device.type for weight in model.parameters()} == {"meta"}
    assert torch.equal(divided(**inputs).logits, expected)
    model.load_state_dict(divided.state_dict(), assign=True)
    assert torch.equal(model(**inputs).logits, expected)
