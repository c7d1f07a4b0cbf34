"""The envelope of a dead letter: the record as it was, and in headers what went wrong, without a word of the text."""

from __future__ import annotations

import pytest

from stream_classifier.errors import RecordError
from stream_classifier.stream.dead_letter import (
    envelope,
    only_classifiers,
    source_timestamp,
    without_source,
    without_value,
)
from tests.plugins.records import record

ERROR = RecordError("infer", "ValueError", "the model fails on this text: ValueError")


def test_the_record_is_there_byte_for_byte_and_the_error_in_kafka_connects_headers() -> None:
    source = record(
        8123, topic="texts", partition=3, timestamp=17, key=b"\xff\x00", value=b"\xfe", headers=[("a", b"1")]
    )
    key, value, timestamp, headers = envelope(source, ERROR, ["intent", "topic"])
    assert (key, value, timestamp) == (b"\xff\x00", b"\xfe", 17)
    assert headers == [
        ("a", b"1"),
        ("__connect.errors.topic", b"texts"),
        ("__connect.errors.partition", b"3"),
        ("__connect.errors.offset", b"8123"),
        ("__connect.errors.stage", b"infer"),
        ("__connect.errors.exception.class.name", b"ValueError"),
        ("__connect.errors.exception.message", b"the model fails on this text: ValueError"),
        ("stream-classifier.classifiers", b"intent,topic"),
    ]


def test_a_long_message_is_cut() -> None:
    headers = dict(envelope(record(), RecordError("deliver", "X", "é" * 5000), ["intent"])[3])
    assert headers["__connect.errors.exception.message"].decode() == "é" * 1000


def test_half_a_surrogate_pair_in_a_message_does_no_harm() -> None:
    headers = dict(envelope(record(), RecordError("deliver", "X", "at \ud800"), ["intent"])[3])
    assert headers["__connect.errors.exception.message"] == b"at \\ud800"


@pytest.mark.parametrize(("timestamp", "kept"), [(17, 17), (0, 0), (-1, None), (None, None)])
def test_a_timestamp_that_is_none_is_not_kept(timestamp: int | None, kept: int | None) -> None:
    assert source_timestamp(record(timestamp=timestamp)) == kept  # type: ignore[arg-type]  # None where aiokafka has none


@pytest.mark.parametrize(("value", "size"), [(b"x" * 5000, b"5000"), (None, b"0")])
def test_without_its_value_the_size_is_said(value: bytes | None, size: bytes) -> None:
    letter = envelope(record(value=value), ERROR, ["intent"])
    assert without_value(letter) == (letter[0], None, letter[2], [*letter[3], ("stream-classifier.value-size", size)])


def test_without_its_source_the_headers_of_this_failure_stay() -> None:
    """A record that was dead once before, and came back by a tool that left the headers on it."""
    first = envelope(record(1), ERROR, ["intent"])
    again = record(9, key=first[0], headers=[("trace", b"1"), *first[3]])
    key, value, _, headers = without_source(envelope(again, ERROR, ["topic"]))
    assert (key, value) == (None, b"value")
    assert headers[0] == ("__connect.errors.topic", b"texts")
    assert [name for name, _ in headers].count("__connect.errors.offset") == 1
    assert dict(headers)["__connect.errors.offset"] == b"9"


@pytest.mark.parametrize(
    ("headers", "named"),
    [
        ([], None),
        ([("trace", b"1")], None),
        ([("stream-classifier.only", b"a,b")], {"a", "b"}),
        ([("stream-classifier.only", b"a"), ("stream-classifier.only", b"b")], {"b"}),
        ([("stream-classifier.only", None)], None),
        ([("stream-classifier.only", b"\xff")], {"\ufffd"}),
    ],
)
def test_a_replayed_record_names_the_classifiers_it_is_for(headers: list[tuple[str, bytes]], named: set[str]) -> None:
    assert only_classifiers(record(headers=headers)) == named
