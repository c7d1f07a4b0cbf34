"""Answers of imaginary models, drawn so that what is true of them is known. N texts, L labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stream_classifier.model.calibration import MULTI_LABEL, SINGLE_LABEL, Calibration
from training.answers import Answers, one_hot

__all__ = ["answers_of", "drawn_logits"]


def answers_of(
    logits_NL: NDArray[np.float64],
    true: NDArray[np.intp] | NDArray[np.bool_],
    *,
    threshold: float | None = None,
    labels: tuple[str, ...] | None = None,
    calibration: Calibration | None = None,
) -> Answers:
    """Decided as `Classifier` does: `true` are indices `[N]`, or bool `[N, L]` for a multi-label model."""
    num_texts, num_labels = logits_NL.shape
    multi_label = true.ndim == 2
    problem_type = MULTI_LABEL if multi_label else SINGLE_LABEL
    p_NL = (calibration or Calibration(problem_type)).probabilities(logits_NL)
    scores_N = p_NL.max(axis=1)
    if multi_label:
        predicted_NL = p_NL >= (0.5 if threshold is None else threshold)
        accepted_N = predicted_NL.any(axis=1)
    else:
        predicted_NL = one_hot(p_NL.argmax(axis=1), num_labels)
        accepted_N = scores_N >= (threshold or 0.0)
    return Answers(
        labels=labels or tuple(f"label {i}" for i in range(num_labels)),
        problem_type=problem_type,
        logits_NL=logits_NL.astype(np.float32),
        p_NL=p_NL,
        true_NL=true.astype(np.bool_) if multi_label else one_hot(true.astype(np.intp), num_labels),
        predicted_NL=predicted_NL,
        scores_N=scores_N,
        accepted_N=accepted_N,
        lengths_N=np.arange(num_texts) % 50 + 3,
        length_unit="tokens",
        truncated_N=np.zeros(num_texts, np.bool_),
    )


def drawn_logits(
    num_texts: int, num_labels: int, *, seed: int = 0, spread: float = 2.0
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Logits `[N, L]` of a model that is perfectly calibrated, and the labels `[N]` drawn from its probabilities."""
    generator = np.random.default_rng(seed)
    logits_NL = generator.normal(scale=spread, size=(num_texts, num_labels))
    p_NL = Calibration(SINGLE_LABEL).probabilities(logits_NL)
    true_N = (p_NL.cumsum(axis=1) > generator.random((num_texts, 1))).argmax(axis=1)
    return logits_NL, true_N
