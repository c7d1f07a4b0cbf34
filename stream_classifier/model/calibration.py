"""Logits to probabilities: softmax or sigmoid of scale·z + bias, in float64.

Fitting scale and bias is `training`'s business, deciding on the probabilities that of `decision`. The weights of a
model stay raw: the calibration of its `classifier.json` is applied here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stream_classifier.errors import ConfigError

__all__ = ["MULTI_LABEL", "SINGLE_LABEL", "Calibration"]

SINGLE_LABEL = "single_label_classification"
MULTI_LABEL = "multi_label_classification"


@dataclass(frozen=True, slots=True)
class Calibration:
    """How the logits of a model become probabilities. Checked once, here; the default changes nothing.

    Attributes:
        problem_type: "single_label_classification" (softmax: each row sums to 1), or "multi_label_classification"
            (sigmoid).
        method: how scale and bias were found ("none", "temperature", …); for people, never acted on.
        scale: factor of the logits (1 / temperature), positive; one number, or one for each label.
        bias: added to the scaled logits; one number, or one for each label.

    Raises:
        ConfigError: another problem type, a scale that is not positive, a value that is not finite, lists that differ
            in length.
    """

    problem_type: str
    method: str = "none"
    scale: float | Sequence[float] = 1.0
    bias: float | Sequence[float] = 0.0

    def __post_init__(self) -> None:
        if self.problem_type not in (SINGLE_LABEL, MULTI_LABEL):
            raise ConfigError(
                f"problem_type is {self.problem_type!r}; a classifier has {SINGLE_LABEL!r} or {MULTI_LABEL!r}: "
                "set it in config.json"
            )
        scale = _numbers("scale", self.scale)
        bias = _numbers("bias", self.bias)
        if not (scale > 0).all():
            raise ConfigError(
                f"calibration scale is {self.scale!r}; it must be positive (1 / temperature): calibrate the model again"
            )
        if scale.ndim and bias.ndim and len(scale) != len(bias):
            raise ConfigError(
                f"calibration has {len(scale)} values of scale but {len(bias)} of bias: "
                "give one number, or one for each label"
            )

    @property
    def is_identity(self) -> bool:
        """Whether it changes nothing: the probabilities are those of the raw logits."""
        return bool((np.asarray(self.scale) == 1).all() and (np.asarray(self.bias) == 0).all())

    def check_labels(self, num_labels: int) -> None:
        """Refuse a calibration made for another number of labels.

        Raises:
            ConfigError: scale or bias is a list whose length is not `num_labels`.
        """
        for name, values in (("scale", self.scale), ("bias", self.bias)):
            if np.ndim(values) and np.size(values) != num_labels:
                raise ConfigError(
                    f"calibration {name} has {np.size(values)} values but the model has {num_labels} labels: "
                    "calibrate the model again"
                )

    def probabilities(self, logits_NL: ArrayLike) -> NDArray[np.float64]:
        """Probabilities of N texts, float64 `[N, L]`, each row from its own logits alone.

        A row with a logit that is NaN or infinite, or overflows when scaled, is NaN throughout; finite logits, however
        large, give finite probabilities.

            >>> Calibration("single_label_classification").probabilities([[0.0, 0.0]]).tolist()
            [[0.5, 0.5]]
        """
        z_NL = np.array(logits_NL, dtype=np.float64, ndmin=2)
        # exp() of a very negative number is 0 and of a very large one infinite: both are what the formulas below want.
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            z_NL *= np.asarray(self.scale, dtype=np.float64)
            z_NL += np.asarray(self.bias, dtype=np.float64)
            finite_N = np.isfinite(z_NL).all(axis=1)
            if self.problem_type == MULTI_LABEL:
                probabilities_NL: NDArray[np.float64] = 1.0 / (1.0 + np.exp(-z_NL))
            else:
                z_NL -= z_NL.max(axis=1, keepdims=True, initial=-np.inf)
                probabilities_NL = np.exp(z_NL)
                probabilities_NL /= probabilities_NL.sum(axis=1, keepdims=True)
        if not finite_N.all():
            probabilities_NL[~finite_N] = np.nan
        return probabilities_NL


def _numbers(name: str, value: float | Sequence[float]) -> NDArray[np.float64]:
    try:
        numbers = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"calibration {name} is {value!r}: give one number, or one for each label") from error
    if numbers.ndim > 1 or not numbers.size or not np.isfinite(numbers).all():
        raise ConfigError(f"calibration {name} is {value!r}: give one finite number, or one for each label")
    return numbers
