"""The envelope of a dead letter: the record as it was, and what went wrong in headers.

The headers carry the names of Kafka Connect's error reporter (KIP-298), so that its tools read them. They never hold
message text or keys.
"""

from __future__ import annotations

from collections.abc import Sequence

from stream_classifier.errors import RecordError
from stream_classifier.records import Header, OutputRecord, SourceRecord

__all__ = [
    "CLASSIFIERS_HEADER",
    "ERROR_PREFIX",
    "ONLY_HEADER",
    "VALUE_SIZE_HEADER",
    "envelope",
    "only_classifiers",
    "without_source",
    "without_value",
]

ERROR_PREFIX = "__connect.errors."
_FIRST_HEADER = ERROR_PREFIX + "topic"  # the first of ours behind the source's own
CLASSIFIERS_HEADER = "stream-classifier.classifiers"
ONLY_HEADER = "stream-classifier.only"
VALUE_SIZE_HEADER = "stream-classifier.value-size"

_MAX_MESSAGE_CHARS = 1000
"""An error message longer than this is cut: a header must not make the letter too large for its topic."""


def envelope(record: SourceRecord, error: RecordError, classifiers: Sequence[str]) -> OutputRecord:
    """The dead letter of a record: key, value, headers and timestamp byte for byte, plus error headers.

    Args:
        record: the source record.
        error: why it has no result.
        classifiers: the names of those that gave none because of this error.
    """
    headers: list[Header] = [
        *record.headers,
        (_FIRST_HEADER, _encode(record.topic)),
        (ERROR_PREFIX + "partition", _encode(str(record.partition))),
        (ERROR_PREFIX + "offset", _encode(str(record.offset))),
        (ERROR_PREFIX + "stage", _encode(error.stage)),
        (ERROR_PREFIX + "exception.class.name", _encode(error.reason)),
        (ERROR_PREFIX + "exception.message", _encode(error.message[:_MAX_MESSAGE_CHARS])),
        (CLASSIFIERS_HEADER, _encode(",".join(classifiers))),
    ]
    return record.key, record.value, source_timestamp(record), headers


def without_value(letter: OutputRecord) -> OutputRecord:
    """The same dead letter for a topic it is too large for: a null value, its size in a header."""
    key, value, timestamp, headers = letter
    return key, None, timestamp, [*headers, (VALUE_SIZE_HEADER, str(len(value or b"")).encode())]


def without_source(letter: OutputRecord) -> OutputRecord:
    """What stays when even the key and the source's own headers are too much: where the record is, and what failed."""
    _, value, timestamp, headers = letter
    first = max(index for index, (name, _) in enumerate(headers) if name == _FIRST_HEADER)
    return None, value, timestamp, headers[first:]


def only_classifiers(record: SourceRecord) -> frozenset[str] | None:
    """The classifiers a replayed record is meant for; None: all of its source. The last such header holds."""
    named: frozenset[str] | None = None
    for name, value in record.headers:
        if name == ONLY_HEADER and value is not None:
            named = frozenset(value.decode(errors="replace").split(","))
    return named


def source_timestamp(record: SourceRecord) -> int | None:
    """The record's timestamp in ms; None where the source has none (the producer then sets the current time)."""
    timestamp = record.timestamp
    return timestamp if timestamp is not None and timestamp >= 0 else None


def _encode(text: str) -> bytes:
    # Never fails: half a surrogate pair in the message of someone else's codec must not stop the worker.
    return text.encode(errors="backslashreplace")
