"""The recipe that does best on the validation rows, out of N that Optuna proposes (the extra `search`).

Each trial is a fit without a model directory. One that is worse than most were after as many epochs is given up (median
pruning). Only the validation rows are looked at; the test rows stay unread.
"""

from __future__ import annotations

import importlib.util
import logging
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, set_seed

from stream_classifier.errors import ConfigError
from training.callbacks import DivergedError
from training.encoder import find_base, load_encoder, quiet_transformers
from training.fine_tuning import fine_tune
from training.interrupts import Interrupts
from training.normalisation import normalised
from training.parts import Parts
from training.progress import bar
from training.settings import FitSettings

if TYPE_CHECKING:
    import optuna

__all__ = ["SearchResult", "check_search", "search"]

logger = logging.getLogger(__name__)

_WORST = {"macro_f1": 0.0, "accuracy": 0.0, "loss": float("inf")}


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


def check_search(count: int) -> None:
    """Refuses a search that cannot be.

    Raises:
        ConfigError: Optuna is not installed, with the `pip install`; or fewer than two trials.
    """
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
    """Tries recipes around `settings`; the first trial is `settings` as they are. Blocks.

    Args:
        parts: train and validation rows.
        settings: what a trial changes: learning rate, weight decay, dropout, layer decay and warm-up.
        num_trials: at most so many.
        work_dir: for the trials' checkpoints, which go away.
        max_minutes: no trial begins after so long; None: no limit.

    Raises:
        ConfigError: Optuna is not there, or no trial came to an end.
    """
    check_search(num_trials)
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="minimize" if settings.metric == "loss" else "maximize",
        sampler=optuna.samplers.TPESampler(seed=settings.seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=1),
    )
    study.enqueue_trial(_starting_point(settings))
    recipes: dict[int, FitSettings] = {}
    started_s = time.monotonic()
    with bar(num_trials, "searching", unit="trial", shown=show_progress) as progress:
        for _ in range(num_trials):
            if max_minutes is not None and time.monotonic() - started_s > 60 * max_minutes:
                logger.info("the search ends after %g minutes", max_minutes)
                break
            trial = study.ask()
            recipes[trial.number] = _proposed(trial, settings)
            value = _run(trial, parts, recipes[trial.number], work_dir / "trial", interrupts)
            state = optuna.trial.TrialState.PRUNED if value is None else optuna.trial.TrialState.COMPLETE
            study.tell(trial, value, state=state)
            said = "given up" if value is None else f"{settings.metric} {value:.4f}"
            logger.info("trial %d of %d: %s; %s", trial.number + 1, num_trials, said, _described(trial))
            progress.update(1)
    done = study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    if not done:
        raise ConfigError("--search: no trial came to an end; give more time, or a lower --learning-rate to start from")
    best = study.best_trial
    pruned = len(study.get_trials(states=[optuna.trial.TrialState.PRUNED]))
    logger.info("the best of %d trials is number %d: %s", len(done), best.number + 1, _described(best))
    return SearchResult(recipes[best.number], study.best_value, len(done), pruned)


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
            set_seed(settings.seed)
            encoder = load_encoder(
                find_base(settings.base),
                parts.labels,
                problem_type=parts.problem_type,
                dropout=settings.dropout,
                classifier_dropout=settings.classifier_dropout,
            )
            encoder = replace(encoder, tokenizer=normalised(encoder.tokenizer, settings.normalisation))
            history = fine_tune(
                encoder, parts, settings, work_dir=work_dir, interrupts=interrupts, callbacks=(pruning,)
            )
    except DivergedError as error:
        logger.info("%s", error)
        return _WORST[settings.metric] if settings.metric != "loss" else None
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
