"""Checkpoints: when they are saved, what a disk without room gets, and how a fit is gone on from the last whole one.

Trainer writes trainer_state.json last, so a directory with one that reads is whole, wherever the process was killed.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn
from transformers import TrainerCallback

from stream_classifier.errors import TrainingError
from training.callbacks import is_enough
from training.history import TrainingHistory
from training.interrupts import Interrupted, Interrupts
from training.settings import FitSettings

__all__ = ["SaveInTime", "is_finished", "last_checkpoint", "load_best", "saving"]

logger = logging.getLogger(__name__)

_STATE_NAME = "trainer_state.json"
_SAVE_EVERY_S = 300.0


class SaveInTime(TrainerCallback):
    """Checkpoints within an epoch, beside Trainer's at the end of each: now and then, and when a signal has come.

    Never at the last step of an epoch: one that is saved before the validation rows were looked at would be gone on
    from without ever looking at them.

    Args:
        interrupts: what is told to stop.
        every_steps: None: about every five minutes, in one process; several could not agree on the moment.
    """

    def __init__(self, interrupts: Interrupts, every_steps: int | None) -> None:
        self._interrupts = interrupts
        self._every_steps = every_steps
        self._saved_s = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if float(state.epoch).is_integer():
            return
        if self._every_steps is not None:
            is_due = state.global_step % self._every_steps == 0
        else:
            is_due = args.world_size == 1 and time.monotonic() - self._saved_s > _SAVE_EVERY_S
        if is_due or self._interrupts.signum is not None:
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._saved_s = time.monotonic()
        if (signum := self._interrupts.signum) is not None:
            raise Interrupted(f"interrupted at step {state.global_step} of {state.max_steps}", signum)


@contextmanager
def saving(what: str, place: Path) -> Iterator[None]:
    """Within it what keeps `what` from being written to `place`, as a full disk does, is a line that says how to go on.

    Raises:
        TrainingError: in place of what the libraries raise.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # torch.save's own is a RuntimeError
        reason = str(error).strip().partition("\n")[0]
        raise TrainingError(
            f"{place}: {what} cannot be saved ({reason}); free some space, and give the same command with --resume"
        ) from error


def last_checkpoint(work_dir: Path) -> Path | None:
    """The checkpoint to go on from: the one with most steps among those that are whole; the others are removed."""
    whole: dict[int, Path] = {}
    for path in work_dir.glob("checkpoint-*"):
        state = _read_state(path)
        if state is None:
            logger.info("%s is only half written: it is removed", path)
            shutil.rmtree(path)
        else:
            whole[state["global_step"]] = path
    return whole[max(whole)] if whole else None


def is_finished(checkpoint: Path, settings: FitSettings, *, last_epoch: int | None = None) -> bool:
    """Whether no step was left when the checkpoint was saved: all epochs were run, or it was enough (`is_enough`)."""
    state = _read_state(checkpoint)
    if state is None:
        return False
    at_epoch_end = float(state["epoch"]).is_integer()
    stopped = is_enough(state["log_history"], settings.metric, settings.patience_epochs, last_epoch=last_epoch)
    return state["global_step"] >= state["max_steps"] or (at_epoch_end and stopped)


def load_best(module: nn.Module, checkpoint: Path, settings: FitSettings) -> TrainingHistory:
    """Loads the weights of the best epoch of a finished fit into the module, which with `settings.fsdp` has none."""
    from safetensors.torch import load_file

    state = _read_state(checkpoint) or {}
    best = checkpoint.with_name(f"checkpoint-{state['best_global_step']}")
    module.load_state_dict(load_file(best / "model.safetensors"), strict=False, assign=settings.fsdp)
    return TrainingHistory.from_log(state["log_history"], metric=settings.metric, max_epochs=settings.max_epochs)


def _read_state(checkpoint: Path) -> dict[str, Any] | None:
    try:
        state: dict[str, Any] = json.loads((checkpoint / _STATE_NAME).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return state
