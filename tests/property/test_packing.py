"""Packing never loses, duplicates or exceeds, and what it wastes is bounded."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stream_classifier.model.packing import MAX_PADDING, pack

lengths = st.lists(st.integers(0, 600), max_size=300)
max_tokens = st.integers(1, 5000)
max_records = st.integers(1, 300)
max_padding = st.one_of(st.sampled_from([0.0, MAX_PADDING, 1.0]), st.floats(0.0, 1.0))


def padded_tokens(batch: np.ndarray, lengths: list[int]) -> int:
    return len(batch) * max(lengths[i] for i in batch)


def fits(batch: list[int], lengths: list[int], max_tokens: int, max_records: int, max_padding: float) -> bool:
    padded = padded_tokens(batch, lengths)
    padding = padded - sum(lengths[i] for i in batch)
    return len(batch) == 1 or (padded <= max_tokens and len(batch) <= max_records and padding <= max_padding * padded)


@given(lengths, max_tokens, max_records, max_padding)
@example([0, 0, 0], 1, 2, 0.0)
@example([700, 1], 600, 8, 1.0)
def test_each_text_is_in_exactly_one_micro_batch(lengths, max_tokens, max_records, max_padding):
    batches = pack(lengths, max_tokens=max_tokens, max_records=max_records, max_padding=max_padding)
    assert sorted(i for batch in batches for i in batch.tolist()) == list(range(len(lengths)))
    assert all(len(batch) for batch in batches)


@given(lengths, max_tokens, max_records, max_padding)
def test_no_limit_is_exceeded_but_by_a_text_alone(lengths, max_tokens, max_records, max_padding):
    for batch in pack(lengths, max_tokens=max_tokens, max_records=max_records, max_padding=max_padding):
        assert fits(batch.tolist(), lengths, max_tokens, max_records, max_padding)


@given(lengths, max_tokens, max_records, max_padding)
def test_no_micro_batch_could_have_taken_the_next_text(lengths, max_tokens, max_records, max_padding):
    batches = pack(lengths, max_tokens=max_tokens, max_records=max_records, max_padding=max_padding)
    for batch, after in pairwise(batches):
        assert not fits([*batch.tolist(), int(after[0])], lengths, max_tokens, max_records, max_padding)


@given(lengths, max_tokens, max_records)
def test_padding_is_bounded_over_all(lengths, max_tokens, max_records):
    batches = pack(lengths, max_tokens=max_tokens, max_records=max_records)
    padded = sum(padded_tokens(batch, lengths) for batch in batches)
    assert padded - sum(lengths) <= MAX_PADDING * padded


@given(lengths)
def test_texts_come_longest_first_and_equals_in_their_order(lengths):
    order = [i for batch in pack(lengths, max_tokens=1000, max_records=64) for i in batch.tolist()]
    assert order == sorted(range(len(lengths)), key=lambda i: -lengths[i])


def test_a_text_longer_than_the_budget_stands_alone():
    batches = pack([5, 900, 5], max_tokens=100, max_records=8)
    assert [batch.tolist() for batch in batches] == [[1], [0, 2]]


def test_no_texts_make_no_micro_batch():
    assert pack([], max_tokens=100, max_records=8) == []


def test_lengths_of_any_integer_type_do_not_overflow():
    lengths_N = np.full(4, 120, dtype=np.int8)
    (batch,) = pack(lengths_N, max_tokens=10**6, max_records=8)
    assert sorted(batch.tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "limits",
    [
        {"max_tokens": 0, "max_records": 1},
        {"max_tokens": 1, "max_records": 0},
        {"max_tokens": 1, "max_records": 1, "max_padding": -0.1},
        {"max_tokens": 1, "max_records": 1, "max_padding": 1.1},
        {"max_tokens": 1, "max_records": 1, "max_padding": float("nan")},
    ],
)
def test_limits_that_make_no_sense_are_refused(limits):
    with pytest.raises(ValueError, match="must be at least 1"):
        pack([1, 2], **limits)


def test_negative_lengths_are_refused():
    with pytest.raises(ValueError, match="-1 tokens"):
        pack([3, -1], max_tokens=10, max_records=10)
