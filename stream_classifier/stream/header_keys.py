"""Header keys that are not UTF-8: read and written byte for byte, where aiokafka raises.

Kafka's brokers take any bytes as a header key, its clients decode them. aiokafka's raises UnicodeDecodeError out of the
fetch, which loses the records of other partitions it had already taken, and raises it again after every restart. Here
such a key is a str with escaped surrogates (PEP 383), so that it can be written back with the same bytes.

aiokafka's parser and builder in C do all the work until a key fails in them; then its own in Python, made tolerant,
take over for that fetch and that produce batch.
"""

from __future__ import annotations

from types import FunctionType, MethodType
from typing import Any, SupportsIndex, cast

import aiokafka
from aiokafka.consumer import fetcher
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record import MemoryRecords
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy, _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy

__all__ = ["AnyKeyBatch", "AnyKeyRecords", "KeptRecords", "accept_any_header_key"]

_MAGIC_AT = 16
"""Where a record batch tells its format. Those below 2 have no headers."""


def accept_any_header_key(consumer: aiokafka.AIOKafkaConsumer) -> None:
    """Let this consumer, which was started, read records whose header keys are not UTF-8."""
    consumer._fetcher._proc_fetch_request = MethodType(_proc_fetch_request, consumer._fetcher)


class AnyKeyBatch(BatchBuilder):  # type: ignore[misc]  # aiokafka has no types
    """A produce batch that takes header keys with escaped surrogates and writes the bytes they stand for.

    Args:
        producer: the batch is for this one.
        max_bytes: its size at most, but for a single record.
    """

    def __init__(self, producer: Any, max_bytes: int) -> None:
        transactions = producer._txn_manager
        is_transactional = transactions is not None and transactions.transactional_id is not None
        super().__init__(max_bytes, 0, is_transactional=is_transactional)
        self._builder = _DefaultRecordBatchBuilderPy(
            2,
            0,
            is_transactional=is_transactional,
            producer_id=-1,
            producer_epoch=-1,
            base_sequence=0,
            batch_size=max_bytes,
        )

    def append(self, *, timestamp: int | None, key: bytes | None, value: bytes | None, headers: Any = ()) -> Any:
        """As in aiokafka: None when the batch is full."""
        written = [(_Key(name), content) for name, content in headers]
        return super().append(timestamp=timestamp, key=key, value=value, headers=written)

    def _set_producer_state(self, producer_id: int, producer_epoch: int, base_sequence: int) -> None:
        self._builder.set_producer_state(producer_id, producer_epoch, base_sequence)


class _Key(str):
    """A header key for the builder, which encodes it."""

    __slots__ = ()

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        del errors
        return super().encode(encoding, "surrogateescape")


class _Bytes(bytearray):
    """A buffer for the parser, which takes slices of it and decodes those that are header keys."""

    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        part = super().__getitem__(index)
        return _Bytes(part) if isinstance(part, bytearray) else part

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        del errors
        return super().decode(encoding, "surrogateescape")


class _TolerantBatch(_DefaultRecordBatchPy):  # type: ignore[misc]  # aiokafka has no types
    """One record batch, parsed in Python."""

    _buffer: bytearray

    def _maybe_uncompress(self) -> None:
        super()._maybe_uncompress()
        self._buffer = _Bytes(self._buffer)


class _TolerantRecords(_MemoryRecordsPy):  # type: ignore[misc]  # likewise
    """The record batches of a fetch, parsed in Python."""

    def next_batch(self) -> Any:
        data = self._next_slice
        if data is None or len(data) <= _MAGIC_AT or data[_MAGIC_AT] < 2:
            return super().next_batch()
        self._cache_next()
        return _TolerantBatch(data)


class KeptRecords:
    """The record batches of a fetch, parsed in C; keeps their bytes for the one that fails."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        records = MemoryRecords(data)
        self.has_next, self.next_batch = records.has_next, records.next_batch
        self.size_in_bytes = records.size_in_bytes


class AnyKeyRecords(fetcher.PartitionRecords):  # type: ignore[misc]  # likewise
    """What was fetched of a partition. From the first key that fails on, the rest of it is parsed in Python."""

    _records: Any
    _aborted_transactions: list[Any]
    _aborted_producers: set[int]

    def __init__(self, tp: Any, records: KeptRecords, *rest: Any) -> None:
        super().__init__(tp, records, *rest)
        self._all_aborted = list(self._aborted_transactions)
        self._resume_at = -1

    def __next__(self) -> Any:
        try:
            record = super().__next__()
        except UnicodeDecodeError:
            # From the beginning, for the transactions in it. aiokafka takes its own position back at the end of every
            # batch that it skips, so what was handed on already is left out here.
            self._resume_at = self.next_fetch_offset
            self._records = _TolerantRecords(self._records.data)
            self._aborted_transactions, self._aborted_producers = self._all_aborted, set()
            self._records_iterator = self._unpack_records()
            record = super().__next__()
        while record.offset < self._resume_at:
            record = super().__next__()
        return record


def _with_globals(function: Any, **others: Any) -> FunctionType:
    """The same function with other globals: aiokafka names its parser there and has no place to give another."""
    stock = cast("FunctionType", function)
    return FunctionType(stock.__code__, {**stock.__globals__, **others}, stock.__name__)


_proc_fetch_request = _with_globals(
    fetcher.Fetcher._proc_fetch_request, MemoryRecords=KeptRecords, PartitionRecords=AnyKeyRecords
)
