"""A search keeps the recipe that does best on the validation rows, gives up bad ones, and says what is missing."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

import training
from stream_classifier.errors import ConfigError
from tests.plugins.models import make_directory
from tests.training.test_fit import table
from training.cli import cli
from training.history import EpochRecord, TrainingHistory
from training.interrupts import Interrupted, Interrupts
from training.parts import read_parts
from training.recipe import read_recipe
from training.search import search
from training.settings import FitSettings
from training.work_dir import JOURNAL_NAME

pytest.importorskip("optuna")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_directory(tmp_path_factory.mktemp("base") / "tiny", labels=("x", "y"))


def test_the_best_recipe_makes_the_model_and_is_kept(base: Path, tmp_path: Path) -> None:
    rows = table(tmp_path / "rows.csv", 60, 1)
    settings = FitSettings(base=str(base), epochs=2, learning_rate=2e-3, max_length=16, golden_texts=())
    result = training.fit(rows, tmp_path / "model", settings=settings, num_trials=3)
    recipe = read_recipe(tmp_path / "model" / "run.toml")
    assert 2e-3 / 8 <= recipe["learning_rate"] <= 2e-3 * 8
    assert recipe["epochs"] == 2
    assert result.history.num_epochs <= 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "rows.csv"]


def fake(value_of: Any) -> Any:
    """A fine-tuning whose validation figure is a function of the settings."""

    def fine_tune(*arguments: Any, **_: Any) -> TrainingHistory:
        settings: FitSettings = arguments[2]
        value = value_of(settings)
        return TrainingHistory((EpochRecord(1, 1, 1.0, value, value, value, 0.0, 1.0, 1.0, None, None),), 1, "loss", 1)

    return fine_tune


@pytest.mark.parametrize("metric", ["macro_f1", "loss"])
def test_it_starts_from_the_settings_and_finds_better(
    metric: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[FitSettings] = []

    def value_of(settings: FitSettings) -> float:
        seen.append(settings)
        distance = abs(settings.dropout - 0.3) if settings.dropout is not None else 1.0
        return distance if metric == "loss" else 1 - distance

    monkeypatch.setattr("training.search.fine_tune", fake(value_of))
    settings = FitSettings(base=str(base), metric=metric, learning_rate=1e-4)
    parts = read_parts(table(tmp_path / "rows.csv", 60, 1), settings=settings)
    found = search(parts, settings, num_trials=12, work_dir=tmp_path / "work", interrupts=Interrupts())
    assert len(seen) == 12
    assert (seen[0].learning_rate, seen[0].dropout) == (1e-4, 0.1)
    assert found.settings == min(seen, key=lambda tried: abs((tried.dropout or 0) - 0.3))
    assert abs((found.settings.dropout or 0) - 0.3) < 0.1
    assert found.num_trials == 12


def test_an_interrupted_search_goes_on_with_the_trials_it_would_have_had(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = FitSettings(base=str(base), learning_rate=1e-4)
    parts = read_parts(table(tmp_path / "rows.csv", 60, 1), settings=settings)

    def searched(folder: str, *, interrupted_in: int | None = None) -> tuple[list[FitSettings], FitSettings | None]:
        tried: list[FitSettings] = []

        def value_of(settings: FitSettings) -> float:
            if len(tried) + 1 == interrupted_in:
                raise Interrupted("interrupted at step 3 of 9")
            tried.append(settings)
            return 1 - abs((settings.dropout or 0) - 0.3)

        monkeypatch.setattr("training.search.fine_tune", fake(value_of))
        options: dict[str, Any] = {"num_trials": 14, "work_dir": tmp_path / folder, "interrupts": Interrupts()}
        if interrupted_in is not None:
            with pytest.raises(Interrupted, match=f"interrupted in trial {interrupted_in} of 14"):
                search(parts, settings, **options)
            return tried, None
        return tried, search(parts, settings, **options).settings

    whole = searched("whole")
    assert searched("cut", interrupted_in=1) == ([], None)
    assert not (tmp_path / "cut" / JOURNAL_NAME).exists(), "there is nothing to go on from"
    before, _ = searched("cut", interrupted_in=13)
    after = searched("cut")
    assert (before + after[0], after[1]) == whole
    assert len(before) == 12


@pytest.mark.parametrize(
    ("max_minutes", "num_done", "said"),
    [(4, 3, "2 more trials will take about 3 min"), (None, 5, "4 more trials will take about 7 min")],
)
def test_the_budget_of_time_ends_it_and_the_first_trial_tells_what_the_others_take(
    base: Path,
    tmp_path: Path,
    max_minutes: float | None,
    num_done: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "training")
    now_s = 0.0

    def takes_100_s(_: FitSettings) -> float:
        nonlocal now_s
        now_s += 100
        return 0.5

    monkeypatch.setattr("training.search.fine_tune", fake(takes_100_s))
    monkeypatch.setattr("training.search.time", SimpleNamespace(monotonic=lambda: now_s))
    settings = FitSettings(base=str(base))
    parts = read_parts(table(tmp_path / "rows.csv", 60, 1), settings=settings)
    options: dict[str, Any] = {"work_dir": tmp_path / "work", "interrupts": Interrupts()}
    found = search(parts, settings, num_trials=5, max_minutes=max_minutes, **options)
    assert found.num_trials == num_done
    assert caplog.text.count("more trials will take") == caplog.text.count(said) == 1


def test_without_optuna_the_install_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec  # of all else: what is imported here for the first time asks it too
    monkeypatch.setattr("importlib.util.find_spec", lambda asked: None if asked == "optuna" else found(asked))
    with pytest.raises(ConfigError, match=r"pip install 'stream-classifier\[search\]'"):
        training.fit(tmp_path / "rows.csv", tmp_path / "out", num_trials=5)


def test_one_trial_is_no_search(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--search 1"):
        training.fit(tmp_path / "rows.csv", tmp_path / "out", num_trials=1)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--search-minutes", "5"], "--search-minutes 5 limits a search; give --search N too"),
        (["--search", "5", "--search-minutes", "0"], "--search-minutes 0 leaves no time"),
        (["--search", "5", "--search-minutes", "nan"], "--search-minutes nan leaves no time"),
    ],
)
def test_a_limit_of_time_that_limits_nothing_is_refused(options: list[str], problem: str, tmp_path: Path) -> None:
    arguments = ["fit", str(tmp_path / "rows.csv"), "--out", str(tmp_path / "out"), *options]
    ran = CliRunner().invoke(cli, arguments)
    assert isinstance(ran.exception, ConfigError)
    assert problem in str(ran.exception)
