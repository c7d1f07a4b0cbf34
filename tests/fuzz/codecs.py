"""Any record: decoded by every codec, or refused with the documented errors; its dead letter can be opened again.

The first byte chooses the codec, and the rest is the value. With 5 the second byte is the length of the JSON Pointers
that come before the value; with 6 the rest is the headers of a record.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson

from stream_classifier import codecs
from stream_classifier.errors import ConfigError, RecordError
from stream_classifier.json_pointer import MISSING, compile_pointer
from stream_classifier.stream.dead_letter import (
    CLASSIFIERS_HEADER,
    ERROR_PREFIX,
    ONLY_HEADER,
    REPLAYS_HEADER,
    TIMESTAMP_HEADER,
    VALUE_SIZE_HEADER,
    envelope,
    only_classifiers,
    open_letter,
    replay_record,
    without_source,
    without_value,
)
from tests.fuzz.mutations import json_behind

STRUCTURE = json_behind(1)
REASONS = {"NullValue", "InvalidUtf8", "InvalidJson", "MissingField", "NotAString", "TooDeep"}
_CODECS = (
    codecs.create("text"),
    codecs.create("json", text="/body"),
    codecs.create("json", text=""),
    codecs.create("json", text=("/a~1b/0", "/body"), separator=" "),
    codecs.create("json", text="/body", passthrough={"all": "", "deep": "/deep", "first": "/deep/0"}),
)
_POINTERS, _HEADERS = len(_CODECS), len(_CODECS) + 1
_NAMES = (
    *(CLASSIFIERS_HEADER, ONLY_HEADER, REPLAYS_HEADER, TIMESTAMP_HEADER, VALUE_SIZE_HEADER, "", "trace"),
    *(ERROR_PREFIX + name for name in ("topic", "partition", "offset", "stage")),
    *(ERROR_PREFIX + f"exception.{name}" for name in ("class.name", "message", "other")),
)


class Record(NamedTuple):
    """A source record."""

    value: bytes | None
    headers: list[tuple[str, bytes]]
    topic: str = "topic"
    partition: int = 2
    offset: int = 7
    timestamp: int | None = 1
    key: bytes | None = b"key"


def fuzz(data: bytes) -> None:
    """As the package says."""
    choice, rest = (data[0] % (_HEADERS + 1), data[1:]) if data else (0, b"")
    if choice == _HEADERS:
        _letter(list(_headers(rest)))
    elif choice == _POINTERS:
        length = rest[0] if rest else 0
        _pointers(rest[1 : length + 1].decode(errors="replace"), rest[length + 1 :])
    else:
        _decode(_CODECS[choice], rest)


def _decode(codec: codecs.Codec, value: bytes) -> None:
    values = [value, None, value]
    decoded = codec.decode(values)
    failed = dict(decoded.errors)
    assert sorted([*decoded.rows, *failed]) == [0, 1, 2], "a row is answered once"
    assert len(decoded.texts) == len(decoded.rows)
    assert failed[1].reason == "NullValue"
    for error in failed.values():
        assert error.stage == "decode"
        assert error.reason in REASONS
        assert error.message.isprintable()
        assert len(value) < 20 or value.decode("latin-1") not in error.message, "no message text"
        _round_trip(Record(value, []), error)
    for text in decoded.texts:
        text.encode()
        if isinstance(codec, codecs.TextCodec):
            assert text.encode() == value
        else:
            json.loads(value)  # what one parser takes, another takes too
    for fields in decoded.passthrough or ():
        assert orjson.loads(codec.encode({"passthrough": fields})) is not None


def _pointers(pointers: str, value: bytes) -> None:
    first, *more = pointers.split("\0")
    try:
        codec = codecs.create("json", text=[first, *more], passthrough={"first": first})
    except ConfigError:
        return
    _decode(codec, value)
    try:
        document = orjson.loads(value)
    except orjson.JSONDecodeError:
        return
    found = compile_pointer(first, setting="text")(document)
    assert found is MISSING or first == "" or isinstance(document, dict | list)


def _headers(data: bytes) -> Iterator[tuple[str, Any]]:
    """A byte for the name, one for the length, then the value; a length of 255 is a null value."""
    while len(data) > 1:
        name, length = _NAMES[data[0] % len(_NAMES)], data[1]
        yield name, None if length == 255 else data[2 : 2 + length]
        data = data[2 + (0 if length == 255 else length) :]


def _letter(headers: list[tuple[str, Any]]) -> None:
    record = Record(b"value", headers)
    only = only_classifiers(record)
    assert only is None or ONLY_HEADER in dict(headers)
    letter = open_letter(record)
    if letter is not None:
        key, value, _, sent = replay_record(letter)
        assert (key, value) == (b"key", b"value")
        again = Record(value, sent)
        assert only_classifiers(again) == set(letter.classifiers)
    _round_trip(record, RecordError("infer", "ModelFailed", "it failed"))


def _round_trip(record: Record, error: RecordError) -> None:
    """The dead letter of a record tells what it was and why it failed, whatever the record had in its headers."""
    made = envelope(record, error, ["one", "two"])
    letter = open_letter(Record(made[1], made[3], partition=0, offset=0))
    assert letter is not None
    told = (letter.key, letter.value, letter.source, letter.source_partition, letter.source_offset)
    assert told == (record.key, record.value, record.topic, record.partition, record.offset)
    assert (letter.stage, letter.error, letter.message) == (error.stage, error.reason, error.message)
    assert letter.classifiers == ("one", "two")
    own = [header for header in record.headers if header[0] not in (ONLY_HEADER, REPLAYS_HEADER)]
    assert list(letter.headers) == own
    for smaller in (without_value(made), without_source(without_value(made))):
        opened = open_letter(Record(smaller[1], smaller[3]))
        assert opened is not None
        assert opened.lost_bytes == len(record.value or b"")
