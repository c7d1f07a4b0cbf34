"""The command line of a fit reaches its settings: every field has an option, and no option is lost on the way."""

from __future__ import annotations

import importlib.util
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from stream_classifier.errors import ConfigError
from training.cli import cli
from training.cli.fit_options import parse_class_weights
from training.settings import FitSettings

GIVEN: dict[str, tuple[list[str], Any]] = {
    "task": (["--task", "spam"], "spam"),
    "positive_label": (["--positive-label", "good"], "good"),
    "validation_share": (["--validation-share", "0.2"], 0.2),
    "normalisation": (["--normalisation", "nfkc,lowercase"], ("nfkc", "lowercase")),
    "out_of_scope_label": (["--out-of-scope-label", "oos"], "oos"),
    "keep_in_scope": (["--keep-in-scope", "0.9"], 0.9),
    "test_share": (["--test-share", "0.2"], 0.2),
    "base": (["--base", "models/base"], "models/base"),
    "max_length": (["--max-length", "64"], 64),
    "dropout": (["--dropout", "0.2"], 0.2),
    "classifier_dropout": (["--classifier-dropout", "0.3"], 0.3),
    "freeze_encoder": (["--freeze-encoder"], True),
    "gradual_unfreezing": (["--gradual-unfreezing", "2"], 2),
    "layer_decay": (["--layer-decay", "0.9"], 0.9),
    "linear_probe": (["--no-linear-probe"], False),
    "epochs": (["--epochs", "3"], 3),
    "patience": (["--patience", "4"], 4),
    "metric": (["--metric", "loss"], "loss"),
    "learning_rate": (["--learning-rate", "1e-4"], 1e-4),
    "scheduler": (["--scheduler", "cosine"], "cosine"),
    "warmup_share": (["--warmup-share", "0"], 0.0),
    "batch_size": (["--batch-size", "16"], 16),
    "gradient_accumulation_steps": (["--gradient-accumulation-steps", "2"], 2),
    "max_grad_norm": (["--max-grad-norm", "0"], 0.0),
    "ema_decay": (["--ema-decay", "0.9"], 0.9),
    "weight_decay": (["--weight-decay", "0"], 0.0),
    "refit_all": (["--refit-all"], True),
    "group_by_length": (["--no-group-by-length"], False),
    "contrastive_steps": (["--contrastive-steps", "50"], 50),
    "label_smoothing": (["--label-smoothing", "0.1"], 0.1),
    "focal_gamma": (["--focal-gamma", "2"], 2.0),
    "class_weights": (["--class-weights", "a=b=2,ham=1"], {"a=b": 2.0, "ham": 1.0}),
    "balanced_sampling": (["--balanced-sampling"], True),
    "device": (["--device", "cpu"], "cpu"),
    "dtype": (["--dtype", "float32"], "float32"),
    "fsdp": (["--fsdp"], True),
    "gradient_checkpointing": (["--gradient-checkpointing"], True),
    "checkpoint_steps": (["--checkpoint-steps", "50"], 50),
    "seed": (["--seed", "7"], 7),
    "report_to": (["--report-to", "mlflow", "--report-to", "wandb"], ("mlflow", "wandb")),
    "baseline": (["--no-baseline"], False),
    "show_texts": (["--show-texts"], True),
    "golden_texts": (["--golden-texts", "none"], ()),
}


def settings_of(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> FitSettings:
    """What the command hands to `fit`."""
    seen: list[FitSettings] = []

    def fit(*_: Any, settings: FitSettings, **__: Any) -> None:
        seen.append(settings)
        raise ConfigError("seen")

    monkeypatch.setattr("training.fitting.fit", fit)
    done = CliRunner().invoke(cli, ["fit", "rows.csv", "--out", "models/new", *arguments])
    assert isinstance(done.exception, ConfigError), done.output
    return seen[0]


def test_every_field_has_an_option() -> None:
    assert set(GIVEN) == {field.name for field in fields(FitSettings)} - {"columns"}


@pytest.mark.parametrize("name", GIVEN)
def test_an_option_reaches_its_field_and_no_other(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, expected = GIVEN[name]
    settings = settings_of(arguments, monkeypatch)
    assert settings == FitSettings(**{name: expected})
    assert settings != FitSettings()


def test_without_options_the_settings_are_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings_of([], monkeypatch) == FitSettings()


def test_golden_texts_come_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "golden.txt"
    path.write_text("one\n\ntwo\n")
    assert settings_of(["--golden-texts", str(path)], monkeypatch).golden_texts == ("one", "two")


def test_help_has_sections_and_examples() -> None:
    done = CliRunner().invoke(cli, ["fit", "--help"])
    for heading in ("Output:", "Data:", "Model:", "Training:", "Loss:", "Machine:", "Options:", "Examples:"):
        assert f"\n{heading}\n" in done.output.replace("  Examples:", "Examples:")
    assert "[default: 32]" in done.output


def test_a_class_weight_that_is_no_number_is_named() -> None:
    with pytest.raises(ConfigError, match="spam=two"):
        parse_class_weights("ham=1,spam=two")


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_a_tracker_that_is_not_installed_names_the_install(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import training

    found = importlib.util.find_spec  # of all else: what is imported here for the first time asks it too
    monkeypatch.setattr("importlib.util.find_spec", lambda asked: None if asked == name else found(asked))
    with pytest.raises(ConfigError, match=f"pip install {name}"):
        training.fit(tmp_path / "rows.csv", tmp_path / "out", settings=FitSettings(report_to=(name,)))
