"""The seams of a model: what `model=` accepts, and what a backend runs.

TextModel is the outer seam (texts to scores); TokenModel the one that can be tokenized on its own thread and batched by
tokens; Backend the inner one, a model directory's weights loaded. All are checked by tests/contract.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = ["Backend", "ProbabilityModel", "TextModel", "TokenBatch", "TokenModel"]


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Ragged token ids of N texts, concatenated; no padding.

    Attributes:
        input_ids_T: int32 `[tokens]`, the ids of all texts one after the other, special tokens included.
        offsets: int32 `[N + 1]`; text i is `input_ids_T[offsets[i]:offsets[i + 1]]`.
        truncated_N: bool `[N]`, whether the text was longer than the model reads.
    """

    input_ids_T: NDArray[np.int32]
    offsets: NDArray[np.int32]
    truncated_N: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths_N(self) -> NDArray[np.int32]:
        """Tokens of each text, int32 `[N]`."""
        return np.diff(self.offsets)

    def take(self, indices: Sequence[int] | NDArray[Any]) -> TokenBatch:
        """The texts at `indices`, in that order."""
        offsets = self.offsets
        parts = [self.input_ids_T[offsets[i] : offsets[i + 1]] for i in indices]
        return TokenBatch.from_lists(parts, self.truncated_N[np.asarray(indices, dtype=np.intp)])

    def padded(self, pad_id: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Ids int64 `[N, S]`, S tokens of the longest text, and bool `[N, S]`: True for tokens, False for padding."""
        lengths_N = self.lengths_N
        real_NS = np.arange(int(lengths_N.max())) < lengths_N[:, None]
        ids_NS = np.full(real_NS.shape, pad_id, dtype=np.int64)
        ids_NS[real_NS] = self.input_ids_T
        return ids_NS, real_NS

    @classmethod
    def from_lists(cls, ids: Sequence[Any], truncated: Sequence[bool] | NDArray[np.bool_]) -> TokenBatch:
        """From one sequence of ids a text."""
        offsets = np.zeros(len(ids) + 1, dtype=np.int32)
        np.cumsum([len(text_ids) for text_ids in ids], out=offsets[1:])
        flat = np.concatenate([np.asarray(i, dtype=np.int32) for i in ids]) if len(ids) else np.empty(0, np.int32)
        return cls(flat, offsets, np.asarray(truncated, dtype=np.bool_))

    @classmethod
    def concatenate(cls, batches: Sequence[TokenBatch]) -> TokenBatch:
        """All texts of `batches`, in order."""
        if len(batches) == 1:
            return batches[0]
        starts = np.cumsum([0, *(len(batch.input_ids_T) for batch in batches)])
        offsets = [batch.offsets[1:] + start for batch, start in zip(batches, starts[:-1], strict=True)]
        return cls(
            np.concatenate([batch.input_ids_T for batch in batches]),
            np.concatenate([np.zeros(1, np.int32), *offsets]).astype(np.int32),
            np.concatenate([batch.truncated_N for batch in batches]),
        )


@runtime_checkable
class TextModel(Protocol):
    """Texts to logits. Called on the inference thread, never on the event loop."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in the order of the logits."""

    @property
    def problem_type(self) -> str:
        """ "single_label_classification" or "multi_label_classification"."""

    def logits(self, texts: Sequence[str]) -> NDArray[Any]:
        """Float `[len(texts), len(labels)]`, row i for text i."""


@runtime_checkable
class ProbabilityModel(TextModel, Protocol):
    """A TextModel that already knows its probabilities: they are taken as they are, without softmax or calibration."""

    def probabilities(self, texts: Sequence[str]) -> NDArray[Any]:
        """Float `[len(texts), len(labels)]` in 0-1, row i for text i."""


@runtime_checkable
class TokenModel(TextModel, Protocol):
    """A TextModel in two halves, so that tokenizing and the forward pass overlap and batches are counted in tokens."""

    def encode(self, texts: Sequence[str]) -> TokenBatch:
        """Token ids, one entry a text. Thread-safe against `forward`."""

    def forward(self, batch: TokenBatch) -> NDArray[Any]:
        """Logits, float32 `[len(batch), len(labels)]`. Called on the inference thread alone.

        Raises:
            TransientError: out of memory; the caller halves the batch.
        """


@runtime_checkable
class Backend(Protocol):
    """The model of a directory on one device: micro-batches to logits. Called on the inference thread alone."""

    @property
    def name(self) -> str:
        """ "torch", "openvino", or that of an entry point."""

    @property
    def device(self) -> str:
        """ "cpu" or "cuda:N"."""

    @property
    def dtype(self) -> str:
        """What it computes in: "float32", "bfloat16", "float16" or "int8"."""

    @property
    def batch_tokens(self) -> int:
        """Tokens, padding included, of a micro-batch that keeps the device busy without long waits."""

    def forward(self, batch: TokenBatch) -> NDArray[np.float32]:
        """Logits, float32 `[N, L]`. Whatever the texts' neighbours are, theirs differ by rounding alone.

        Raises:
            TransientError: out of memory; fewer texts may fit.
        """
