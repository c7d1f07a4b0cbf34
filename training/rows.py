"""Rows of a fit as Trainer wants them: a dict a text, and the collators that make padded batches of them.

A row has `input_ids` or, for a frozen encoder, `hidden`; and `label`: an index, or 0 and 1 for each label.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stream_classifier.model.protocols import TokenBatch
from training.losses import IGNORED
from training.sampling import FILLER

__all__ = ["Rows", "RowsDataset", "hidden_rows", "pad_hidden", "pad_tokens", "row_length", "token_rows"]

Rows = list[dict[str, Any]]
"""One dict a text: what the collator makes a batch of."""

Targets = NDArray[np.intp] | NDArray[np.float32]
"""As `data.label_targets` gives them."""


class RowsDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """Rows by index; `FILLER` is the first row with a label that no loss counts."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == FILLER:
            ignored = np.full_like(self._rows[0]["label"], IGNORED)
            return {**self._rows[0], "label": ignored}
        return self._rows[index]


def token_rows(tokens: TokenBatch, targets: Targets) -> Rows:
    """Rows of `input_ids` and `label`, for `pad_tokens`."""
    bounds = tokens.offsets
    return [
        {"input_ids": tokens.input_ids_T[bounds[i] : bounds[i + 1]], "label": label} for i, label in enumerate(targets)
    ]


def hidden_rows(hidden: Sequence[Tensor], targets: Targets) -> Rows:
    """Rows of `hidden`, `[tokens, width]`, and `label`, for `pad_hidden`."""
    return [{"hidden": states_SE, "label": label} for states_SE, label in zip(hidden, targets, strict=True)]


def row_length(row: dict[str, Any]) -> int:
    """Tokens of a row."""
    return len(row["input_ids"] if "input_ids" in row else row["hidden"])


def pad_tokens(rows: Sequence[dict[str, Any]], *, pad_id: int) -> dict[str, Tensor]:
    """Rows of `token_rows` to the inputs of a Hugging Face model, padded to the longest."""
    lengths_B = np.array([len(row["input_ids"]) for row in rows])
    real_BS = np.arange(int(lengths_B.max())) < lengths_B[:, None]
    ids_BS = np.full(real_BS.shape, pad_id, dtype=np.int64)
    ids_BS[real_BS] = np.concatenate([row["input_ids"] for row in rows])
    return {
        "input_ids": torch.from_numpy(ids_BS),
        "attention_mask": torch.from_numpy(real_BS.astype(np.int64)),
        "labels": _labels(rows),
    }


def pad_hidden(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Rows of `hidden_rows` to the inputs of `Tail`, padded to the longest."""
    lengths_B = torch.tensor([len(row["hidden"]) for row in rows])
    hidden_BSE = nn.utils.rnn.pad_sequence([row["hidden"] for row in rows], batch_first=True)
    return {
        "hidden_BSE": hidden_BSE,
        "real_BS": torch.arange(hidden_BSE.shape[1]) < lengths_B[:, None],
        "labels": _labels(rows),
    }


def _labels(rows: Sequence[dict[str, Any]]) -> Tensor:
    return torch.from_numpy(np.stack([row["label"] for row in rows]))
