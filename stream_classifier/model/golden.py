"""golden.jsonl: a few texts with the logits they had in fp32 on a CPU, replayed where the model is loaded.

They catch what a checksum cannot: a backend, a device or a library version that answers differently. Running the model
is for classifier.py; here are the file and the comparison.

    L labels, N cases.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_classifier.errors import ModelDirectoryError

__all__ = [
    "GOLDEN_NAME",
    "GoldenCase",
    "GoldenReport",
    "compare",
    "read_golden",
    "sample",
    "tolerance",
    "unsteady",
    "write_golden",
]

GOLDEN_NAME = "golden.jsonl"
_TOLERANCES = {"float64": 1e-3, "float32": 1e-3, "bfloat16": 1e-2, "float16": 1e-2}


@dataclass(frozen=True, slots=True)
class GoldenCase:
    """One text with what the model said of it.

    Attributes:
        text: the text, whole.
        logits: the raw fp32 logits, one a label, before calibration.
        margin: the difference between the two best probabilities, after calibration; 1.0 when there is one label.
    """

    text: str
    logits: tuple[float, ...]
    margin: float


@dataclass(frozen=True, slots=True)
class GoldenReport:
    """How a replay went.

    Attributes:
        num_cases: cases replayed.
        failed: indices of the cases that do not hold, among those replayed.
        max_difference: the largest |Δp| seen.
        tolerance: the largest |Δp| allowed.
    """

    num_cases: int
    failed: tuple[int, ...]
    max_difference: float
    tolerance: float

    def __str__(self) -> str:
        return (
            f"{len(self.failed)} of {self.num_cases} golden cases differ "
            f"(largest difference of a probability {self.max_difference:.2g}, allowed {self.tolerance:g})"
        )


def tolerance(dtype: str) -> float:
    """The largest |Δp| that a backend computing in `dtype` may show against fp32 on a CPU."""
    return _TOLERANCES[dtype]


def sample(cases: Sequence[GoldenCase], num_cases: int) -> list[GoldenCase]:
    """At most `num_cases`, spread evenly over the file: always the same ones."""
    if len(cases) <= num_cases:
        return list(cases)
    return [cases[round(i * (len(cases) - 1) / max(1, num_cases - 1))] for i in range(num_cases)]


def compare(
    cases: Sequence[GoldenCase],
    logits_NL: NDArray[Any],
    *,
    probabilities: Callable[[NDArray[Any]], NDArray[Any]],
    allowed: float,
) -> GoldenReport:
    """Holds the logits seen now against the golden ones.

    A case holds when no probability differs by more than `allowed` and, where the golden margin is more than twice
    that, the best label is the same. The margin is taken from the logits, not from the file, so that a calibration
    changed after the cases were written does not make it stale.

    Args:
        cases: N cases.
        logits_NL: what the model says of their texts now, float `[N, L]`.
        probabilities: maps logits `[N, L]` to probabilities `[N, L]`.
        allowed: the largest |Δp|.
    """
    golden_NL = probabilities(np.array([case.logits for case in cases], dtype=np.float64).reshape(logits_NL.shape))
    seen_NL = probabilities(logits_NL.astype(np.float64))
    with np.errstate(invalid="ignore"):
        difference_N = np.abs(seen_NL - golden_NL).max(axis=1, initial=0.0)
    difference_N[~np.isfinite(seen_NL).all(axis=1)] = np.inf
    same_N = seen_NL.argmax(axis=1) == golden_NL.argmax(axis=1)
    holds_N = (difference_N <= allowed) & (same_N | (_margins(golden_NL) <= 2 * allowed))
    return GoldenReport(
        len(cases), tuple(int(i) for i in np.flatnonzero(~holds_N)), float(difference_N.max(initial=0.0)), allowed
    )


def unsteady(
    logits_NL: NDArray[Any], rounded_NL: NDArray[Any], *, probabilities: Callable[[NDArray[Any]], NDArray[Any]]
) -> NDArray[np.bool_]:
    """Bool `[N]`: whose probabilities rounding to bfloat16 alone moves by more than half of what is allowed there.

    Such a text is no golden case: with it a healthy model would differ from itself on another machine. It lies near
    a tie, where p·(1 - p) is large. `rounded_NL` are the logits in bfloat16.
    """
    difference_NL = np.abs(probabilities(rounded_NL) - probabilities(logits_NL))
    unsteady_N: NDArray[np.bool_] = difference_NL.max(axis=1, initial=0.0) > tolerance("bfloat16") / 2
    return unsteady_N


def read_golden(path: Path, *, num_labels: int) -> tuple[GoldenCase, ...]:
    """The cases of a golden.jsonl.

    Raises:
        ModelDirectoryError: a line that is not a case of `num_labels` finite logits.
    """
    fix = "write it again with the model directory"
    try:
        lines = path.read_text("utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise ModelDirectoryError(path, f"it cannot be read ({type(error).__name__})", fix) from error
    cases = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            case = _case(json.loads(line))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            problem = f"line {number} is not a golden case with text, logits and margin ({type(error).__name__})"
            raise ModelDirectoryError(path, problem, fix) from error
        if len(case.logits) != num_labels or not np.isfinite(case.logits).all():
            problem = f"line {number} has {len(case.logits)} logits, the model has {num_labels} labels"
            if len(case.logits) == num_labels:
                problem = f"line {number} has a logit that is not finite"
            raise ModelDirectoryError(path, problem, fix)
        cases.append(case)
    return tuple(cases)


def write_golden(
    path: Path, texts: Sequence[str], logits_NL: NDArray[np.float32], probabilities_NL: NDArray[Any]
) -> None:
    """Writes one case a text. `logits_NL` are raw, from fp32 on a CPU; the margins are those of `probabilities_NL`."""
    if not len(texts) == len(logits_NL) == len(probabilities_NL):
        raise ValueError(f"{len(texts)} texts, {len(logits_NL)} logits and {len(probabilities_NL)} probabilities")
    lines = [
        json.dumps({"text": text, "logits": [float(z) for z in logits], "margin": float(margin)}, ensure_ascii=True)
        for text, logits, margin in zip(texts, logits_NL, _margins(probabilities_NL), strict=True)
    ]
    path.write_text("".join(line + "\n" for line in lines), "utf-8")


def _case(value: Any) -> GoldenCase:
    if not isinstance(value["text"], str):
        raise TypeError("text")
    return GoldenCase(value["text"], tuple(float(z) for z in value["logits"]), float(value["margin"]))


def _margins(probabilities_NL: NDArray[Any]) -> NDArray[Any]:
    if probabilities_NL.shape[1] < 2:
        return np.ones(len(probabilities_NL))
    best_two_N2 = np.partition(probabilities_NL, -2, axis=1)[:, -2:]
    return best_two_N2[:, 1] - best_two_N2[:, 0]
