"""The estimate of the time a training takes: in proportion to its work, and without a trace in the model."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForSequenceClassification

from tests.plugins.models import make_directory
from tests.plugins.tables import random_texts, write_rows
from tests.training.test_fit import table
from training import estimate, fit
from training.cli import cli
from training.estimate import Speed, Work, measured_speed, training_seconds
from training.rows import pad_tokens
from training.settings import FitSettings

SPEED = Speed(step_s=3.0, forward_s=1.0)
WORK = Work(num_texts=10, num_tokens=100, num_validation_tokens=20, num_layers=4, has_tail=True)
PLAIN = {"epochs": 2, "linear_probe": False}


@pytest.fixture
def model(tiny_bert_dir: Path) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(tiny_bert_dir)


def rows(number: int) -> list[dict[str, Any]]:
    return [{"input_ids": np.arange(5, 15 + i % 7, dtype=np.int32), "label": i % 3} for i in range(number)]


def speed(model: Any, number: int, **options: Any) -> Speed:
    collate = functools.partial(pad_tokens, pad_id=0)
    return measured_speed(model, rows(number), collate=collate, batch_size=8, dtype=torch.float32, **options)


@pytest.mark.parametrize("trains", [True, False])
def test_weights_gradients_mode_and_random_state_stay(model: Any, trains: bool) -> None:
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    assert speed(model, 20, trains=trains).step_s > speed(model, 20, trains=trains).forward_s / 10 > 0
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.training
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_batch_of_middling_length_is_measured_after_a_short_one(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []

    def step(model: Any, batch: dict[str, torch.Tensor], device: torch.device, dtype: torch.dtype) -> float:
        measured.append(len(batch["input_ids"]))
        return 1.0

    monkeypatch.setattr(estimate, "_step", step)
    middling = np.median([len(row["input_ids"]) for row in rows(70)])
    assert speed(model, 70).step_s == pytest.approx(1 / (8 * middling), rel=0.05)
    assert measured == [2, 8]


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [
        ({}, 2 * (100 * 3 + 20)),
        ({"epochs": 5}, 5 * (100 * 3 + 20)),
        ({"linear_probe": True}, 100 + 2 * (100 * 3 + 20)),
        ({"contrastive_steps": 7}, 7 * 48 * 10 * 3 + 2 * (100 * 3 + 20)),
        ({"gradient_checkpointing": True}, 2 * (100 * 4 + 20)),
        ({"freeze_encoder": True}, 120 + 2 * (100 * 3 + 20) / 20),
    ],
    ids=str,
)
def test_each_part_of_a_training_counts(changes: dict[str, Any], seconds: float) -> None:
    assert training_seconds(SPEED, WORK, FitSettings(**{**PLAIN, **changes})) == pytest.approx(seconds)


def test_a_frozen_encoder_without_a_tail_runs_forward_each_epoch_and_back_through_a_layer() -> None:
    work = replace(WORK, has_tail=False)
    seconds = training_seconds(SPEED, work, FitSettings(**PLAIN, freeze_encoder=True))
    assert seconds == pytest.approx(2 * (100 * (1 + 2 / 4) + 20))


def test_processes_share_the_epochs_and_nothing_else() -> None:
    settings = FitSettings(**{**PLAIN, "linear_probe": True})
    assert training_seconds(SPEED, replace(WORK, num_processes=4), settings) == pytest.approx(100 + 2 * 320 / 4)


def test_a_fit_says_at_its_start_how_long_it_will_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("training.fine_tuning.measured_speed", lambda *_, **__: Speed(0.003, 0.001))
    monkeypatch.setattr("training.fine_tuning.train", lambda *_, **__: pytest.fail("it ends here"))
    caplog.set_level("INFO", "training")
    settings = FitSettings(base=str(make_directory(tmp_path / "base", labels=("x", "y"))), epochs=10, baseline=False)
    data = table(tmp_path / "rows.csv", 400, 1)
    said = {}
    for change in ("linear_probe", "freeze_encoder", "refit_all"):
        caplog.clear()
        with pytest.raises(pytest.fail.Exception, match="it ends here"):
            fit(data, tmp_path / "new", settings=replace(settings, **{change: True}), overwrite=True)
        said[change] = re.findall(r"training will take about (\d+) (s|min), less", caplog.text)
        assert ("two trainings" in caplog.text) == (change == "refit_all")
    seconds = {change: int(found[0][0]) * {"s": 1, "min": 60}[found[0][1]] for change, found in said.items()}
    assert seconds["refit_all"] == seconds["linear_probe"], "each says its own"
    assert 0 < seconds["freeze_encoder"] < seconds["linear_probe"] / 4


@pytest.mark.parametrize("family", ["bert", "albert"])
def test_data_check_says_how_long_each_preset_takes(family: str, tmp_path: Path) -> None:
    base = make_directory(tmp_path / "base", family=family)
    texts = random_texts(90)
    data = write_rows(tmp_path / "rows.csv", texts, ["film" if i % 2 else "match" for i in range(len(texts))])
    command = ["data", "check", str(data), "--base", str(base)]
    seconds = json.loads(CliRunner().invoke(cli, [*command, "--json"]).stdout)["fit_seconds"]
    assert set(seconds) == {"quick", "balanced", "few-shot", "best"}
    assert all(value > 0 for value in seconds.values())
    if family == "bert":  # what lies below the last layer runs once a text
        assert seconds["quick"] < seconds["balanced"]
    assert re.search(r"training +about, by --preset: .*balanced \d+ s", CliRunner().invoke(cli, command).stdout)


def test_a_time_that_cannot_be_measured_hides_no_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Speed:
        raise RuntimeError("not enough memory: you tried to allocate 1 byte")

    monkeypatch.setattr("training.preset_times.measured_speed", fails)
    base = make_directory(tmp_path / "base")
    data = write_rows(tmp_path / "rows.csv", ["a film"] * 2 + random_texts(40), ["film", "match"] * 21)
    done = CliRunner().invoke(cli, ["data", "check", str(data), "--base", str(base), "--json"])
    answer = json.loads(done.stdout)
    assert answer["fit_seconds"] is None
    assert answer["findings"]


def test_a_base_whose_padding_is_the_last_of_its_tokens_is_timed(tmp_path: Path) -> None:
    base = make_directory(tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "pad_token_id": config["vocab_size"] - 1}))
    data = write_rows(tmp_path / "rows.csv", random_texts(40), ["film", "match"] * 20)
    done = CliRunner().invoke(cli, ["data", "check", str(data), "--base", str(base), "--json"])
    assert json.loads(done.stdout)["fit_seconds"]["balanced"] > 0


def test_without_the_base_on_this_machine_no_time_is_told(tmp_path: Path) -> None:
    base = make_directory(tmp_path / "base")
    (base / "model.safetensors").unlink()
    data = write_rows(tmp_path / "rows.csv", random_texts(40), ["film", "match"] * 20)
    done = CliRunner().invoke(cli, ["data", "check", str(data), "--base", str(base), "--json"])
    assert json.loads(done.stdout)["fit_seconds"] is None
    assert "the time of a fit is not estimated" in done.stderr
