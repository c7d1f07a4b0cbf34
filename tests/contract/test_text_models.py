"""The contract of a TextModel, and of Classifier around any model: one suite for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stream_classifier.errors import ConfigError, RecordError
from stream_classifier.model.backends.null import NullModel
from stream_classifier.model.classifier import Classifier
from stream_classifier.model.protocols import ProbabilityModel, TextModel, TokenBatch, TokenModel
from tests.plugins.models import TEXTS

_ODD_TEXTS = ["\ud800 lone", "nul\0inside", "x" * 300_000, "", " ", "\u202e", "ok"]


class Lengths:
    """A model as a user writes one: probabilities from the number of words, as a scikit-learn pipeline would give."""

    labels = ("short", "long")
    problem_type = "single_label_classification"

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        long_N = 1.0 - 0.9 ** np.array([len(text.split()) for text in texts], dtype=np.float64)
        return np.stack([1.0 - long_N, long_N], axis=1)

    def logits(self, texts: Sequence[str]) -> NDArray[np.float64]:
        return np.log(np.clip(self.probabilities(texts), 1e-12, 1.0))


class Tags:
    """A multi-label model that gives logits only."""

    labels = ("question", "shout", "digits")
    problem_type = "multi_label_classification"

    def logits(self, texts: Sequence[str]) -> NDArray[np.float64]:
        return np.array([[4.0 * (mark in text) - 2.0 for mark in "?!7"] for text in texts]).reshape(len(texts), 3)


class Characters:
    """A model with a tokenizer of its own: one token a character."""

    labels = ("even", "odd")
    problem_type = "single_label_classification"

    def encode(self, texts: Sequence[str]) -> TokenBatch:
        return TokenBatch.from_lists([[0, *map(ord, text[:50])] for text in texts], [len(text) > 50 for text in texts])

    def forward(self, batch: TokenBatch) -> NDArray[np.float32]:
        odd_N = np.array(
            [batch.input_ids_T[a:b].sum() % 2 for a, b in zip(batch.offsets, batch.offsets[1:], strict=False)]
        )
        return np.stack([1.0 - odd_N, odd_N], axis=1).astype(np.float32).reshape(len(batch), 2)

    def logits(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self.forward(self.encode(texts))


def _classifier(directory: Path, dtype: str = "float32", device: str = "cpu") -> Classifier:
    return Classifier.load(directory, device=device, dtype=dtype)


_MODELS: dict[str, Callable[[Path], TextModel]] = {
    "null": lambda tiny: NullModel(("a", "b", "c")),
    "probabilities": lambda tiny: Lengths(),
    "multi-label logits": lambda tiny: Tags(),
    "tokens": lambda tiny: Characters(),
    "classifier float32": _classifier,
    "classifier bfloat16": lambda tiny: _classifier(tiny, "bfloat16"),
    "classifier of null": lambda tiny: Classifier.load("null"),
    "classifier of an object": lambda tiny: Classifier.load(Lengths()),
    "classifier of tokens": lambda tiny: Classifier.load(Characters()),
}


@pytest.fixture(scope="module", params=[*_MODELS, pytest.param("classifier cuda", marks=pytest.mark.gpu)])
def model(request: pytest.FixtureRequest, tiny_bert_dir: Path) -> TextModel:
    if request.param == "classifier cuda":
        torch = pytest.importorskip("torch")
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        return _classifier(tiny_bert_dir, "bfloat16", "cuda")
    return _MODELS[request.param](tiny_bert_dir)


def _close(model: TextModel) -> float:
    return 0.05 if getattr(model, "dtype", "") == "bfloat16" else 1e-4


def test_it_is_a_text_model_with_labels(model: TextModel) -> None:
    assert isinstance(model, TextModel)
    assert isinstance(model.labels, tuple)
    assert len(set(model.labels)) == len(model.labels)
    assert model.problem_type in ("single_label_classification", "multi_label_classification")


def test_logits_have_a_row_a_text_and_a_column_a_label(model: TextModel) -> None:
    logits = model.logits(TEXTS)

    assert logits.shape == (len(TEXTS), len(model.labels))
    assert np.issubdtype(logits.dtype, np.floating)
    assert np.isfinite(logits).all()


def test_no_texts_give_no_rows(model: TextModel) -> None:
    assert model.logits([]).shape == (0, len(model.labels))


def test_rows_do_not_depend_on_their_neighbours(model: TextModel) -> None:
    together = model.logits(TEXTS)

    for i, text in enumerate(TEXTS):
        np.testing.assert_allclose(model.logits([text])[0], together[i], atol=_close(model))


def test_rows_follow_the_order_of_the_texts(model: TextModel) -> None:
    np.testing.assert_allclose(model.logits(TEXTS[::-1]), model.logits(TEXTS)[::-1], atol=_close(model))


def test_the_same_texts_get_the_same_answer(model: TextModel) -> None:
    np.testing.assert_array_equal(model.logits(TEXTS), model.logits(TEXTS))


def test_odd_texts_are_answered_like_any_other(model: TextModel) -> None:
    assert np.isfinite(model.logits(_ODD_TEXTS)).all()


def test_classifier_answers_as_its_model_and_steps_do(model: TextModel) -> None:
    classifier = Classifier.load(model)
    raw = classifier.answer(TEXTS)
    predictions = classifier.decide(raw)
    called = classifier(TEXTS)

    assert [p.label for p in called] == [p.label for p in predictions]
    np.testing.assert_allclose([p.score for p in called], predictions.scores_N, atol=1e-6)
    np.testing.assert_allclose(classifier.logits(TEXTS), model.logits(TEXTS), rtol=1e-6, atol=1e-6)


def test_token_models_answer_the_same_in_two_halves(model: TextModel) -> None:
    classifier = Classifier.load(model)
    if classifier.tokenizer_key is None:
        with pytest.raises(TypeError, match="call answer"):
            classifier.encode(TEXTS)
        return
    tokens = classifier.encode(TEXTS)

    assert isinstance(classifier, TokenModel)
    assert len(tokens) == len(TEXTS)
    np.testing.assert_allclose(classifier.forward(tokens), model.logits(TEXTS), atol=_close(model))


def test_warm_up_changes_no_answer(model: TextModel) -> None:
    classifier = Classifier.load(model)
    before = classifier.logits(TEXTS)
    classifier.warm_up()

    np.testing.assert_array_equal(classifier.logits(TEXTS), before)


def test_probabilities_are_taken_as_the_model_gives_them() -> None:
    model = Lengths()
    assert isinstance(model, ProbabilityModel)
    scores = [dict(p.scores)["long"] for p in Classifier.load(model)(list(TEXTS))]

    assert scores == model.probabilities(TEXTS)[:, 1].tolist()


def test_texts_past_max_text_chars_are_cut_and_marked() -> None:
    classifier = Classifier.load(Lengths(), max_text_chars=3)

    assert [(p.label, p.truncated) for p in classifier(["a b c d e f g h i j", "a b"])] == [
        ("short", True),
        ("short", False),
    ]


def test_probability_of_no_number_is_a_record_error() -> None:
    class Broken(Lengths):
        def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
            return np.array([[np.nan, 1.0] if text == "bad" else [0.5, 0.5] for text in texts])

    with pytest.raises(RecordError, match="1 of 2 texts are not finite, the first at index 1") as caught:
        Classifier.load(Broken())(["good", "bad"])
    assert (caught.value.stage, caught.value.reason) == ("decide", "NonFiniteScores")


@pytest.mark.parametrize("model", [object(), 7, "no such\nname", None])
def test_what_is_no_model_is_refused(model: Any) -> None:
    with pytest.raises(ConfigError):
        Classifier.load(model)


@pytest.mark.parametrize(
    "setting", [{"device": "cuda"}, {"dtype": "bfloat16"}, {"backend": "torch"}, {"labels": ["a", "b"]}]
)
def test_settings_that_an_object_cannot_follow_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        Classifier.load(Lengths(), **setting)


def test_one_string_is_not_a_list_of_texts() -> None:
    with pytest.raises(TypeError, match="list of texts"):
        Classifier.load("null")("a text")


def test_another_classifier_over_the_same_model_has_its_own_settings() -> None:
    first = Classifier.load("null", labels=["a", "b", "c"])
    strict = Classifier.load(first, threshold=1.0, name="strict", top_k=1)
    plain, judged = first(["x"])[0], strict(["x"])[0]

    assert (plain.label, plain.score, plain.decision) == (judged.label, judged.score, "accepted")
    assert judged.decision == "uncertain"
    assert len(judged.scores) == 1
    assert strict.name == "strict"


def test_tokenizer_key_is_equal_only_where_tokens_are(tiny_bert_dir: Path) -> None:
    first, same = _classifier(tiny_bert_dir), _classifier(tiny_bert_dir, "bfloat16")
    shorter = Classifier.load(tiny_bert_dir, device="cpu", max_text_chars=10)

    assert first.tokenizer_key == same.tokenizer_key
    assert first.tokenizer_key != shorter.tokenizer_key
    assert Classifier.load("null").tokenizer_key is None


def test_encoding_on_many_threads_beside_inference_changes_nothing(tiny_bert_dir: Path) -> None:
    classifier = _classifier(tiny_bert_dir)
    expected = classifier.logits(TEXTS)
    wrong: list[int] = []

    def encode() -> None:
        for _ in range(20):
            lengths = classifier.encode(TEXTS).lengths_N
            if not np.array_equal(lengths, lengths_expected):
                wrong.append(1)

    lengths_expected = classifier.encode(TEXTS).lengths_N
    threads = [Thread(target=encode) for _ in range(4)]
    for thread in threads:
        thread.start()
    answers = [classifier.logits(TEXTS) for _ in range(5)]
    for thread in threads:
        thread.join()

    assert not wrong
    for answer in answers:
        np.testing.assert_array_equal(answer, expected)
