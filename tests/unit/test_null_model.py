"""The null model: its answers can be computed by hand."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from stream_classifier.errors import ConfigError
from stream_classifier.model.backends import null
from stream_classifier.model.backends.null import NullModel
from stream_classifier.model.protocols import ProbabilityModel

TEXTS = ["", "a text", "zażółć gęślą jaźń", "\x00", "emoji 🎉", "x" * 100_000, *map(str, range(200))]


@pytest.mark.parametrize("labels", [("even", "odd"), ("a", "b", "c"), tuple(map(str, range(77)))])
def test_the_answer_is_the_documented_formula(labels):
    probabilities = NullModel(labels).probabilities(TEXTS)
    assert probabilities.dtype == np.float64
    for text, row in zip(TEXTS, probabilities, strict=True):
        h = zlib.crc32(text.encode("utf-8"))
        best = 0.5 + (h >> 16) / 131072
        assert row.argmax() == h % len(labels)
        assert row.max() == best
        others = np.delete(row, h % len(labels))
        assert others == pytest.approx((1 - best) / (len(labels) - 1), abs=1e-15)


@pytest.mark.parametrize("hash_", [0x0000_0000, 0x0000_0001, 0x0000_FFFF])
def test_at_a_tie_the_label_of_the_hash_wins(monkeypatch, hash_):
    monkeypatch.setattr(null, "crc32", lambda _: hash_)
    (row,) = NullModel().probabilities(["any"])
    assert row[hash_ % 2] == 0.5
    assert row[1 - hash_ % 2] == np.nextafter(0.5, 0)


def test_it_is_a_probability_model():
    assert isinstance(NullModel(), ProbabilityModel)


def test_the_defaults_are_even_and_odd():
    model = NullModel()
    assert model.labels == ("even", "odd")
    assert model.problem_type == "single_label_classification"


def test_softmax_of_the_logits_are_the_probabilities():
    model = NullModel(("a", "b", "c"))
    logits = model.logits(TEXTS)
    assert np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True) == pytest.approx(model.probabilities(TEXTS))


def test_an_answer_does_not_depend_on_its_neighbours():
    model = NullModel()
    together = model.probabilities(TEXTS)
    alone = np.concatenate([model.probabilities([text]) for text in TEXTS])
    assert together.tolist() == alone.tolist()


def test_a_lone_surrogate_is_answered_and_no_texts_give_no_rows():
    model = NullModel()
    assert model.probabilities(["\ud800"]).shape == (1, 2)
    assert model.probabilities([]).shape == (0, 2)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["one"], "at least two"),
        ([], "at least two"),
        ("ab", "at least two"),
        (["a", "b", "a"], "'a' is there twice, at 0 and 2"),
        (["a", ""], "not empty"),
        (["a", 1], "not empty"),
    ],
)
def test_labels_that_make_no_model_are_refused(labels, message):
    with pytest.raises(ConfigError, match=message):
        NullModel(labels)
