"""The history of a fit: what a Trainer's log becomes, and that history.json gives it back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from stream_classifier.errors import ConfigError
from training.history import HISTORY_NAME, TrainingHistory, read_history

LOG = [
    {"loss": 1.0, "grad_norm": 2.0, "learning_rate": 1e-3, "epoch": 0.5, "step": 1},
    {"loss": 0.5, "grad_norm": 6.0, "learning_rate": 2e-3, "epoch": 1.0, "step": 2},
    {"tokens_per_s": 100.0, "seconds": 3.0, "epoch": 1.0, "step": 2},
    {"eval_nll": 0.7, "eval_accuracy": 0.8, "eval_macro_f1": 0.6, "epoch": 1.0, "step": 2},
    {"loss": 0.25, "grad_norm": 1.0, "learning_rate": 1e-3, "epoch": 1.5, "step": 3},
    {"loss": 0.75, "grad_norm": 1.0, "learning_rate": 0.0, "epoch": 2.0, "step": 4},
    {"tokens_per_s": 90.0, "seconds": 4.0, "epoch": 2.0, "step": 4},
    {"eval_nll": 0.9, "eval_accuracy": 0.9, "eval_macro_f1": 0.6, "epoch": 2.0, "step": 4},
    {"train_runtime": 7.0, "epoch": 2.0, "step": 4},
]


def test_steps_become_means_of_their_epoch() -> None:
    first, second = TrainingHistory.from_log(LOG, metric="macro_f1", max_epochs=5).epochs
    assert (first.epoch, first.steps, first.train_loss, first.grad_norm, first.max_grad_norm) == (1, 2, 0.75, 4.0, 6.0)
    assert (first.validation_loss, first.accuracy, first.macro_f1) == (0.7, 0.8, 0.6)
    assert (first.learning_rate, first.tokens_per_s, first.seconds) == (2e-3, 100.0, 3.0)
    assert (second.epoch, second.train_loss) == (2, 0.5)


@pytest.mark.parametrize(("metric", "best"), [("macro_f1", 2), ("accuracy", 2), ("loss", 1)])
def test_best_is_the_lowest_loss_or_the_last_of_the_highest_figures(metric: str, best: int) -> None:
    history = TrainingHistory.from_log(LOG, metric=metric, max_epochs=2)
    assert history.best_epoch == best
    assert history.best.epoch == best
    assert not history.stopped_early


def test_fewer_epochs_than_allowed_means_stopped_early() -> None:
    assert TrainingHistory.from_log(LOG, metric="loss", max_epochs=3).stopped_early


def test_a_written_history_reads_back_equal(tmp_path: Path) -> None:
    history = TrainingHistory.from_log(LOG, metric="accuracy", max_epochs=5)
    history = replace(history, epochs=(*history.epochs[:1], replace(history.epochs[1], tokens_per_s=None)))
    history.write(tmp_path)
    assert read_history(tmp_path) == history
    assert read_history(tmp_path / HISTORY_NAME) == history
    assert json.loads((tmp_path / HISTORY_NAME).read_text())["stopped_early"] is True


@pytest.mark.parametrize("content", ["", "[]", '{"epochs": []}', '{"epochs": [{"epoch": 1}], "best_epoch": 1}'])
def test_a_broken_history_is_refused_with_its_path(content: str, tmp_path: Path) -> None:
    (tmp_path / HISTORY_NAME).write_text(content)
    with pytest.raises(ConfigError, match=HISTORY_NAME):
        read_history(tmp_path)


def test_a_directory_without_history_says_what_has_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="stream-training fit"):
        read_history(tmp_path)
