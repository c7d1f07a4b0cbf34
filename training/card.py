"""README.md of a model directory: a short model card in the Hub's format."""

from __future__ import annotations

from typing import Any

from training.evaluation import Evaluation

__all__ = ["model_card"]

_MAX_LABELS = 100


def model_card(name: str, *, base: str, evaluation: Evaluation, measured_on: str, training: dict[str, Any]) -> str:
    """The card's text.

    Args:
        name: of the model.
        base: what it was trained from.
        evaluation: its figures.
        measured_on: "test" or "validation": the rows of the figures.
        training: the summary of classifier.json.
    """
    labels = evaluation.labels
    shown = ", ".join(f"`{label}`" for label in labels[:_MAX_LABELS])
    more = f" and {len(labels) - _MAX_LABELS} more" if len(labels) > _MAX_LABELS else ""
    note = "" if measured_on == "test" else " These rows also chose the epoch, so new texts may do worse."
    settings = "\n".join(f"| {key} | {value} |" for key, value in training.items() if not isinstance(value, dict))
    return f"""---
library_name: transformers
pipeline_tag: text-classification
tags: [stream-classifier]
---

# {name}

Puts a text in one of {len(labels)} labels: {shown}{more}. Trained from `{base}` with `stream-training fit`.

| {measured_on} rows | accuracy | macro-F1 | negative log-likelihood | calibration error (noise floor) |
|---|---|---|---|---|
| {evaluation.n} | {evaluation.accuracy:.2%} | {evaluation.macro_f1:.2%} | {evaluation.nll:.3f} | \
{evaluation.ece:.2%} ({evaluation.ece_noise_floor:.2%}) |
{note}
## Use

    from stream_classifier import Classifier
    predictions = Classifier.load("{name}")(["a text"])

It is an ordinary Hugging Face model too: `AutoModelForSequenceClassification.from_pretrained("{name}")` gives the raw
logits, before the calibration that `classifier.json` holds. `golden.jsonl` holds a few texts with their logits.

## Training

| | |
|---|---|
{settings}
"""
