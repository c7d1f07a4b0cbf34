"""What a compressed model may lose before it is refused; the measuring is in parity.py."""

from __future__ import annotations

import math
from dataclasses import dataclass

from stream_classifier.errors import ConfigError

__all__ = ["DISTILL_LIMITS", "ParityLimits"]


@dataclass(frozen=True, slots=True)
class ParityLimits:
    """What a compressed model may lose.

    Raises:
        ConfigError: a value out of range.
    """

    min_agreement: float = 0.99
    """Share of the texts that must get the same label (or set of labels) as before; 0: labels are not compared."""
    max_accuracy_loss: float = 0.01
    """Most accuracy that may be lost, as the upper 95 % bound of the paired difference."""
    max_ece_rise: float = 0.01
    """Most that the calibration error may rise, where it is above what chance alone shows."""
    max_coverage_loss: float = 0.05
    """Most coverage that may be lost at the stored thresholds."""
    min_speedup: float = 1.0
    """Texts per CPU second, as a multiple of what serves without it; 0: speed does not matter."""

    def __post_init__(self) -> None:
        for name in ("min_agreement", "max_accuracy_loss", "max_ece_rise", "max_coverage_loss"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise ConfigError(f"{name} is {value!r}; give a share from 0 to 1, such as 0.01")
        if not (math.isfinite(self.min_speedup) and self.min_speedup >= 0):
            raise ConfigError(f"min_speedup is {self.min_speedup!r}; give 0, or a factor such as 1.2")


DISTILL_LIMITS = ParityLimits(min_agreement=0.0, max_accuracy_loss=0.02, max_ece_rise=0.02, max_coverage_loss=0.1)
"""Of a student: it need not make its teacher's mistakes, and may lose more than the same weights in int8."""
