"""One bad text or too little memory never takes its batch-mates along, and a broken model is told from a bad text."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from stream_classifier.errors import FatalError, ModelError, TransientError
from stream_classifier.model.protocols import TokenBatch
from stream_classifier.stream.batcher import TextList
from stream_classifier.stream.recovery import Recovery, encode_each

PROBE = "a text that works"


class Model:
    """Scores a text by its length; fails on texts that start with "poison", answers NaN for those with "nan"."""

    def __init__(self, *, max_texts: int = 10**9) -> None:
        self.max_texts = max_texts
        self.calls: list[int] = []

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        self.calls.append(len(texts))
        if len(texts) > self.max_texts:
            raise TransientError("out of memory")
        if any(text.startswith("poison") for text in texts):
            raise ValueError("the text is in this message: poison")
        scores = [[float(len(text)), -float(len(text))] for text in texts]
        rows = zip(texts, scores, strict=True)
        return np.array([[math.nan, 0.0] if text.startswith("nan") else row for text, row in rows])


def recovery_of(model: Callable[..., np.ndarray], **options: object) -> Recovery[TextList]:
    return Recovery(model, num_labels=2, probe=TextList([PROBE]), **options)  # type: ignore[arg-type]


def texts(number: int, **at: str) -> TextList:
    made = TextList("x" * (1 + i % 7) for i in range(number))
    for row, text in at.items():
        made[int(row[1:])] = text
    return made


def assert_scores(answer, work: Sequence[str]) -> None:
    for row, text in enumerate(work):
        if row in answer.failures:
            assert not np.isfinite(answer.scores_NL[row]).all()
        else:
            assert answer.scores_NL[row].tolist() == [len(text), -len(text)]


def test_a_batch_that_works_is_one_call():
    model = Model()
    answer = recovery_of(model).answer(texts(100))
    assert model.calls == [100]
    assert not answer.failures
    assert_scores(answer, texts(100))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 100, 256])
@pytest.mark.parametrize("where", [0.0, 0.4, 1.0])
def test_one_poison_text_is_found_in_logarithmically_many_calls(size, where):
    row = round(where * (size - 1))
    model = Model()
    work = texts(size, **{f"r{row}": "poison"})
    answer = recovery_of(model).answer(work)
    assert list(answer.failures) == [row]
    assert_scores(answer, work)
    assert len(model.calls) - 1 <= 2 * math.ceil(math.log2(size)) + 1  # the last one is the probe


@pytest.mark.parametrize("rows", [{0, 1}, {0, 31}, {3, 4, 5, 30}, set(range(32)), {31}, set(range(0, 32, 2))])
def test_exactly_the_poison_texts_fail(rows):
    work = texts(32, **{f"r{row}": f"poison {row}" for row in rows})
    answer = recovery_of(Model()).answer(work)
    assert set(answer.failures) == rows
    assert_scores(answer, work)


def test_a_failure_names_its_class_and_never_quotes_the_text():
    error = recovery_of(Model()).answer(texts(4, r2="poison")).failures[2]
    assert (error.stage, error.reason) == ("infer", "ValueError")
    assert "poison" not in str(error)


def test_rows_that_are_not_finite_fail_alone_and_without_bisecting():
    model = Model()
    work = texts(8, r1="nan", r7="nan")
    answer = recovery_of(model).answer(work)
    assert set(answer.failures) == {1, 7}
    assert {error.reason for error in answer.failures.values()} == {"NonFiniteScores"}
    assert model.calls == [8, 1]
    assert_scores(answer, work)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_infinite_scores_are_no_scores(value):
    def model(work: Sequence[str]) -> np.ndarray:
        return np.array([[value if text == "bad" else 1.0, 0.0] for text in work])

    assert set(recovery_of(model).answer(TextList(["good", "bad"])).failures) == {1}


def test_a_batch_with_poison_and_nan_keeps_the_rest():
    work = texts(16, r0="nan", r5="poison", r6="nan", r15="poison")
    answer = recovery_of(Model()).answer(work)
    assert {row: error.reason for row, error in answer.failures.items()} == {
        0: "NonFiniteScores",
        5: "ValueError",
        6: "NonFiniteScores",
        15: "ValueError",
    }
    assert_scores(answer, work)


# A broken model -------------------------------------------------------------------------------------------------------


def test_a_model_that_fails_on_its_probe_too_is_broken():
    def broken(work: Sequence[str]) -> np.ndarray:
        raise RuntimeError("CUDA error: device-side assert triggered")

    with pytest.raises(ModelError, match="RuntimeError"):
        recovery_of(broken).answer(texts(4))


def test_a_model_that_answers_nan_to_everything_is_broken():
    with pytest.raises(ModelError, match="not finite"):
        recovery_of(lambda work: np.full((len(work), 2), math.nan)).answer(texts(4))


def test_a_model_that_breaks_after_a_poison_text_dead_letters_nothing():
    """A device-side assert: one text breaks the process for all that follow."""
    state = {"broken": False}

    def model(work: Sequence[str]) -> np.ndarray:
        state["broken"] |= "poison" in work
        if state["broken"]:
            raise RuntimeError("device-side assert")
        return np.zeros((len(work), 2))

    with pytest.raises(ModelError):
        recovery_of(model).answer(texts(4, r1="poison"))


def test_the_probe_is_the_last_text_that_was_answered():
    asked: list[list[str]] = []

    def model(work: Sequence[str]) -> np.ndarray:
        asked.append(list(work))
        if "poison" in work:
            raise ValueError
        return np.zeros((len(work), 2))

    recovery = recovery_of(model)
    recovery.answer(TextList(["first", "last"]))
    recovery.answer(TextList(["poison"]))
    assert asked[-1] == ["last"]


@pytest.mark.parametrize(
    "scores", [np.zeros((3, 2)), np.zeros((4, 3)), np.zeros(4), np.zeros((4, 2), dtype=object), np.full((4, 2), "0.5")]
)
def test_an_answer_that_is_no_scores_is_the_models_fault(scores):
    with pytest.raises(ModelError, match="4 texts and 2 labels"):
        recovery_of(lambda work: scores).answer(texts(4))


def test_integer_scores_can_stand_beside_failed_texts():
    def model(work: Sequence[str]) -> np.ndarray:
        if "poison" in work:
            raise ValueError
        return np.array([[len(text), 0] for text in work])

    answer = recovery_of(model).answer(TextList(["ab", "poison", "abc"]))
    assert answer.scores_NL[[0, 2], 0].tolist() == [2.0, 3.0]
    assert np.isnan(answer.scores_NL[1]).all()


def test_a_model_that_says_itself_it_is_broken_is_believed():
    model_error = ModelError("the remote model is gone")

    def model(work: Sequence[str]) -> np.ndarray:
        raise model_error

    with pytest.raises(FatalError) as raised:
        recovery_of(model).answer(texts(4))
    assert raised.value is model_error


# Memory ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [1, 2, 3, 10, 63, 64, 99])
def test_out_of_memory_halves_and_remembers(room):
    model = Model(max_texts=room)
    recovery = recovery_of(model)
    first = recovery.answer(texts(100))
    assert not first.failures
    assert_scores(first, texts(100))
    model.calls.clear()
    again = recovery.answer(texts(100))
    assert_scores(again, texts(100))
    assert max(model.calls) <= room  # nothing is tried again that was too much


def test_a_single_text_that_is_too_large_fails_alone():
    def model(work: Sequence[str]) -> np.ndarray:
        if "huge" in work:
            raise TransientError("out of memory")
        return np.zeros((len(work), 2))

    answer = recovery_of(model).answer(texts(8, r3="huge"))
    assert {row: error.reason for row, error in answer.failures.items()} == {3: "TransientError"}


def test_what_is_remembered_is_tokens_so_short_texts_still_run_together():
    calls: list[tuple[int, int]] = []

    def forward(batch: TokenBatch) -> np.ndarray:
        width = int(batch.lengths_N.max())
        calls.append((len(batch), width))
        if len(batch) * width > 1000:
            raise TransientError("out of memory")
        return np.array([[float(ids), 0.0] for ids in batch.lengths_N])

    def tokens(*lengths: int) -> TokenBatch:
        return TokenBatch.from_lists([range(length) for length in lengths], [False] * len(lengths))

    recovery = Recovery(forward, num_labels=2, probe=tokens(1))
    answer = recovery.answer(tokens(600, 600))
    assert answer.scores_NL[:, 0].tolist() == [600.0, 600.0]
    calls.clear()
    assert recovery.answer(tokens(*[10] * 50)).scores_NL[:, 0].tolist() == [10.0] * 50
    assert calls == [(50, 10)]


def test_memory_of_the_failed_call_is_free_before_the_next_one():
    """The traceback's frames hold the tensors of the failed call; half as much does not fit beside them."""

    class Tensor:
        pass

    alive: list[weakref.ref[Tensor]] = []

    def run_layers() -> None:
        hidden = Tensor()
        alive.append(weakref.ref(hidden))
        raise MemoryError

    def model(work: Sequence[str]) -> np.ndarray:
        gc.collect()
        assert not any(tensor() for tensor in alive), "the failed call's tensors are still there"
        if len(work) > 1:
            try:
                run_layers()
            except MemoryError as error:
                raise TransientError("out of memory") from error
        return np.zeros((len(work), 2))

    assert not recovery_of(model).answer(texts(4)).failures


def test_an_exception_that_is_its_own_cause_does_no_harm():
    def model(work: Sequence[str]) -> np.ndarray:
        if "poison" in work:
            error = ValueError()
            raise error from error
        return np.zeros((len(work), 2))

    assert set(recovery_of(model).answer(TextList(["poison", "x"])).failures) == {0}


def test_every_retry_is_reported():
    retries: list[str] = []
    recovery_of(Model(max_texts=4), on_retry=retries.append).answer(texts(8))
    assert retries == ["out_of_memory"]
    retries.clear()
    recovery_of(Model(), on_retry=retries.append).answer(texts(8, r0="poison"))
    assert retries == ["bisect"] * 3


def test_a_hang_is_measured_for_each_call_not_for_all_of_them():
    starts: list[float | None] = []

    def model(work: Sequence[str]) -> np.ndarray:
        starts.append(recovery.pass_started)
        if "poison" in work:
            raise ValueError
        return np.zeros((len(work), 2))

    recovery = recovery_of(model)
    recovery.answer(texts(8, r0="poison"))
    assert None not in starts
    assert len(set(starts)) > 1
    assert recovery.pass_started is None


def test_no_texts_have_scores_of_the_right_width():
    assert recovery_of(Model()).empty().scores_NL.shape == (0, 2)


# Tokenizing -----------------------------------------------------------------------------------------------------------


def encode(work: Sequence[str]) -> TokenBatch:
    if any("\ud800" in text for text in work):
        raise TypeError("TextEncodeInput must be Union[TextInputSequence, ...]")
    return TokenBatch.from_lists([range(len(text) + 2) for text in work], [len(text) > 5 for text in work])


def test_texts_that_can_be_tokenized_are_in_one_call():
    tokens, failures = encode_each(encode, ["a", "bcd", "efghij"])
    assert tokens.lengths_N.tolist() == [3, 5, 8]
    assert not failures


@pytest.mark.parametrize("rows", [{0}, {6}, {2, 3}, set(range(7))])
def test_a_text_the_tokenizer_fails_on_stands_as_an_empty_one(rows):
    work = ["\ud800" if row in rows else "x" * row for row in range(7)]
    tokens, failures = encode_each(encode, work)
    assert tokens.lengths_N.tolist() == [2 if row in rows else row + 2 for row in range(7)]
    assert tokens.truncated_N.tolist() == [row == 6 and row not in rows for row in range(7)]
    assert set(failures) == rows
    assert {(error.stage, error.reason) for error in failures.values()} == {("tokenize", "TypeError")}


def test_finding_one_such_text_takes_few_calls():
    calls: list[int] = []

    def counted(work: Sequence[str]) -> TokenBatch:
        calls.append(len(work))
        return encode(work)

    encode_each(counted, ["x"] * 500 + ["\ud800"] + ["x"] * 499)
    assert len(calls) <= 2 * math.ceil(math.log2(1000)) + 2


@pytest.mark.parametrize("work", [[], ["a"], ["a", "b"]])
def test_a_tokenizer_that_fails_on_an_empty_text_is_broken(work):
    def broken(work: Sequence[str]) -> TokenBatch:
        raise OSError("vocabulary gone")

    with pytest.raises(ModelError, match="OSError"):
        encode_each(broken, work)


def test_no_texts_are_no_tokens_even_when_the_tokenizer_refuses_them():
    def picky(work: Sequence[str]) -> TokenBatch:
        if not work:
            raise ValueError("nothing to encode")
        return encode(work)

    tokens, failures = encode_each(picky, [])
    assert len(tokens) == 0
    assert not failures
