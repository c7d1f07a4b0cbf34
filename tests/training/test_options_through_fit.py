"""Options as they are typed, through `fit` to the model directory: each test fails when its option is ignored."""

from __future__ import annotations

import csv
import html
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

import training
from tests.plugins.models import make_directory
from tests.plugins.tables import random_texts, write_rows
from training.cli import cli

NUM_ROWS = 60
NUM_TOKENS = 8  # most of the texts have more
HAS_TENSORBOARD = importlib.util.find_spec("tensorboard") is not None


@dataclass(frozen=True)
class Fit:
    """A model directory and what `fit --json` printed of it."""

    path: Path
    figures: dict[str, Any]

    @property
    def content(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.path / "classifier.json").read_text())
        return content

    @property
    def report(self) -> str:
        return (self.path / "report.html").read_text("utf-8")

    @property
    def num_tokens(self) -> float:
        """That it was trained on, in its epoch."""
        epoch = training.read_history(self.path).epochs[0]
        assert epoch.tokens_per_s is not None
        return epoch.tokens_per_s * epoch.seconds


def fit(folder: Path, *options: str, family: str = "bert") -> Fit:
    """One epoch on rows whose labels are drawn, so that some answers are wrong; all three parts are the same."""
    texts, labels = random_texts(NUM_ROWS), [("film", "match", "oos")[i % 3] for i in range(NUM_ROWS)]
    folder.mkdir(exist_ok=True)
    data = str(write_rows(folder / "rows.csv", texts, labels))
    base = make_directory(folder / "base", family=family)
    usual = [data, "--validation", data, "--test", data, "--out", str(folder / "new"), "--base", str(base)]
    usual += ["--epochs", "1", "--no-linear-probe", "--out-of-scope-label", "oos"]
    usual += ["--device", "cpu", "--dtype", "float32", "--golden-texts", "none", "--quiet", "--json"]
    done = CliRunner().invoke(cli, ["fit", *usual, *options])
    if done.exception is not None:
        raise done.exception
    return Fit(folder / "new", json.loads(done.stdout))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Fit:
    return fit(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Fit:
    """With all the options of this module that have nothing to do with each other."""
    folder = tmp_path_factory.mktemp("changed")
    options = ["--max-length", str(NUM_TOKENS), "--show-texts", "--keep-in-scope", "0.8", "--no-baseline"]
    if HAS_TENSORBOARD:
        options += ["--report-to", "tensorboard", "--batch-size", "20"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return fit(folder, *options)


def test_max_length_is_what_is_read_in_training_and_in_serving(plain: Fit, changed: Fit) -> None:
    num_rows = plain.content["training"]["num_train"]
    assert changed.num_tokens <= num_rows * NUM_TOKENS * 1.001 < plain.num_tokens
    assert changed.content["max_length"] == NUM_TOKENS
    assert plain.figures["truncated"] == 0
    assert changed.figures["truncated"] > 0.5


def test_the_report_holds_texts_when_it_is_told_to(plain: Fit, changed: Fit) -> None:
    for model, shown in ((plain, False), (changed, True)):
        with (model.path.parent / "rows.csv").open() as file:
            texts = [html.escape(row["text"]) for row in csv.DictReader(file)]
        assert any(text in model.report for text in texts) == shown


def test_the_rule_keeps_the_share_of_texts_in_scope_that_it_is_told_to(plain: Fit, changed: Fit) -> None:
    assert plain.figures["out_of_scope"]["kept"] == 0.95
    assert changed.figures["out_of_scope"]["kept"] == 0.8


def test_a_baseline_is_measured_unless_it_is_told_not_to(plain: Fit, changed: Fit) -> None:
    assert plain.figures["baseline"] is not None
    assert "tf-idf" in plain.report
    assert changed.figures["baseline"] is None
    assert "tf-idf" not in changed.report


@pytest.mark.skipif(not HAS_TENSORBOARD, reason="TensorBoard is not installed")
def test_tensorboard_has_every_step_under_the_name_of_the_model(plain: Fit, changed: Fit) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(changed.path.parent / "runs" / "new"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2]
    assert not (plain.path.parent / "runs").exists()


def test_a_dropout_of_the_head_that_its_family_has_no_name_for_leaves_an_ordinary_model(tmp_path: Path) -> None:
    model_dir = fit(tmp_path, "--dropout", "0.2", "--classifier-dropout", "0.9", "--no-baseline", family="mpnet").path
    model, loading = AutoModelForSequenceClassification.from_pretrained(model_dir, output_loading_info=True)
    assert not any(loading.values())
    head = {child.p for child in model.classifier.modules() if isinstance(child, torch.nn.Dropout)}
    assert head == {0.2}, "the config's: it has no place for the other"


@pytest.mark.parametrize("preset", ["quick", "few-shot"])
def test_of_a_family_with_one_layer_for_all_a_frozen_encoder_leaves_the_head(preset: str, tmp_path: Path) -> None:
    options = ["--preset", preset, "--no-baseline"] + (["--contrastive-steps", "0"] if preset == "few-shot" else [])
    model_dir = fit(tmp_path, *options, family="albert").path
    before, after = load_file(tmp_path / "base" / "model.safetensors"), load_file(model_dir / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[0 if name.startswith("classifier") else 1] for name in changed} == {"classifier", "pooler"}
