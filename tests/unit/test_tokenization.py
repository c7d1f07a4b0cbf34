"""Text to ragged token ids, with the directory's own fast tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from stream_classifier.errors import ModelDirectoryError
from stream_classifier.model.tokenization import TextTokenizer, without_surrogates
from tests.plugins.models import TEXTS, make_directory

PANICS = {
    "type": "BPE",
    "vocab": {"a": 0, "b": 1, "ab": 2},
    "merges": [["a", "b"]],
    "continuing_subword_prefix": "##",
}
WITHOUT_UNKNOWN = {
    "type": "WordPiece",
    "vocab": {"a": 0},
    "unk_token": "[UNK]",
    "continuing_subword_prefix": "##",
    "max_input_chars_per_word": 100,
}


@pytest.fixture(scope="module")
def path(tiny_bert_dir: Path) -> Path:
    return tiny_bert_dir / "tokenizer.json"


def _ids(tokenizer: TextTokenizer, text: str) -> list[int]:
    batch = tokenizer.encode([text])
    return [int(i) for i in batch.input_ids_T]


def test_ids_are_those_of_the_file_special_tokens_included(path: Path) -> None:
    plain = Tokenizer.from_file(str(path))
    batch = TextTokenizer(path, max_length=64).encode(TEXTS[:5])

    for i, text in enumerate(TEXTS[:5]):
        assert batch.input_ids_T[batch.offsets[i] : batch.offsets[i + 1]].tolist() == plain.encode(text).ids
    assert batch.input_ids_T.dtype == batch.offsets.dtype == np.int32


def test_empty_text_is_its_special_tokens(path: Path) -> None:
    assert len(_ids(TextTokenizer(path, max_length=64), "")) == 2


def test_no_texts_give_an_empty_batch(path: Path) -> None:
    batch = TextTokenizer(path, max_length=64).encode([])

    assert len(batch) == 0
    assert batch.offsets.tolist() == [0]


def test_padding_and_truncation_saved_in_the_file_do_not_act(path: Path, tmp_path: Path) -> None:
    saved = Tokenizer.from_file(str(path))
    saved.enable_padding(length=40)
    saved.enable_truncation(5)
    saved.save(str(tmp_path / "tokenizer.json"))
    tokenizer, same = TextTokenizer(tmp_path / "tokenizer.json", max_length=64), TextTokenizer(path, max_length=64)

    assert [_ids(tokenizer, text) for text in TEXTS] == [_ids(same, text) for text in TEXTS]
    assert tokenizer.fingerprint == same.fingerprint


def test_longer_text_is_cut_and_marked_a_fitting_one_is_not(path: Path) -> None:
    long = "the film " * 100
    whole = len(_ids(TextTokenizer(path, max_length=10_000), long))
    fitting, short = TextTokenizer(path, max_length=whole), TextTokenizer(path, max_length=whole - 1)

    assert fitting.encode([long]).truncated_N.tolist() == [False]
    assert short.encode([long, "a"]).truncated_N.tolist() == [True, False]
    assert _ids(short, long)[-1] == _ids(fitting, long)[-1]


@pytest.fixture(scope="module", params=["bert", "roberta", "albert"])
def tokenizer_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """WordPiece, byte-level BPE and Unigram."""
    return make_directory(tmp_path_factory.mktemp("family") / request.param, family=request.param) / "tokenizer.json"


@given(
    units=st.lists(
        st.sampled_from(["the bank's ", "naïve", "東京", "a", " ", "\n", "[MASK]", "e\u0301", "🙂\u200d"]), min_size=1
    ),
    length=st.integers(512, 3000),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_the_head_of_a_long_text_gives_the_ids_of_the_whole(
    tokenizer_file: Path, units: list[str], length: int
) -> None:
    tokenizer, plain = TextTokenizer(tokenizer_file, max_length=16), Tokenizer.from_file(str(tokenizer_file))
    plain.enable_truncation(16)
    text = ("".join(units) * length)[:length]
    assert len(text) >= tokenizer._head_chars

    assert _ids(tokenizer, f"  {text}") == plain.encode(f"  {text}").ids
    assert _ids(tokenizer, text) == plain.encode(text).ids


@pytest.mark.parametrize(("unit", "settled"), [("the film ", True), ("東京", True), ("a", False), (" ", False)])
def test_of_a_long_text_only_the_head_is_read_where_it_says_all(path: Path, unit: str, settled: bool) -> None:
    tokenizer = TextTokenizer(path, max_length=16)
    long = unit * 100_000
    batch = tokenizer.encode(["one", long, "two", long[: tokenizer._head_chars]])

    assert (tokenizer._head(long) is not None) == settled
    assert batch.truncated_N.tolist() == [False, settled, False, settled]
    assert _ids(tokenizer, "two") == batch.input_ids_T[batch.offsets[2] : batch.offsets[3]].tolist()


def test_a_word_that_the_end_of_the_head_cuts_in_two_is_read_whole(path: Path) -> None:
    """More than a hundred characters are an unknown word; the fewer of them in the head would be many tokens."""
    tokenizer, plain = TextTokenizer(path, max_length=16), Tokenizer.from_file(str(path))
    text = " " * (tokenizer._head_chars - 90) + "a" * 300

    assert _ids(tokenizer, text) == plain.encode(text).ids
    assert len(_ids(tokenizer, text)) == 3


def test_lone_surrogate_does_not_touch_its_neighbours(path: Path) -> None:
    tokenizer = TextTokenizer(path, max_length=64)
    batch = tokenizer.encode(["the match", "the \udc80 match", "the film"])

    assert batch.take([0]).input_ids_T.tolist() == _ids(tokenizer, "the match")
    assert batch.take([1]).input_ids_T.tolist() == _ids(tokenizer, "the \ufffd match")
    assert batch.take([2]).input_ids_T.tolist() == _ids(tokenizer, "the film")


@given(st.text(alphabet=st.characters(), max_size=40))
def test_without_surrogates_can_always_be_encoded_and_leaves_other_texts_alone(text: str) -> None:
    cleaned = without_surrogates(text)

    cleaned.encode("utf-8")
    if not any("\ud800" <= character <= "\udfff" for character in text):
        assert cleaned == text


def test_surrogate_pair_becomes_its_character() -> None:
    assert without_surrogates("\ud83d\ude42 \ud83d") == "🙂 \ufffd"


def test_fingerprint_changes_with_vocabulary_and_length(path: Path, tmp_path: Path) -> None:
    content = json.loads(path.read_text("utf-8"))
    content["model"]["vocab"]["newword"] = len(content["model"]["vocab"])
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    prints = {
        TextTokenizer(path, max_length=64).fingerprint,
        TextTokenizer(path, max_length=32).fingerprint,
        TextTokenizer(tmp_path / "tokenizer.json", max_length=64).fingerprint,
    }

    assert len(prints) == 3


def test_tokenizer_with_more_tokens_than_embeddings_is_refused(path: Path) -> None:
    with pytest.raises(ModelDirectoryError, match="the model has 10 embeddings"):
        TextTokenizer(path, max_length=64, vocab_size=10)


class PanicException(BaseException):
    """As pyo3 raises it."""


def test_a_panic_of_the_tokenizer_is_an_error_of_its_text(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Panics:
        def encode_batch_fast(self, texts: list[str]) -> None:
            raise PanicException("range end index 18446744073709551615 out of range")

    tokenizer = TextTokenizer(path, max_length=64)
    monkeypatch.setattr(tokenizer, "_tokenizer", Panics())
    with pytest.raises(RuntimeError, match="tokenizers panicked: range end index"):
        tokenizer.encode(["a text"])


def test_texts_shorter_than_the_special_tokens_are_refused(path: Path) -> None:
    assert _ids(TextTokenizer(path, max_length=3), "a a a")[1:2]
    with pytest.raises(ModelDirectoryError, match="2 special tokens"):
        TextTokenizer(path, max_length=2)


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        ({"post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 2**31], "cls": ["[CLS]", 2]}}, "the model has"),
        ({"model": WITHOUT_UNKNOWN}, "fails on a text of unknown characters"),
        ({"model": PANICS}, "it is no tokenizer .tokenizers panicked"),
    ],
)
def test_tokenizer_that_would_fail_at_the_first_text_is_refused(
    path: Path, tmp_path: Path, part: dict[str, Any], problem: str
) -> None:
    content = json.loads(path.read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps({**content, **part}))

    with pytest.raises(ModelDirectoryError, match=problem):
        TextTokenizer(tmp_path / "tokenizer.json", max_length=64, vocab_size=1000)


@pytest.mark.parametrize("content", [b"", b"{}", b"not json", b"\x80\x04pickle"])
def test_file_that_is_no_tokenizer_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)

    with pytest.raises(ModelDirectoryError, match="it is no tokenizer"):
        TextTokenizer(tmp_path / "tokenizer.json", max_length=64)
