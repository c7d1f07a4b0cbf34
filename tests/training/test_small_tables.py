"""A small table gets more epochs by default: so many that there are steps enough to learn anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import training
from stream_classifier.errors import ConfigError
from tests.plugins.models import make_directory
from tests.plugins.tables import random_texts, write_rows
from training import fitting, folds
from training.settings import FitSettings


@pytest.mark.parametrize(
    ("settings", "num_rows", "epochs", "patience"),
    [
        (FitSettings(), 17 * 32, 6, 3),
        (FitSettings(), 12 * 32, 9, 9),
        (FitSettings(), 48, 40, 40),
        (FitSettings(), 1, 40, 40),
        (FitSettings(freeze_encoder=True), 12 * 32, 9, 9),
        (FitSettings(batch_size=8, gradient_accumulation_steps=4), 12 * 32, 9, 9),
        (FitSettings(patience=5), 12 * 32, 9, 5),
        (FitSettings(epochs=2), 48, 2, 3),
    ],
)
def test_epochs_are_as_many_as_make_enough_steps(
    settings: FitSettings, num_rows: int, epochs: int, patience: int
) -> None:
    found = settings.for_rows(num_rows)
    assert (found.max_epochs, found.patience_epochs) == (epochs, patience)


def test_processes_share_a_step() -> None:
    assert FitSettings().for_rows(4 * 12 * 32, num_processes=4).max_epochs == 9


class _SettingsSeen(Exception):
    def __init__(self, settings: FitSettings) -> None:
        super().__init__()
        self.settings = settings


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever would train raises the settings that it is given."""

    def fine_tune(encoder: Any, parts: Any, settings: FitSettings, **context: Any) -> None:
        raise _SettingsSeen(settings)

    monkeypatch.setattr(fitting, "fine_tune", fine_tune)
    monkeypatch.setattr(folds, "fine_tune", fine_tune)


def _fit(rows: Path, settings: FitSettings) -> None:
    training.fit(rows, rows.parent / "model", settings=settings)


def _cross_validate(rows: Path, settings: FitSettings) -> None:
    training.cross_validate(rows, settings=settings, num_folds=3)


@pytest.mark.parametrize("train", [_fit, _cross_validate])
@pytest.mark.usefixtures("seen")
def test_a_table_of_two_steps_is_gone_over_forty_times(
    train: Callable[[Path, FitSettings], None], tmp_path: Path
) -> None:
    base = make_directory(tmp_path / "base", labels=("x", "y"))
    rows = write_rows(tmp_path / "rows.csv", random_texts(60), [("sport", "money")[i % 2] for i in range(60)])
    settings = FitSettings(base=str(base))
    with pytest.raises(_SettingsSeen) as caught:
        train(rows, settings)
    assert (caught.value.settings.epochs, caught.value.settings.patience) == (40, 40)


def test_patience_is_a_number_of_epochs() -> None:
    with pytest.raises(ConfigError, match="patience is 0"):
        FitSettings(patience=0)
