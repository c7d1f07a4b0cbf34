"""Experiment trackers that a fit reports every step to, through Trainer's own integrations."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from stream_classifier.errors import ConfigError

__all__ = ["prepare_reporters"]

logger = logging.getLogger(__name__)

_TENSORBOARD_DIR = "TENSORBOARD_LOGGING_DIR"  # read by transformers
_given: dict[str, str] = {}  # by an earlier fit in this process


def prepare_reporters(names: Sequence[str], *, run_name: str) -> None:
    """Checks that the trackers are installed, and gives TensorBoard a place that outlives the fit: runs/NAME.

    Raises:
        ConfigError: one is not, with the `pip install`.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"--report-to {name}: it is not installed; pip install {name}, or leave it out")
    if "tensorboard" in names:
        if os.environ.get(_TENSORBOARD_DIR) in (None, _given.get(_TENSORBOARD_DIR)):  # else it is the user's own
            os.environ[_TENSORBOARD_DIR] = _given[_TENSORBOARD_DIR] = str(Path("runs") / run_name)
        logger.info("tensorboard --logdir %s shows this fit", os.environ[_TENSORBOARD_DIR])
