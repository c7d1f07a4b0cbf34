"""The order in which an epoch goes through the rows: a function of the seed and the epoch, and of nothing else.

So a resumed epoch goes on where it stopped, and two processes see the batches that one would. Trainer's own samplers
draw from torch's global generator, whose state at the epoch's start is not known when it is resumed in the middle.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

__all__ = ["FILLER", "EpochSampler", "balanced_probabilities"]

FILLER = -1
"""The index of a row that only fills up the last step, where several processes must have equally many batches."""


class EpochSampler(Sampler[int]):
    """Indices of the rows, reshuffled every epoch.

    Args:
        lengths: tokens of each row; None: batches are made at random, else of rows of similar length, at first the
            longest of all, so that a step that needs too much memory is the first.
        num_rows: as many are drawn an epoch.
        step_size: rows of one optimizer step, over all forward passes and processes.
        seed: equal seeds give equal orders.
        probabilities: of each row in each draw, with replacement; None: every row once.
        multiple: the indices are filled up with `FILLER` to a multiple of this.
    """

    def __init__(
        self,
        num_rows: int,
        *,
        lengths: Sequence[int] | None,
        step_size: int,
        seed: int,
        probabilities: NDArray[np.float64] | None = None,
        multiple: int = 1,
    ) -> None:
        self._num_rows = num_rows
        self._lengths = lengths
        self._step_size = step_size
        self._seed = seed
        self._probabilities = probabilities
        self._num_indices = math.ceil(num_rows / multiple) * multiple
        self.epoch = 0

    def __len__(self) -> int:
        return self._num_indices

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng([self._seed, self.epoch])
        if self._probabilities is None:
            drawn = generator.permutation(self._num_rows)
        else:
            drawn = generator.choice(self._num_rows, size=self._num_rows, p=self._probabilities)
        if self._lengths is not None:
            shuffle = torch.Generator().manual_seed(int(generator.integers(2**31)))
            lengths = [self._lengths[i] for i in drawn]
            grouped: list[int] = get_length_grouped_indices(lengths, self._step_size, generator=shuffle)  # type: ignore[no-untyped-call]  # transformers' lacks annotations
            drawn = drawn[grouped]
        yield from drawn.tolist()
        yield from [FILLER] * (self._num_indices - self._num_rows)


def balanced_probabilities(targets: NDArray[Any]) -> NDArray[np.float64]:
    """A probability for each row with which every label is drawn equally often.

    Args:
        targets: the index of each row's label `[N]`, or 0 and 1 `[N, L]`: a row with several labels counts for its
            rarest, one without labels as one of the most frequent.

        >>> balanced_probabilities(np.array([0, 0, 0, 1])).round(2).tolist()
        [0.17, 0.17, 0.17, 0.5]
    """
    if targets.ndim == 1:
        weights_N = 1.0 / np.bincount(targets)[targets]
    else:
        counts_L = targets.sum(axis=0)
        rarest_N = np.where(targets > 0, counts_L, np.inf).min(axis=1)
        weights_N = 1.0 / np.minimum(rarest_N, counts_L.max())
    probabilities: NDArray[np.float64] = weights_N / weights_N.sum()
    return probabilities
