"""run.toml gives back the settings it was written from; a recipe by hand is checked key by key."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import training
from stream_classifier.errors import ConfigError
from training.cli import cli
from training.data import Columns
from training.encoder import DEFAULT_BASE
from training.presets import PRESETS, preset
from training.recipe import read_recipe, write_recipe
from training.settings import FitSettings

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


def round_trip(settings: FitSettings, path: Path) -> FitSettings:
    write_recipe(settings, path)
    return FitSettings(**read_recipe(path))


@given(
    labels=st.dictionaries(TEXT, st.floats(0.1, 10), min_size=1, max_size=3),
    label_map=st.dictionaries(TEXT, TEXT, max_size=3),
    golden=st.lists(TEXT, max_size=3),
    base=TEXT,
)
def test_whatever_is_written_reads_back(
    labels: dict[str, float], label_map: dict[str, str], golden: list[str], base: str, tmp_path_factory: Any
) -> None:
    settings = FitSettings(
        base=base,
        epochs=3,
        patience=3,
        learning_rate=1e-4,
        ema_decay=0.9,
        linear_probe=False,
        class_weights=labels,
        golden_texts=tuple(golden),
        columns=Columns(text=("title", "body"), label_map=label_map),
        report_to=("mlflow",),
    )
    assert round_trip(settings, tmp_path_factory.getbasetemp() / "run.toml") == settings


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_written_as_they_came_out(name: str, tmp_path: Path) -> None:
    settings = round_trip(preset(name), tmp_path / "run.toml")
    assert settings.max_epochs == settings.epochs == preset(name).max_epochs
    assert settings.top_learning_rate == settings.learning_rate == preset(name).top_learning_rate


def test_a_preset_takes_changes_and_is_known_by_name() -> None:
    assert preset("quick", seed=3) == FitSettings(freeze_encoder=True, seed=3)
    assert training.preset("balanced") == FitSettings()
    with pytest.raises(ConfigError, match="quick, balanced, few-shot, best"):
        preset("fast")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("epoch = 3", "there is no key epoch; did you mean epochs"),
        ("epochs = 'three'", "epochs is 'three'; input should be a valid integer"),
        ("seed = 1.5", "seed is 1.5"),
        ("epochs = ", "it is no TOML"),
        ("[columns]\ntekst = ['a']", "there is no key columns.tekst; did you mean columns.text"),
        ("[columns]\ntext = [1]", "columns.text is 1"),
        ("columns = 3", "columns is 3"),
        ("dropout = 2.0", "dropout is 2.0"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_by_key(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        read_recipe(path)
    assert message in str(caught.value)


def test_a_recipe_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"run\.toml: it cannot be read"):
        read_recipe(tmp_path / "run.toml")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--preset", "quick"], FitSettings(freeze_encoder=True)),
        (["--preset", "quick", "--no-freeze-encoder", "--epochs", "2"], FitSettings(epochs=2)),
        (["--config", "run.toml"], FitSettings(epochs=7, columns=Columns(text=("body",)), layer_decay=0.5)),
        (["--config", "run.toml", "--skip-bad-rows"],
         FitSettings(epochs=7, columns=Columns(text=("body",), skip_bad_rows=True), layer_decay=0.5)),
        (["--config", "run.toml", "--epochs", "2", "--text-column", "title"],
         FitSettings(epochs=2, columns=Columns(text=("title",)), layer_decay=0.5)),
        (["--config", "run.toml", "--text-column", "text", "--layer-decay", "1"],
         FitSettings(epochs=7, columns=Columns(text=("text",)))),
    ],
)  # fmt: skip
def test_what_is_typed_comes_before_the_file_and_the_preset_also_at_its_default(
    arguments: list[str], expected: FitSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.toml").write_text('epochs = 7\nlayer_decay = 0.5\n[columns]\ntext = ["body"]\n')
    assert settings_for(arguments, monkeypatch) == expected


@pytest.mark.parametrize(
    ("in_file", "typed"),
    [
        ("max_length = 64", ["--max-length", "256"]),
        ("scheduler = 'cosine'", ["--scheduler", "linear"]),
        ("freeze_encoder = true", ["--no-freeze-encoder"]),
        ("baseline = false", ["--baseline"]),
        ("base = 'models/base'\n[columns]\ntext = ['body']", ["--base", DEFAULT_BASE, "--text-column", "text"]),
        ("[columns.label_map]\nold = 'new'", ["--label-map", ""]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_an_option_typed_at_its_default_comes_before_the_file(
    in_file: str, typed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.toml"
    path.write_text(in_file + "\n")
    assert settings_for(["--config", str(path)], monkeypatch) != FitSettings()
    settings = settings_for(["--config", str(path), *typed], monkeypatch)
    assert replace(settings, base=None) == FitSettings()


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_beside_a_file_is_refused_before_anything_is_read(name: str, tmp_path: Path) -> None:
    arguments = ["rows.csv", "--out", str(tmp_path / "new"), "--config", "no-such.toml", "--preset", name]
    done = CliRunner().invoke(cli, ["fit", *arguments])
    assert isinstance(done.exception, ConfigError)
    assert f"--preset {name} and --config no-such.toml" in str(done.exception)
    assert "give one of them" in str(done.exception)


def settings_for(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> FitSettings:
    """What the command hands to `fit`."""
    seen: list[FitSettings] = []

    def fit(*_: Any, settings: FitSettings, **__: Any) -> None:
        seen.append(settings)
        raise ConfigError("seen")

    monkeypatch.setattr("training.fitting.fit", fit)
    done = CliRunner().invoke(cli, ["fit", "rows.csv", "--out", "new", *arguments])
    assert str(done.exception) == "seen", done.output
    return seen[0]
