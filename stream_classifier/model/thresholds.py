"""The threshold of each label, from what the settings and the model directory say.

Settings over model over a default; comparing scores with them is the business of `decision`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from stream_classifier.errors import ConfigError
from stream_classifier.model.labels import index_of

__all__ = ["check_probability", "resolve_thresholds"]

logger = logging.getLogger(__name__)


def resolve_thresholds(
    labels: Sequence[str],
    *,
    default: float,
    threshold: float | None = None,
    thresholds: Mapping[str, float] | None = None,
    model_threshold: float | None = None,
    model_thresholds: Mapping[str, float] | None = None,
) -> NDArray[np.float64]:
    """What each label's probability must reach to be accepted, `[L]` in 0-1.

    On each level `thresholds` says it for single labels and `threshold` for the others; a `threshold` of the settings
    stands for all labels, also those for which the model has one of their own (that is logged as a warning).

        >>> resolve_thresholds(["ham", "spam"], default=0.0, threshold=0.5, thresholds={"spam": 0.9}).tolist()
        [0.5, 0.9]

    Raises:
        ConfigError: a value outside 0-1, a label that the model doesn't have.
    """
    thresholds, model_thresholds = thresholds or {}, model_thresholds or {}
    resolved_L = np.full(len(labels), default, dtype=np.float64)
    if model_threshold is not None:
        resolved_L[:] = check_probability(model_threshold, setting="thresholds.default of the model")
    _override(resolved_L, model_thresholds, labels, setting="thresholds.labels of the model")
    if threshold is not None:
        resolved_L[:] = check_probability(threshold, setting="threshold")
        num_replaced = len(model_thresholds.keys() - thresholds.keys())
        if num_replaced:
            logger.warning(
                "threshold = %s replaces the model's own thresholds of %d labels; "
                "set `thresholds` for single labels instead to keep the others",
                threshold,
                num_replaced,
            )
    _override(resolved_L, thresholds, labels, setting="thresholds")
    return resolved_L


def check_probability(value: float, *, setting: str) -> float:
    """`value` as a float.

    Raises:
        ConfigError: it is no number in 0-1.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0 <= value <= 1:
        is_percentage = isinstance(value, (int, float)) and math.isfinite(value) and 1 < value <= 100
        fix = f"write {value / 100:g} for {value:g} %" if is_percentage else "give a number between 0 and 1"
        raise ConfigError(f"{setting} = {value!r}: a threshold is a probability, 0 to 1; {fix}")
    return float(value)


def _override(
    resolved_L: NDArray[np.float64], thresholds: Mapping[str, float], labels: Sequence[str], *, setting: str
) -> None:
    for label, value in thresholds.items():
        resolved_L[index_of(label, labels, setting=setting)] = check_probability(value, setting=f"{setting}.{label}")
