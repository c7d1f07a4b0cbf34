"""Labelled rows for a model with random weights: drawn from its own probabilities, so that its calibration is known."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from stream_classifier import Classifier
from stream_classifier.model.calibration import Calibration
from stream_classifier.model.publish import finish_directory
from tests.plugins.models import TEXTS, make_directory

__all__ = ["make_telling_directory", "random_texts", "write_honest_rows", "write_rows"]

LABELS = ("sport", "business", "politics")
_WORDS = sorted({word for text in TEXTS for word in text.split()})


def random_texts(number: int, *, seed: int = 0) -> list[str]:
    """Texts of 3 to 12 words that the tokenizers of `make_directory` know, no two equal."""
    generator = np.random.default_rng(seed)
    return [f"{' '.join(generator.choice(_WORDS, size=generator.integers(3, 12)))} {i}" for i in range(number)]


def make_telling_directory(
    path: Path,
    *,
    content: Mapping[str, Any],
    labels: Sequence[str] = LABELS,
    problem_type: str = "single_label_classification",
) -> Path:
    """A directory of a random model whose logits for `random_texts` have mean 0 and deviation 2 in each label."""
    make_directory(path, labels=labels, problem_type=problem_type)
    logits_NL = Classifier.load(path, dtype="float32").logits(random_texts(200, seed=9))
    weights = load_file(path / "model.safetensors")
    factor_L = 2 / logits_NL.std(axis=0)
    weights["classifier.weight"] *= factor_L[:, None]
    weights["classifier.bias"] = (weights["classifier.bias"] - logits_NL.mean(axis=0)) * factor_L
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    finish_directory(path, content, golden_texts=TEXTS)
    return path


def write_honest_rows(path: Path, model: Path, *, temperature: float, number: int = 600, seed: int = 1) -> Path:
    """A CSV of texts whose labels are drawn from softmax(z / temperature), z the raw logits of `model`."""
    classifier = Classifier.load(model, dtype="float32")
    texts = random_texts(number, seed=seed)
    p_NL = Calibration(classifier.problem_type, scale=1 / temperature).probabilities(classifier.logits(texts))
    draws_N1 = np.random.default_rng(seed).random((number, 1))
    drawn_N = (p_NL.cumsum(axis=1) > draws_N1).argmax(axis=1)
    return write_rows(path, texts, [classifier.labels[i] for i in drawn_N])


def write_rows(path: Path, texts: list[str], labels: list[str]) -> Path:
    """A CSV with the columns text and label."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows(zip(texts, labels, strict=True))
    return path
