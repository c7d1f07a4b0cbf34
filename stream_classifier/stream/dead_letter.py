"""The envelope of a dead letter: the record as it was, and what went wrong in headers; and its opening again.

The headers carry the names of Kafka Connect's error reporter (KIP-298), so that its tools read them. They never hold
message text or keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stream_classifier.errors import RecordError
from stream_classifier.records import Header, OutputRecord, SourceRecord

__all__ = [
    "CLASSIFIERS_HEADER",
    "ERROR_PREFIX",
    "ONLY_HEADER",
    "REPLAYS_HEADER",
    "TIMESTAMP_HEADER",
    "VALUE_SIZE_HEADER",
    "Letter",
    "envelope",
    "only_classifiers",
    "open_letter",
    "replay_record",
    "without_source",
    "without_value",
]

ERROR_PREFIX = "__connect.errors."
_FIRST_HEADER = ERROR_PREFIX + "topic"  # the first of ours behind the source's own
CLASSIFIERS_HEADER = "stream-classifier.classifiers"
ONLY_HEADER = "stream-classifier.only"
REPLAYS_HEADER = "stream-classifier.replays"
TIMESTAMP_HEADER = "stream-classifier.source-timestamp"
VALUE_SIZE_HEADER = "stream-classifier.value-size"

_MAX_MESSAGE_CHARS = 1000
"""An error message longer than this is cut: a header must not make the letter too large for its topic."""
_MAX_DIGITS = 10


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


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter that was read: the source record in it, and what its headers tell.

    Attributes:
        partition, offset: the letter's own place in the dead-letter topic.
        key, value, timestamp, headers: the source record's, as they were; `headers` without those of earlier replays.
        source, source_partition, source_offset: where the source record was read.
        stage, error, message: of the RecordError it failed with.
        classifiers: those that gave no result.
        replays: how often the record was replayed before it failed this time.
        lost_bytes: the size of the value where the letter was too large for its topic; None: nothing is missing.
    """

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp: int | None
    headers: tuple[Header, ...]
    source: str
    source_partition: int
    source_offset: int
    stage: str
    error: str
    message: str
    classifiers: tuple[str, ...]
    replays: int
    lost_bytes: int | None


def open_letter(record: SourceRecord) -> Letter | None:
    """The dead letter that a record of a dead-letter topic is; None: it is no letter of ours.

    Only what stands behind the last `__connect.errors.topic` is the envelope's: a source that is a dead-letter topic
    itself has such headers of its own.
    """
    names = [name for name, _ in record.headers]
    if _FIRST_HEADER not in names:
        return None
    first = len(names) - 1 - names[::-1].index(_FIRST_HEADER)
    told = {name: (value or b"").decode(errors="replace") for name, value in record.headers[first:]}
    own = [header for header in record.headers[:first] if header[0] not in (ONLY_HEADER, REPLAYS_HEADER)]
    replays = [value for name, value in record.headers[:first] if name == REPLAYS_HEADER]
    try:
        return Letter(
            partition=record.partition,
            offset=record.offset,
            key=record.key,
            value=record.value,
            timestamp=int(told[TIMESTAMP_HEADER]) if TIMESTAMP_HEADER in told else source_timestamp(record),
            headers=tuple(own),
            source=told[_FIRST_HEADER],
            source_partition=int(told[ERROR_PREFIX + "partition"]),
            source_offset=int(told[ERROR_PREFIX + "offset"]),
            stage=told[ERROR_PREFIX + "stage"],
            error=told[ERROR_PREFIX + "exception.class.name"],
            message=told[ERROR_PREFIX + "exception.message"],
            classifiers=tuple(told[CLASSIFIERS_HEADER].split(",")),
            replays=_count(replays[-1]) if replays else 0,
            lost_bytes=int(told[VALUE_SIZE_HEADER]) if VALUE_SIZE_HEADER in told else None,
        )
    except (KeyError, ValueError):
        return None


def replay_record(letter: Letter) -> OutputRecord:
    """What to send to the source: the record as it was, for the classifiers that gave no result."""
    headers: list[Header] = [
        *letter.headers,
        (ONLY_HEADER, _encode(",".join(letter.classifiers))),
        (REPLAYS_HEADER, str(letter.replays + 1).encode()),
    ]
    return letter.key, letter.value, letter.timestamp, headers


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
    return None if record.timestamp == -1 else record.timestamp


def _count(value: bytes | None) -> int:
    """The number in a header. It came with the source record, so anybody may have written it: 0 for what is none."""
    return int(value) if value and value.isdigit() and len(value) < _MAX_DIGITS else 0


def _encode(text: str) -> bytes:
    # Never fails: half a surrogate pair in the message of someone else's codec must not stop the worker.
    return text.encode(errors="backslashreplace")
