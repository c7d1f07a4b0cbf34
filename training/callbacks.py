"""What happens beside the steps of a loop: the bar and the lines an epoch, early stopping, unfreezing, and the end of a
fit whose loss is not a number. Saving is in checkpoints.py.

Early stopping reads Trainer's log, which checkpoints hold, so that it needs no state of its own.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from tqdm import tqdm
from transformers import TrainerCallback

from stream_classifier.errors import TrainingError
from training.layers import Depths, unfreeze_for_epoch
from training.progress import bar
from training.sampling import EpochSampler
from training.settings import FitSettings

__all__ = [
    "DivergedError",
    "EarlyStop",
    "NanStop",
    "OwnDropout",
    "Progress",
    "ShuffleRows",
    "Unfreeze",
    "epochs_without_gain",
    "is_enough",
]

logger = logging.getLogger(__name__)


class Progress(TrainerCallback):
    """A progress bar over the steps, a line an epoch, and the speed of each in the log."""

    def __init__(self, *, num_tokens: int, max_epochs: int, shown: bool) -> None:
        self._num_tokens = num_tokens
        self._max_epochs = max_epochs
        self._shown = shown
        self._bar: tqdm[Any] | None = None
        self._started_s = 0.0
        self._first_step = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._bar = bar(state.max_steps, "training", unit="step", shown=self._shown and state.is_local_process_zero)
        self._bar.update(state.global_step)
        if state.global_step:
            logger.info("going on at step %d of %d", state.global_step, state.max_steps)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._started_s = time.monotonic()
        self._first_step = state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._bar is not None:
            self._bar.update(1)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        seconds = time.monotonic() - self._started_s
        share = (state.global_step - self._first_step) * self._max_epochs / state.max_steps
        speed = {"tokens_per_s": share * self._num_tokens / seconds, "seconds": seconds}
        state.log_history.append({**speed, "epoch": state.epoch, "step": state.global_step})

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        metrics: dict[str, float] = kwargs["metrics"]
        if state.is_world_process_zero:
            logger.info(
                "epoch %d of %d: loss %.4f, accuracy %.2f %%, macro-F1 %.2f %% on the validation rows",
                round(state.epoch),
                self._max_epochs,
                metrics["eval_nll"],
                100 * metrics["eval_accuracy"],
                100 * metrics["eval_macro_f1"],
            )

    def close(self) -> None:
        """Takes the bar off the terminal."""
        if self._bar is not None:
            self._bar.close()


class ShuffleRows(TrainerCallback):
    """Tells the sampler which epoch begins; a resumed one too."""

    def __init__(self, sampler: EpochSampler) -> None:
        self._sampler = sampler

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._sampler.epoch = int(state.epoch)


class OwnDropout(TrainerCallback):
    """Draws other dropouts in every process: Trainer gives all of them one seed."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if args.process_index > 0:
            torch.manual_seed(args.seed + args.process_index)


class Unfreeze(TrainerCallback):
    """Gradual unfreezing: see `unfreeze_for_epoch`."""

    def __init__(self, module: nn.Module, depths: Depths, layers_per_epoch: int) -> None:
        self._module = module
        self._depths = depths
        self._layers_per_epoch = layers_per_epoch

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        epoch = int(state.epoch) + 1
        unfreeze_for_epoch(self._module, self._depths, epoch=epoch, layers_per_epoch=self._layers_per_epoch)


class EarlyStop(TrainerCallback):
    """Stops when `is_enough` says so."""

    def __init__(self, metric: str, patience: int, *, last_epoch: int | None = None) -> None:
        self._metric = metric
        self._patience = patience
        self._last_epoch = last_epoch

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if is_enough(state.log_history, self._metric, self._patience, last_epoch=self._last_epoch):
            control.should_training_stop = True


def is_enough(log: Sequence[Mapping[str, Any]], metric: str, patience: int, *, last_epoch: int | None = None) -> bool:
    """Whether, by Trainer's log, `last_epoch` is done; without one, whether `patience` epochs have brought no gain."""
    if last_epoch is not None:
        return any(entry.get("epoch", 0) >= last_epoch for entry in log if "eval_nll" in entry)
    return epochs_without_gain(log, metric) >= patience


def epochs_without_gain(log: Sequence[Mapping[str, Any]], metric: str) -> int:
    """Epochs since the metric was last better than before, by Trainer's log; none while an F1 or accuracy is 0: a model
    of several labels a text gives none at all at first, until the loss, which falls all the while, is low enough.
    """
    name = "eval_nll" if metric == "loss" else f"eval_{metric}"
    values = [entry[name] for entry in log if name in entry]
    best = (min if metric == "loss" else max)(values, default=0.0)
    return len(values) - 1 - values.index(best) if values and (best or metric == "loss") else 0


class DivergedError(TrainingError):
    """The loss is not a number any more; the message says what to try."""


class NanStop(TrainerCallback):
    """Ends a fit whose loss is not a number: nothing good comes after it."""

    def __init__(self, settings: FitSettings) -> None:
        self._settings = settings

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        logs: Mapping[str, Any] = kwargs["logs"]
        for name in ("loss", "eval_nll"):
            if name in logs and not math.isfinite(logs[name]):
                raise DivergedError(self._message(logs[name], state.global_step))

    def _message(self, loss: float, step: int) -> str:
        rate = self._settings.top_learning_rate
        advice = [f"a lower learning rate (--learning-rate {rate / 5:.2g}, it was {rate:.2g})"]
        if not 0 < self._settings.max_grad_norm <= 1:
            advice.append("--max-grad-norm 1")
        if self._settings.dtype != "float32":
            advice.append("--dtype float32")
        return f"the loss is {loss} at step {step}: training has diverged; try {', or '.join(advice)}"
