"""Model directories with rows they were measured on, for tests of the report: no model runs, the logits are made up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.plugins.models import make_directory
from training.answers import Answers
from training.history import EpochRecord, TrainingHistory
from training.measured import DataSummary, Measured, PartSummary

__all__ = ["EVIL_LABELS", "make_answers", "make_history", "make_measured_directory"]

EVIL_LABELS = (
    "<script>alert(1)</script>",
    "a&b</td></table>",
    "$\\frac{1}{2$",
    '" onload="alert(2)',
    "猫 🙂 naïve",
    "line\u2028break \u202e backwards",
    "x" * 300,
)


def make_answers(
    labels: Sequence[str], *, number: int = 400, multi_label: bool = False, skill: float = 3.0, seed: int = 0
) -> Answers:
    """Answers of a calibrated model: evidence for each label that is `skill` deviations higher where it is right."""
    draw = np.random.default_rng(seed)
    num_labels = len(labels)
    if multi_label:
        true_NL = draw.random((number, num_labels)) < 0.3
    else:
        true_NL = np.arange(num_labels) == draw.integers(num_labels, size=(number, 1))
    evidence_NL = skill * (draw.normal(size=(number, num_labels)) + skill * true_NL)
    prior = np.log(0.3 / 0.7) - skill**2 / 2 if multi_label else 0.0
    logits_NL = (evidence_NL + prior).astype(np.float32)
    if multi_label:
        p_NL = 1 / (1 + np.exp(-logits_NL.astype(np.float64)))
        predicted_NL = p_NL >= 0.5
    else:
        p_NL = np.exp(logits_NL.astype(np.float64) - logits_NL.max(axis=1, keepdims=True))
        p_NL /= p_NL.sum(axis=1, keepdims=True)
        predicted_NL = np.arange(num_labels) == p_NL.argmax(axis=1)[:, None]
    return Answers(
        labels=tuple(labels),
        problem_type="multi_label_classification" if multi_label else "single_label_classification",
        logits_NL=logits_NL,
        p_NL=p_NL,
        true_NL=true_NL,
        predicted_NL=predicted_NL,
        scores_N=p_NL.max(axis=1),
        accepted_N=predicted_NL.any(axis=1),
        lengths_N=draw.integers(3, 60, size=number),
        length_unit="tokens",
        truncated_N=np.zeros(number, np.bool_),
    )


def make_history(
    train: Sequence[float] = (1.0, 0.5, 0.3),
    validation: Sequence[float] = (0.9, 0.5, 0.4),
    macro_f1: Sequence[float] = (0.7, 0.85, 0.9),
    *,
    max_epochs: int | None = None,
) -> TrainingHistory:
    """A history with these curves, the best epoch by macro-F1."""
    epochs = tuple(
        EpochRecord(
            epoch=i + 1,
            steps=10,
            train_loss=t,
            validation_loss=v,
            accuracy=f1,
            macro_f1=f1,
            learning_rate=1e-4 / (i + 1),
            grad_norm=1.0,
            max_grad_norm=2.0,
            tokens_per_s=None if i == 0 else 1000.0,
            seconds=3.0,
        )
        for i, (t, v, f1) in enumerate(zip(train, validation, macro_f1, strict=True))
    )
    best = max(epochs, key=lambda epoch: epoch.macro_f1).epoch
    return TrainingHistory(epochs, best, "macro_f1", max_epochs or len(epochs))


def make_measured_directory(
    path: Path,
    labels: Sequence[str],
    *,
    answers: Answers | None = None,
    content: Mapping[str, Any] | None = None,
    findings: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """A complete directory of a random model with everything a report is made from."""
    answers = make_answers(labels) if answers is None else answers
    training = {"base": "tiny", "epochs": 3, "figures": {"n": len(answers)}}
    make_directory(
        path,
        labels=labels,
        problem_type=answers.problem_type,
        content={"task": "free", "training": training} if content is None else content,
        golden_texts=(),
    )
    counts = dict(zip(labels, (answers.true_NL.sum(axis=0) * 5).tolist(), strict=True))
    part = PartSummary(sum(counts.values()), counts, num_skipped=3)
    tokens = {"median": 9, "p95": 30, "max": 80, "max_length": 64, "share_over": 0.01, "unknown_share": 0.002}
    data = DataSummary({"train": part, "validation": part}, tokens, tuple(findings))
    Measured(answers=answers, measured_on="validation", data=data).write(path)
    make_history().write(path)
    return path
