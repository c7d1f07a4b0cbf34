"""`reference` of classifier.json: rows as the finished model reads and answers them, counted, to tell drift by.

No text is in it, and nothing that differs between two equal fits.

    N texts, L labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_classifier.model.calibration import MULTI_LABEL
from stream_classifier.model.protocols import TokenBatch
from training.answers import Answers

__all__ = ["reference_of", "without_stale_answers"]

_NUM_SCORE_BINS = 20
_LENGTH_BOUNDS = tuple(2**power for power in range(2, 14))


def reference_of(answers: Answers, tokens: TokenBatch, *, unknown_id: int | None, rows: str) -> dict[str, Any]:
    """The JSON object.

    A value belongs to the first bound that it does not exceed, as in the histograms of /metrics.

    Args:
        answers: with the calibration and thresholds that will serve.
        tokens: of the same texts, as the model reads them.
        unknown_id: of the token for what the vocabulary does not have; None: there is none.
        rows: what the texts are called.
    """
    score_bounds = np.arange(1, _NUM_SCORE_BINS) / _NUM_SCORE_BINS  # that of the last bin is 1
    shares_L = answers.predicted_NL.mean(axis=0).tolist()
    return {
        "rows": rows,
        "n": len(answers),
        "labels": dict(zip(answers.labels, shares_L, strict=True)),
        "scores": _counts(answers.scores_N, score_bounds),
        "lengths": {
            "bounds": list(_LENGTH_BOUNDS),
            "counts": _counts(tokens.lengths_N, np.array(_LENGTH_BOUNDS)),
            "truncated": float(tokens.truncated_N.mean()),
        },
        "unknown_tokens": 0.0 if unknown_id is None else float((tokens.input_ids_T == unknown_id).mean()),
    }


def without_stale_answers(
    content: Mapping[str, Any], before: Mapping[str, Any], *, problem_type: str
) -> dict[str, Any]:
    """The content of a classifier.json less what other thresholds than those of `before` make untrue of `reference`.

    With one label a text an operating point decides which label is given, and so whose probability the score is. With
    several, the thresholds decide which are; the score is that of the best label whatever they are. All else about the
    rows stays true.
    """
    reference = content.get("reference")
    same = _deciding(content, problem_type) == _deciding(before, problem_type)
    if same or not isinstance(reference, Mapping):
        return dict(content)
    stale = ("labels",) if problem_type == MULTI_LABEL else ("labels", "scores")
    return {**content, "reference": {key: value for key, value in reference.items() if key not in stale}}


def _deciding(content: Mapping[str, Any], problem_type: str) -> Any:
    """What decides which labels are given."""
    thresholds = content.get("thresholds") or {}
    if problem_type == MULTI_LABEL:
        return thresholds.get("default"), thresholds.get("labels") or {}
    point = thresholds.get("operating_point")
    return None if point is None else (point, content.get("positive_label"))


def _counts(values_N: NDArray[Any], bounds: NDArray[Any]) -> list[int]:
    """How many values are in each bin; one bin more than bounds, the last is for what exceeds them all."""
    counts: list[int] = np.bincount(np.searchsorted(bounds, values_N), minlength=len(bounds) + 1).tolist()
    return counts
