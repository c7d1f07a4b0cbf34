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
    "without_value",
]

ERROR_PREFIX = "__connect.errors."
CLASSIFIERS_HEADER = "stream-classifier.classifiers"
ONLY_HEADER = "stream-classifier.only"
VALUE_SIZE_HEADER = "stream-classifier.value-size"


def envelope(record: SourceRecord, error: RecordError, classifiers: Sequence[str]) -> OutputRecord:
    """The dead letter of a record: key, value, headers and timestamp byte for byte, plus error headers.

    Args:
        record: the source record.
        error: why it has no result.
        classifiers: the names of those that gave none because of this error.
    """
    headers: list[Header] = [
        *record.headers,
        (ERROR_PREFIX + "topic", record.topic.encode()),
        (ERROR_PREFIX + "partition", str(record.partition).encode()),
        (ERROR_PREFIX + "offset", str(record.offset).encode()),
        (ERROR_PREFIX + "stage", error.stage.encode()),
        (ERROR_PREFIX + "exception.class.name", error.reason.encode()),
        (ERROR_PREFIX + "exception.message", error.message.encode()),
        (CLASSIFIERS_HEADER, ",".join(classifiers).encode()),
    ]
    return record.key, record.value, source_timestamp(record), headers


def without_value(letter: OutputRecord) -> OutputRecord:
    """The same dead letter for a topic it is too large for: a null value, its size in a header."""
    key, value, timestamp, headers = letter
    return key, None, timestamp, [*headers, (VALUE_SIZE_HEADER, str(len(value or b"")).encode())]


def only_classifiers(record: SourceRecord) -> frozenset[str] | None:
    """The classifiers a replayed record is meant for; None: all of its source."""
    for name, value in record.headers:
        if name == ONLY_HEADER and value is not None:
            return frozenset(value.decode(errors="replace").split(","))
    return None


def source_timestamp(record: SourceRecord) -> int | None:
    """The record's timestamp in ms; None where the source has none (the producer then sets the current time)."""
    timestamp = record.timestamp
    return timestamp if timestamp is not None and timestamp >= 0 else None
