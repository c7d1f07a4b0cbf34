"""The order of an epoch: every row once, reshuffled, of similar length, and the same wherever it is asked for."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from training.sampling import FILLER, EpochSampler, balanced_probabilities


def order(sampler: EpochSampler, epoch: int) -> list[int]:
    sampler.epoch = epoch
    return list(sampler)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=200), st.integers(1, 32), st.integers(1, 8))
def test_every_row_comes_once_and_fillers_make_a_multiple(lengths: list[int], step: int, multiple: int) -> None:
    sampler = EpochSampler(len(lengths), lengths=lengths, step_size=step, seed=1, multiple=multiple)
    indices = order(sampler, 0)
    assert len(indices) == len(sampler)
    assert len(indices) % multiple == 0
    assert sorted(index for index in indices if index != FILLER) == list(range(len(lengths)))
    assert indices.count(FILLER) < multiple


def test_an_epoch_is_a_function_of_seed_and_epoch() -> None:
    lengths = np.random.default_rng(0).integers(1, 50, 100).tolist()
    first, again = (EpochSampler(100, lengths=lengths, step_size=8, seed=3) for _ in range(2))
    order(first, 0)
    assert order(first, 1) == order(again, 1)
    assert order(first, 1) != order(first, 2)
    assert order(first, 1) != order(EpochSampler(100, lengths=lengths, step_size=8, seed=4), 1)


def test_batches_by_length_hold_little_padding() -> None:
    lengths = np.random.default_rng(0).integers(4, 200, 1000).tolist()

    def padded(lengths_or_none: list[int] | None) -> int:
        indices = order(EpochSampler(1000, lengths=lengths_or_none, step_size=20, seed=0), 0)
        batches = [indices[i : i + 20] for i in range(0, 1000, 20)]
        return sum(20 * max(lengths[i] for i in batch) for batch in batches)

    assert padded(lengths) < 0.65 * padded(None)
    assert padded(lengths) < 1.15 * sum(lengths)


def test_balanced_draws_every_label_equally_often() -> None:
    labels = np.array([0] * 900 + [1] * 90 + [2] * 10)
    sampler = EpochSampler(1000, lengths=None, step_size=8, seed=0, probabilities=balanced_probabilities(labels))
    counts = Counter(labels[i] for i in order(sampler, 0))
    assert all(250 < counts[label] < 420 for label in (0, 1, 2))


def test_balanced_counts_a_text_for_its_rarest_label() -> None:
    targets = np.array([[1, 0], [1, 0], [1, 1], [0, 0]], dtype=np.float32)
    probabilities = balanced_probabilities(targets)
    assert probabilities[2] == 3 * probabilities[0]
    assert probabilities[3] == probabilities[0]
