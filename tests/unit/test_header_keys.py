"""Header keys that are not UTF-8: read from batches made by hand, and written back with the same bytes."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.consumer.fetcher import READ_COMMITTED
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from stream_classifier.stream.header_keys import AnyKeyBatch, AnyKeyRecords, KeptRecords
from tests.plugins.fake_kafka import FakeKafka

RawHeaders = list[tuple[bytes, "bytes | None"]]
NOT_UTF8 = b"\xff\xfe\x80key"


def varint(number: int) -> bytes:
    """Zigzag, seven bits a byte, as Kafka's protocol guide has it."""
    number = (number << 1) ^ (number >> 63)
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def sized(data: bytes | None) -> bytes:
    return varint(-1) if data is None else varint(len(data)) + data


def batch(records: list[RawHeaders], *, base_offset: int = 0, attributes: int = 0, producer_id: int = -1) -> bytes:
    """A record batch of format 2, made by hand: record i has key b"k", value b"v<i>" and these headers."""
    body = b""
    for number, headers in enumerate(records):
        record = b"\0" + varint(0) + varint(number) + sized(b"k") + sized(b"v%d" % number) + varint(len(headers))
        record += b"".join(sized(key) + sized(value) for key, value in headers)
        body += varint(len(record)) + record
    tail = struct.pack(">hiqqqhii", attributes, len(records) - 1, 1_000, 1_000, producer_id, 0, -1, len(records)) + body
    crc = calc_crc32c(tail)
    return struct.pack(">qiibI", base_offset, 9 + len(tail), -1, 2, crc) + tail


def read(data: bytes, *, fetch_offset: int = 0, aborted: Any = ()) -> list[Any]:
    tp = TopicPartition("texts", 0)
    return list(AnyKeyRecords(tp, KeptRecords(data), list(aborted), fetch_offset, None, None, True, READ_COMMITTED))


def escaped(key: bytes) -> str:
    return key.decode(errors="surrogateescape")


def test_records_before_at_and_behind_such_a_key_are_read_once_and_in_order() -> None:
    records: list[RawHeaders] = [[(b"ok", b"1")], [(NOT_UTF8, b"2"), (b"ok", None)], [], [(b"\xc3(", b"3")], []]
    read_back = read(batch(records) + batch(records, base_offset=5))
    assert [record.offset for record in read_back] == list(range(10))
    assert [record.value for record in read_back] == [b"v%d" % (number % 5) for number in range(10)]
    expected = [tuple((escaped(key), value) for key, value in headers) for headers in records]
    assert [record.headers for record in read_back] == expected * 2


def test_batches_before_the_one_that_fails_are_not_read_again() -> None:
    fine, bad = [[(b"ok", b"1")]] * 3, [[], [(NOT_UTF8, b"2")], []]
    data = batch(fine) + batch(fine, base_offset=3) + batch(bad, base_offset=6) + batch(bad, base_offset=9)
    assert [record.offset for record in read(data)] == list(range(12))
    assert [record.offset for record in read(data, fetch_offset=2)] == list(range(2, 12))


def test_reading_goes_on_where_the_fetch_began() -> None:
    records: list[RawHeaders] = [[(NOT_UTF8, b"")] for _ in range(4)]
    assert [record.offset for record in read(batch(records), fetch_offset=2)] == [2, 3]


def test_aborted_records_stay_hidden_when_the_parser_changes() -> None:
    transactional = 0x10
    aborted = batch([[(b"a", b"")], [(NOT_UTF8, b"")]], attributes=transactional, producer_id=7)
    kept = batch([[(NOT_UTF8, b"")]], base_offset=2, attributes=transactional, producer_id=8)
    more = batch([[], []], base_offset=3, attributes=transactional, producer_id=7)
    assert [record.offset for record in read(aborted + kept + more, aborted=[(7, 0)])] == [2]


def test_a_compressed_batch_is_read_too() -> None:
    any_key = AnyKeyBatch(SimpleNamespace(_txn_manager=None), 1 << 20)
    any_key._builder._compression_type = 1  # gzip
    for _ in range(50):
        any_key.append(timestamp=1, key=None, value=b"x" * 100, headers=[(escaped(NOT_UTF8), b"1")])
    data = bytes(any_key._build())
    assert len(data) < 1000
    assert [record.headers for record in read(data)] == [((escaped(NOT_UTF8), b"1"),)] * 50


@given(st.lists(st.lists(st.tuples(st.binary(max_size=8), st.none() | st.binary(max_size=8)), max_size=4), max_size=6))
def test_any_header_is_written_with_the_bytes_it_was_read_with(records: list[RawHeaders]) -> None:
    data = batch(records)
    again = AnyKeyBatch(SimpleNamespace(_txn_manager=None), 1 << 20)
    for record in read(data):
        again.append(timestamp=record.timestamp, key=record.key, value=record.value, headers=list(record.headers))
    again._set_producer_state(-1, 0, -1)
    if records:
        assert bytes(again._build()) == data


def test_stock_and_tolerant_batches_are_the_same_for_ordinary_keys() -> None:
    stock, ours = BatchBuilder(1 << 20, 0), AnyKeyBatch(SimpleNamespace(_txn_manager=None), 1 << 20)
    for builder in (stock, ours):
        for number in range(100):
            builder.append(timestamp=number, key=b"k", value=b"v", headers=[("trace-ü", b"%d" % number), ("n", None)])
    assert bytes(ours._build()) == bytes(stock._build())


@pytest.mark.parametrize("at", [[], [0], [3], [0, 1, 2, 3], [1, 3]])
async def test_a_producer_sends_such_records_in_order_with_all_others(at: list[int]) -> None:
    kafka = FakeKafka()
    records = [
        (b"k", b"v%d" % n, 1_000 + n, [(escaped(NOT_UTF8) if n in at else "ok", b"1")])  # a tuple as delivery makes it
        for n in range(4)
    ]
    async with kafka.producer() as producer:
        await producer.send("sink", 0, records)
    assert kafka.log["sink", 0] == records


async def test_a_batch_of_a_transactional_producer_is_transactional() -> None:
    plain = AnyKeyBatch(SimpleNamespace(_txn_manager=SimpleNamespace(transactional_id=None)), 1 << 20)
    transactional = AnyKeyBatch(SimpleNamespace(_txn_manager=SimpleNamespace(transactional_id="app-0")), 1 << 20)
    for builder, expected in ((plain, False), (transactional, True)):
        builder.append(timestamp=1, key=None, value=b"v", headers=[])
        builder._set_producer_state(5, 1, 9)
        found = KeptRecords(bytes(builder._build())).next_batch()
        assert found.is_transactional is expected
        assert (found.producer_id, found.producer_epoch, found.base_sequence) == (5, 1, 9)
