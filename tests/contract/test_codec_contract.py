"""What every codec promises, ours and yours: add it to CODECS and it is held to this."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import NamedTuple

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_classifier import codecs
from stream_classifier.errors import RecordError


class Case(NamedTuple):
    """A codec, how a text becomes one of its values, and whether it passes fields through."""

    codec: codecs.Codec
    value_of: Callable[[str], bytes]
    passes_through: bool = False


CODECS = {
    "text": Case(codecs.create("text"), str.encode),
    "json": Case(codecs.create("json", text="/a~1b/0"), lambda text: orjson.dumps({"a/b": [text]})),
    "json, whole document": Case(codecs.create("json", text=""), orjson.dumps),
    "json, joined": Case(
        codecs.create("json", text=["/a", "/b"], separator=""),
        lambda text: orjson.dumps({"a": text[:2], "b": text[2:]}),
    ),
    "json, passthrough": Case(
        codecs.create("json", text="/body", passthrough={"all": "", "id": "/id"}),
        lambda text: orjson.dumps({"id": text, "body": text}),
        passes_through=True,
    ),
}
SECRET = "hunter2-is-my-password"
BROKEN = [
    None,
    b"\xff\xfe" + SECRET.encode(),
    SECRET.encode() + b"\xc3",
    b"{" + SECRET.encode(),
    b'{"body": ' + SECRET.encode() + b"}",
    orjson.dumps({SECRET: SECRET, "body": {SECRET: SECRET}, "a": [SECRET], "a/b": {"0": 1}}),
    b'{"body": "' + SECRET.encode() + rb'\ud800"}',
    b"[" * 2000 + SECRET.encode(),
    b"12",
    b"",
]

texts = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=8)
values = st.lists(st.one_of(st.none(), st.binary(max_size=20), st.sampled_from(BROKEN)), max_size=8)


@pytest.fixture(scope="module", params=CODECS.values(), ids=CODECS.keys())
def case(request) -> Case:
    return request.param


@pytest.fixture(scope="module")
def codec(case) -> codecs.Codec:
    return case.codec


def test_it_is_a_codec(codec):
    assert isinstance(codec, codecs.Codec)


@given(texts=texts)
def test_texts_come_back_as_they_were(case, texts):
    decoded = case.codec.decode([case.value_of(text) for text in texts])
    assert decoded.texts == texts
    assert decoded.rows == range(len(texts))
    assert decoded.errors == []
    assert (decoded.passthrough is not None) == case.passes_through


@given(texts=texts, values=values, data=st.data())
def test_every_row_is_a_text_or_an_error_whatever_the_values_hold(case, texts, values, data):
    good = [case.value_of(text) for text in texts]
    batch = data.draw(st.permutations([*good, *values]))
    decoded = case.codec.decode(batch)
    rows_of_errors = [row for row, _ in decoded.errors]
    assert sorted([*decoded.rows, *rows_of_errors]) == list(range(len(batch)))
    assert list(decoded.rows) == sorted(decoded.rows)
    assert rows_of_errors == sorted(rows_of_errors)
    assert len(decoded.texts) == len(decoded.rows)
    assert len(decoded.texts) >= len(texts)
    assert not case.passes_through or len(decoded.passthrough) == len(decoded.texts)
    alone = [case.codec.decode([value]) for value in batch]
    assert decoded.texts == [text for one in alone for text in one.texts]
    assert [str(error) for _, error in decoded.errors] == [str(error) for one in alone for _, error in one.errors]


def test_a_null_value_is_an_error_of_its_own_kind(codec):
    ((row, error),) = codec.decode([None]).errors
    assert (row, error.stage, error.reason) == (0, "decode", "NullValue")


@pytest.mark.parametrize("value", BROKEN, ids=range(len(BROKEN)))
def test_errors_belong_to_decoding_and_never_hold_text(codec, value):
    for _, error in codec.decode([value]).errors:
        assert isinstance(error, RecordError)
        assert error.stage == "decode"
        assert error.reason.isidentifier()
        chain = [error, error.__cause__, error.__context__]
        assert not any(SECRET[:7] in f"{link} {getattr(link, 'doc', '')}" for link in chain if link is not None)
        assert "\n" not in error.message


def test_all_that_was_decoded_can_be_encoded_again(case):
    decoded = case.codec.decode([case.value_of("a \x00 text 🎉")])
    result = {"label": decoded.texts[0], "score": 0.1, "passthrough": decoded.passthrough}
    assert orjson.loads(case.codec.encode(result)) == result


def test_a_score_keeps_all_its_digits(codec):
    score = 0.1 + 0.2
    assert orjson.loads(codec.encode({"score": score}))["score"] == score


def test_any_mapping_can_be_encoded(codec):
    assert orjson.loads(codec.encode(MappingProxyType({"label": "a"}))) == {"label": "a"}


def test_a_result_that_cannot_be_written_is_a_record_error_without_its_values(codec):
    with pytest.raises(RecordError) as caught:
        codec.encode({"label": {SECRET}})
    assert caught.value.stage == "deliver"
    assert SECRET not in str(caught.value)
