"""What travels through the stream instead of single records: a contiguous run of one partition's records."""

from __future__ import annotations

from collections.abc import Sequence

from stream_classifier.records import SourceRecord
from stream_classifier.stream.watermark import Span

__all__ = ["RecordBatch"]


class RecordBatch:
    """A contiguous run of records of one partition.

    Has the attributes of a ConsumerRecord (its offset is the run's last), so that Faust makes a message of it.
    """

    __slots__ = (
        "checksum",
        "first_offset",
        "headers",
        "key",
        "offset",
        "partition",
        "records",
        "serialized_key_size",
        "serialized_value_size",
        "span",
        "timestamp",
        "timestamp_type",
        "topic",
    )

    span: Span

    def __init__(self, topic: str, partition: int, records: Sequence[SourceRecord]) -> None:
        last = records[-1]
        self.topic = topic
        self.partition = partition
        self.records = records
        self.first_offset = records[0].offset
        self.offset = last.offset
        self.timestamp = last.timestamp
        self.timestamp_type = 0
        self.headers: list[tuple[str, bytes]] | None = None
        self.key = None
        self.checksum = None
        self.serialized_key_size = self.serialized_value_size = -1

    def __len__(self) -> int:
        return len(self.records)

    @property
    def value(self) -> RecordBatch:
        """Itself. Not an attribute: a batch that refers to itself would stay in memory until the collector runs."""
        return self

    @property
    def num_bytes(self) -> int:
        """Bytes of keys, values and headers."""
        total = 0
        for record in self.records:
            total += len(record.value or b"") + len(record.key or b"")
            if record.headers:
                total += sum(len(key) + len(value or b"") for key, value in record.headers)
        return total
