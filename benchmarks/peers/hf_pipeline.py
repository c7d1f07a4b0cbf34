"""The Hugging Face pipeline: texts in the order they arrive, in batches of 32, padded to the longest of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import pipeline

__all__ = ["HuggingFacePipeline"]

BATCH_SIZE = 32


class HuggingFacePipeline:
    """`transformers.pipeline("text-classification", batch_size=32)` on a model directory.

    Args:
        directory: the model.
        labels: in the order of the probabilities that are wanted.
        device: "cpu" or "cuda".
        dtype: of the weights; float32 is what the pipeline takes unasked.
    """

    def __init__(
        self, directory: Path, labels: Sequence[str], *, device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        self._index = {label: index for index, label in enumerate(labels)}
        self._pipeline: Any = pipeline(
            "text-classification",
            model=str(directory),
            device=device,
            dtype=dtype,
            batch_size=BATCH_SIZE,
            truncation=True,
            top_k=None,
        )

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Probabilities, `[texts, labels]`."""
        answers = self._pipeline(list(texts))
        probabilities_NL = np.empty((len(texts), len(self._index)))
        for row, answer in enumerate(answers):
            for item in answer:
                probabilities_NL[row, self._index[item["label"]]] = item["score"]
        return probabilities_NL
