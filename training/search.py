"""The recipe that does best on the validation rows, out of N that Optuna proposes (the extra `search`).

Each trial is a fit without a model directory. One that is worse than most were after as many epochs is given up (median
pruning). Only the validation rows are looked at; the test rows stay unread.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from stream_classifier.errors import ConfigError
from training.callbacks import DivergedError
from training.encoder import quiet_transformers, starting_encoder
from training.estimate import duration
from training.fine_tuning import fine_tune
from training.interrupts import Interrupted, Interrupts
from training.parts import Parts
from training.progress import bar
from training.settings import FitSettings
from training.work_dir import JOURNAL_NAME

if TYPE_CHECKING:
    import optuna

__all__ = ["SearchResult", "check_search", "search"]

logger = logging.getLogger(__name__)

_SEEDS = 1000  # of the trials of one search; more than that repeat those of the next seed


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search found.

    Attributes:
        settings: the best trial's.
        value: its metric on the validation rows.
        num_trials: run to their end; `num_pruned` more were given up.
    """

    settings: FitSettings
    value: float
    num_trials: int
    num_pruned: int


def check_search(count: int, *, max_minutes: float | None = None) -> None:
    """Refuses a search that cannot be; a `count` of 0 is none.

    Raises:
        ConfigError: Optuna is not installed, with the `pip install`; one trial; or a limit of time that limits nothing.
    """
    if max_minutes is not None and not count:
        raise ConfigError(f"--search-minutes {max_minutes:g} limits a search; give --search N too, or leave it out")
    if max_minutes is not None and not max_minutes > 0:
        raise ConfigError(f"--search-minutes {max_minutes:g} leaves no time; give a number above 0")
    if not count:
        return
    if count < 2:
        raise ConfigError(f"--search {count} leaves nothing to choose from; give 2 or more")
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError("--search needs Optuna; pip install 'stream-classifier[search]', or leave it out")


def search(
    parts: Parts,
    settings: FitSettings,
    *,
    num_trials: int,
    work_dir: Path,
    interrupts: Interrupts,
    max_minutes: float | None = None,
    show_progress: bool = False,
) -> SearchResult:
    """Tries recipes around `settings`; the first trial is `settings`, or what is nearest in the ranges. Blocks.

    Args:
        parts: train and validation rows.
        settings: what a trial changes: learning rate, weight decay, dropout, layer decay and warm-up.
        num_trials: at most so many.
        work_dir: for the trials' checkpoints, which go away, and for a journal of the finished trials. Where that is
            there already the search goes on after them, with the trials it would have had uninterrupted.
        max_minutes: no trial begins after so long, from now on; None: no limit.

    Raises:
        ConfigError: Optuna is not there, or no trial came to an end.
        Interrupted: a signal came; the trials before the one that was running are kept.
    """
    check_search(num_trials, max_minutes=max_minutes)
    if not num_trials:
        raise ConfigError("--search 0 is none; give 2 or more")
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = _study(work_dir, settings)
    states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    num_done = len(study.get_trials(states=states))
    if num_done:
        logger.info("going on with the search after trial %d of %d", num_done, num_trials)
    started_s = time.monotonic()
    with bar(num_trials, "searching", unit="trial", shown=show_progress) as progress:
        progress.update(num_done)
        for number in range(num_done, num_trials):
            if max_minutes is not None and time.monotonic() - started_s > 60 * max_minutes:
                logger.info("the search ends after %g minutes", max_minutes)
                break
            trial_started_s = time.monotonic()
            trial = _next_trial(study, number, settings)
            try:
                value = _run(trial, parts, _proposed(trial, settings), work_dir / "trial", interrupts)
            except Interrupted as error:
                if not number:
                    (work_dir / JOURNAL_NAME).unlink()
                raise Interrupted(f"interrupted in trial {number + 1} of {num_trials}", error.signum) from error
            study.tell(trial, value, state=states[value is None])
            said = "given up" if value is None else f"{settings.metric} {value:.4f}"
            logger.info("trial %d of %d: %s; %s", number + 1, num_trials, said, _described(trial))
            progress.update(1)
            num_left = num_trials - number - 1
            if number == num_done:
                trial_s = time.monotonic() - trial_started_s
                if max_minutes is not None:  # a trial that has begun runs on
                    left_s = max(0.0, 60 * max_minutes - (time.monotonic() - started_s))
                    num_left = min(num_left, math.ceil(left_s / trial_s))
                if num_left:
                    logger.info("%d more trials will take about %s", num_left, duration(num_left * trial_s))
    if not study.get_trials(states=states[:1]):
        raise ConfigError("--search: no trial came to an end; give more time, or a lower --learning-rate to start from")
    best, (num_complete, num_pruned) = study.best_trial, (len(study.get_trials(states=[state])) for state in states)
    logger.info("the best of %d trials: %s", num_complete, _described(best))
    return SearchResult(replace(settings, **best.params), study.best_value, num_complete, num_pruned)


def _study(work_dir: Path, settings: FitSettings) -> optuna.Study:
    """The study of the journal in `work_dir`, less the trial that was running when it was left; or a new one."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    work_dir.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(work_dir / JOURNAL_NAME))),
        study_name="search",
        load_if_exists=True,
        direction="minimize" if settings.metric == "loss" else "maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=1),
    )
    for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return study


def _next_trial(study: optuna.Study, number: int, settings: FitSettings) -> optuna.Trial:
    """What is drawn depends on the trials before and on `number`: equal whether the search was interrupted or not."""
    import optuna

    study.sampler = optuna.samplers.TPESampler(seed=(_SEEDS * settings.seed + number) % 2**32)
    if not number:
        study.enqueue_trial(_starting_point(settings))
    return study.ask()


def _starting_point(settings: FitSettings) -> dict[str, Any]:
    return {
        "learning_rate": settings.top_learning_rate,
        "weight_decay": min(max(settings.weight_decay, 1e-3), 0.3),
        "dropout": 0.1 if settings.dropout is None else min(settings.dropout, 0.4),
        "layer_decay": max(settings.layer_decay, 0.7),
        "warmup_share": min(settings.warmup_share, 0.3),
    }


def _proposed(trial: optuna.Trial, settings: FitSettings) -> FitSettings:
    rate = settings.top_learning_rate
    return replace(
        settings,
        learning_rate=trial.suggest_float("learning_rate", rate / 8, min(rate * 8, 0.5), log=True),
        weight_decay=trial.suggest_float("weight_decay", 1e-3, 0.3, log=True),
        dropout=trial.suggest_float("dropout", 0.0, 0.4),
        layer_decay=trial.suggest_float("layer_decay", 0.7, 1.0),
        warmup_share=trial.suggest_float("warmup_share", 0.0, 0.3),
    )


def _run(
    trial: optuna.Trial, parts: Parts, settings: FitSettings, work_dir: Path, interrupts: Interrupts
) -> float | None:
    """The best value of the trial's metric; None when it was given up."""
    shutil.rmtree(work_dir, ignore_errors=True)
    work_dir.mkdir(parents=True)
    pruning = _Pruning(trial, settings.metric)
    try:
        with quiet_transformers():
            encoder = starting_encoder(settings, parts.labels, parts.problem_type)
            history = fine_tune(
                encoder, parts, settings, work_dir=work_dir, interrupts=interrupts, callbacks=(pruning,)
            )
    except DivergedError as error:
        logger.info("%s", error)
        return None if settings.metric == "loss" else 0.0
    finally:
        shutil.rmtree(work_dir, ignore_errors=True)
    if pruning.is_given_up:
        return None
    best = history.best
    return best.validation_loss if settings.metric == "loss" else float(getattr(best, settings.metric))


class _Pruning(TrainerCallback):
    def __init__(self, trial: optuna.Trial, metric: str) -> None:
        self._trial = trial
        self._name = "eval_nll" if metric == "loss" else f"eval_{metric}"
        self.is_given_up = False

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trial.report(kwargs["metrics"][self._name], round(state.epoch))
        if self._trial.should_prune():
            self.is_given_up = True
            control.should_training_stop = True


def _described(trial: Any) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in trial.params.items())
