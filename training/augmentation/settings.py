"""How rows are made from rows, checked once before anything is read or loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stream_classifier.errors import ConfigError
from training.augmentation.noise import NOISE
from training.data import Columns

__all__ = ["METHODS", "RATES", "AugmentSettings"]

METHODS = (*NOISE, "masked", "translation")
"""What a row can be made by."""

RATES: Mapping[str, float] = {"typing": 0.05, "case": 0.2, "drop": 0.1, "swap": 0.1, "masked": 0.15}
"""How much a method changes where nothing is said: a share of the letters (typing) or of the words."""


@dataclass(frozen=True, slots=True)
class AugmentSettings:
    """How rows are made.

    Raises:
        ConfigError: a value out of range, a method without what it needs, or what no method needs.
    """

    methods: tuple[str, ...] = ()
    """Taken in turn. None named: all noise, and what models are given for."""
    copies: int = 1
    """Rows made from each row; as many as there are methods gives one of each."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """Share of the letters (typing) or words that a method changes. Not named: typing 0.05, case 0.2, drop 0.1,
    swap 0.1, masked 0.15."""
    masked_model: Path | None = None
    """For "masked": a directory with a masked-language head, best one that `adapt` trained on such texts."""
    translate_with: Path | None = None
    """For "translation": the model that translates into another language."""
    translate_back_with: Path | None = None
    """For "translation": the model that translates back."""
    columns: Columns = field(default_factory=Columns)
    """Where texts and labels are."""
    seed: int = 0
    """Equal seeds make equal rows."""

    def __post_init__(self) -> None:
        for method in self.methods:
            if method not in METHODS:
                raise ConfigError(f"the method {method!r} is not known; give some of {', '.join(METHODS)}")
        if isinstance(self.copies, bool) or not 1 <= self.copies <= 100:
            raise ConfigError(f"copies is {self.copies!r}; give a number from 1 to 100")
        for name, rate in self.rates.items():
            if not 0 < rate <= 1:
                raise ConfigError(f"the rate of {name} is {rate!r}; give one above 0 and at most 1, such as 0.1")
        if "masked" in self.methods and self.masked_model is None:
            raise ConfigError("the method masked needs a model; give --masked-model DIRECTORY")
        if (self.translate_with is None) != (self.translate_back_with is None):
            raise ConfigError("a translation needs two models; give --translate-with and --translate-back-with")
        if "translation" in self.methods and self.translate_with is None:
            raise ConfigError("the method translation needs --translate-with and --translate-back-with")
        models = {"masked": self.masked_model, "translation": self.translate_with}
        self._check_used("the rate", self.rates)
        self._check_used("a model", [method for method, model in models.items() if model is not None])

    def _check_used(self, what: str, methods: Iterable[str]) -> None:
        for method in methods:
            if method not in self.methods_in_turn:
                chosen = ", ".join(self.methods_in_turn)
                fix = f"add {method} to --methods, or leave it out"
                raise ConfigError(f"{what} of {method} is given, and the methods are {chosen}; {fix}")

    @property
    def methods_in_turn(self) -> tuple[str, ...]:
        """`methods`, or what can be done without more."""
        if self.methods:
            return self.methods
        masked = () if self.masked_model is None else ("masked",)
        return (*NOISE, *masked, *(() if self.translate_with is None else ("translation",)))

    def rate(self, method: str) -> float:
        """The rate of a method."""
        return self.rates.get(method, RATES[method])
