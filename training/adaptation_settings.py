"""What an adaptation can be told, checked once."""

from __future__ import annotations

import math
from dataclasses import dataclass

from stream_classifier.errors import ConfigError

__all__ = ["AdaptSettings"]


@dataclass(frozen=True, slots=True)
class AdaptSettings:
    """How a base is adapted; `training.adapt` has the base, the texts and the place.

    Raises:
        ConfigError: a value out of range, with the fix.
    """

    text_columns: tuple[str, ...] = ("text",)
    """Where the texts of a table are; several are texts apart."""
    epochs: int = 1
    """Passes over the texts."""
    learning_rate: float = 1e-4
    """The highest one, after the warm-up."""
    batch_size: int = 32
    """Pieces of text a step."""
    max_length: int = 128
    """Tokens of a piece; longer texts become several."""
    masked_share: float = 0.15
    """Share of the tokens that are to be guessed."""
    validation_share: float = 0.05
    """Share of the pieces kept apart for measuring."""
    checkpoint_steps: int | None = None
    """Steps between checkpoints. None: about every five minutes."""
    device: str = "auto"
    """"cpu" or "cuda"; "auto": a GPU where there is one."""
    dtype: str = "auto"
    """What layers compute in; "auto": the fastest."""
    seed: int = 0
    """Of the masks and the order."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed is {self.seed}; give a whole number from 0 to below {2**32}")
        for name in ("epochs", "batch_size", "max_length", "checkpoint_steps"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"{name} is {value!r}; give a whole number of at least 1")
        for name in ("masked_share", "validation_share", "learning_rate"):
            value = getattr(self, name)
            if not (math.isfinite(value) and 0 < value < 1):
                raise ConfigError(f"{name} is {value!r}; give one between 0 and 1")
