"""README.md of a model directory: a short model card in the Hub's format, made of what classifier.json says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stream_classifier.model import directory
from stream_classifier.model.calibration import SINGLE_LABEL, Calibration
from stream_classifier.model.publish import file_aside

__all__ = ["CARD_NAME", "model_card", "write_card"]

CARD_NAME = "README.md"
_MAX_LABELS = 100
_FIGURES = {"accuracy": "accuracy", "macro_f1": "macro-F1", "nll": "negative log-likelihood",
            "ece": "calibration error", "ece_noise_floor": "by chance alone"}  # fmt: skip
_SHARES = ("accuracy", "macro_f1", "ece", "ece_noise_floor")


def write_card(path: Path, content: Mapping[str, Any], *, name: str) -> None:
    """Writes README.md of the directory at `path`, whose classifier.json is written; a reader never sees half of it."""
    card = model_card(name, labels=directory.read(path).labels, content=content)
    with file_aside(path / CARD_NAME) as aside:
        aside.write_text(card, "utf-8")


def model_card(name: str, *, labels: Sequence[str], content: Mapping[str, Any]) -> str:
    """The card's text.

    Args:
        name: of the model.
        labels: of the model.
        content: of classifier.json; `training` has the base, the settings, the figures and the rows they are of.
    """
    training: Mapping[str, Any] = content.get("training") or {}
    shown = ", ".join(f"`{label}`" for label in labels[:_MAX_LABELS])
    more = f" and {len(labels) - _MAX_LABELS} more" if len(labels) > _MAX_LABELS else ""
    raw = "raw logits, before the calibration that `classifier.json` holds"
    stored = content.get("calibration") or {}
    applied = Calibration(SINGLE_LABEL, scale=stored.get("scale", 1.0), bias=stored.get("bias", 0.0))
    logits = "logits of these probabilities" if applied.is_identity else raw
    sections = [
        f"# {name}",
        f"Tells {len(labels)} labels apart: {shown}{more}.{_origin(training)}",
        *_figures(training),
        *_calibration(content.get("calibration")),
        *_thresholds(content.get("thresholds")),
        "## Use",
        f"    from stream_classifier import Classifier\n    predictions = Classifier.load({name!r})(['a text'])",
        "It is an ordinary Hugging Face model too: "
        f'`AutoModelForSequenceClassification.from_pretrained("{name}")` gives the\n'
        f"{logits}. `golden.jsonl` holds a few texts with their logits.",
        *_settings(training),
    ]
    front = "---\nlibrary_name: transformers\npipeline_tag: text-classification\ntags: [stream-classifier]\n---"
    return "\n\n".join([front, *sections]) + "\n"


def _origin(training: Mapping[str, Any]) -> str:
    if "base" not in training:
        return ""
    command, teacher = "fit", ""
    if "teacher" in training:
        command, teacher = "distill", f", taught by `{training['teacher']}`"
    return f" Trained from `{training['base']}` with `stream-training {command}`{teacher}."


def _figures(training: Mapping[str, Any]) -> list[str]:
    figures: Mapping[str, Any] | None = training.get("figures")
    if not figures:
        return []
    rows = training.get("measured_on", "test")
    head = [f"{rows} rows", *_FIGURES.values()]
    cells = [str(figures.get("n", "–")), *(_cell(name, figures.get(name)) for name in _FIGURES)]
    notes = []
    if training.get("refit_all") and rows != "test":
        notes.append("They are those of a model that had not seen these rows; this one was trained on them as well.")
    if rows != "test":
        notes.append("These rows also chose the epoch, so new texts may do worse.")
    if any(figures.get(name) is None for name in _FIGURES):
        notes.append(
            "What calibration or thresholds changed since is not shown; `stream-training evaluate` measures it again."
        )
    return [_table(head, [cells]), *([" ".join(notes)] if notes else [])]


def _calibration(calibration: Mapping[str, Any] | None) -> list[str]:
    if not calibration or calibration.get("method") == "none":
        return []
    fitted_on = calibration.get("fitted_on") or {}
    where = f", fitted on {fitted_on['n']} rows of {fitted_on['rows']}" if "n" in fitted_on else ""
    lines = [f"Method {calibration['method']}{where}."]
    if "nll_before" in fitted_on:
        lines.append(
            f"Negative log-likelihood {fitted_on['nll_before']:.3f} before and {fitted_on['nll_after']:.3f} after, "
            f"calibration error {100 * fitted_on['ece_before']:.2f} % and {100 * fitted_on['ece_after']:.2f} %, "
            "cross-fitted."
        )
    if priors := fitted_on.get("priors"):
        lines.append(
            "For a stream with these shares: " + ", ".join(f"{k} {100 * v:.2f} %" for k, v in priors.items()) + "."
        )
    return ["## Calibration", "\n".join(lines)]


def _thresholds(thresholds: Mapping[str, Any] | None) -> list[str]:
    if not thresholds:
        return []
    rows = []
    if thresholds.get("default") is not None:
        rows.append(["all labels", f"{thresholds['default']:.4f}"])
    rows += [[f"`{label}`", f"{value:.4f}"] for label, value in (thresholds.get("labels") or {}).items()]
    if thresholds.get("operating_point") is not None:
        rows.append(["operating point", f"{thresholds['operating_point']:.4f}"])
    if rejection := thresholds.get("rejection"):
        rows.append([f"out of scope below ({rejection['score']})", f"{rejection['threshold']:.4f}"])
    if not rows:
        return []
    goal = (thresholds.get("tuned_for") or {}).get("goal") if isinstance(thresholds.get("tuned_for"), dict) else None
    return ["## Thresholds", *([f"Tuned for {goal}."] if goal else []), _table(["of", "threshold"], rows)]


def _settings(training: Mapping[str, Any]) -> list[str]:
    rows = [[key, str(value)] for key, value in training.items() if not isinstance(value, dict)]
    return ["## Training", _table(["", ""], rows)] if rows else []


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.2f} %" if name in _SHARES else f"{value:.3f}"
