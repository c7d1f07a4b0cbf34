"""Recipes by name: settings that go together, for how much time there is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stream_classifier.errors import ConfigError
from training.settings import FitSettings

__all__ = ["PRESETS", "STUDENT", "preset"]

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "quick": {"freeze_encoder": True},
    "balanced": {},
    "few-shot": {"contrastive_steps": 80, "freeze_encoder": True, "epochs": 12, "patience": 12, "batch_size": 16},
    "best": {"epochs": 15, "patience": 4, "scheduler": "cosine", "layer_decay": 0.95},
}
"""What each changes in the defaults of `FitSettings`: nothing in "balanced", which they are.

- quick: a minute. The layers below the last run once a text; what lies above is trained.
- balanced: minutes. The whole model, until it gets no better.
- few-shot: a minute, for a handful of texts a label. Contrastive learning, then as "quick".
- best: an hour. Longer, more patient, slower in the lower layers, where the base knows most.
"""

STUDENT: Mapping[str, Any] = {"epochs": 10, "learning_rate": 2e-4}
"""What `distill` changes in those defaults: a student has lost layers, and learns from softer targets."""


def preset(name: str, **changes: Any) -> FitSettings:
    """The settings of a preset, with `changes` to them.

    Raises:
        ConfigError: there is no such preset, or the settings cannot be.
    """
    if name not in PRESETS:
        raise ConfigError(f"there is no preset {name!r}; give {', '.join(PRESETS)}")
    return FitSettings(**{**PRESETS[name], **changes})
