"""Texts of mixed lengths: real ones where the datasets are, generated ones elsewhere.

Short messages and questions, news, and a few long articles: about 40 tokens on average, with a long tail.
"""

from __future__ import annotations

import csv
import math
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["from_csv", "length_distribution", "mixed"]

_SHARES = {"sms_spam": 0.36, "trec6": 0.20, "ag_news": 0.42, "bbc_news": 0.02}
_SEED = 40
_WORDS = ("the", "of", "and", "market", "team", "minister", "growth", "music", "film", "game", "season", "technology")


def mixed(count: int) -> tuple[list[str], str]:
    """`count` texts in random order, always the same ones, and where they are from.

    From the folder that STREAM_CLASSIFIER_DATASETS names, otherwise generated with log-normal lengths.
    """
    folder = os.environ.get("STREAM_CLASSIFIER_DATASETS")
    source = random.Random(_SEED)
    if not folder:
        return _generated(count, source), "generated, log-normal lengths"
    texts: list[str] = []
    for name, share in _SHARES.items():
        rows = from_csv(Path(folder) / name / "train.csv")
        texts += source.sample(rows, min(len(rows), math.ceil(share * count)))
    source.shuffle(texts)
    if len(texts) < count:
        raise ValueError(f"the datasets have {len(texts)} texts in these shares; ask for no more than that")
    return texts[:count], "real: " + ", ".join(f"{share:.0%} {name}" for name, share in _SHARES.items())


def from_csv(path: Path) -> list[str]:
    """The column `text` of a CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        return [row["text"] for row in csv.DictReader(file)]


def length_distribution(lengths: Sequence[int]) -> dict[str, Any]:
    """Mean and percentiles of token counts."""
    lengths_N = np.asarray(lengths)
    percentiles = {f"p{percent}": int(np.percentile(lengths_N, percent)) for percent in (5, 50, 90, 99)}
    return {"texts": len(lengths_N), "mean": float(lengths_N.mean()), **percentiles, "max": int(lengths_N.max())}


def _generated(count: int, source: random.Random) -> list[str]:
    num_words = (max(3, round(source.lognormvariate(3.3, 0.75))) for _ in range(count))
    return [" ".join(source.choices(_WORDS, k=number)) for number in num_words]
