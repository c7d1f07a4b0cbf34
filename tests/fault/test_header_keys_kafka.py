"""Header keys that are not UTF-8, on Apache Kafka: no crash loop, nothing lost, the same bytes in every output."""

from __future__ import annotations

import json
from collections.abc import Callable

from tests.integration.test_worker import null, worker_group
from tests.plugins.brokers import Broker, RawHeaderKey, Record
from tests.plugins.poison import read_all
from tests.plugins.workers import Worker

Start = Callable[..., Worker]
Name = Callable[[str], str]

NOT_UTF8 = b"\xff\xfe\x80trace"


async def test_a_record_with_such_a_header_key_has_its_result_or_dead_letter_byte_for_byte(
    apache_kafka: Broker, start_worker: Start, unique_name: Name
) -> None:
    source = unique_name("source")
    apache_kafka.create_topic(source, partitions=4)
    odd = [(RawHeaderKey(NOT_UTF8), b"\x00\xff"), ("plain", b"1"), (RawHeaderKey(b"\xc3("), b"")]
    records = [
        Record(
            b"text %d" % number if number % 5 else b"\xff no text",
            key=b"\xfe%d" % number,
            headers=odd if number % 3 == 0 else [("plain", b"1")],
            timestamp_ms=1_700_000_000_000 + number,
            partition=number % 4,
        )
        for number in range(200)
    ]
    placed = apache_kafka.produce(source, records)
    worker = start_worker(apache_kafka, classifiers=[null(source)])
    worker.wait_for(lambda: worker.metric("records_total") >= 200, 30, "done")
    assert worker.stop() == 0
    assert sum(apache_kafka.committed(worker_group(worker), source).values()) == 200

    sources = dict(zip(placed, records, strict=True))
    results = await read_all(apache_kafka.bootstrap, f"{source}.results")
    letters = await read_all(apache_kafka.bootstrap, f"{source}.dead-letter")
    assert (len(results), len(letters)) == (160, 40)
    seen = set()
    for output in results + letters:
        headers = [(key.encode(errors="surrogateescape"), value) for key, value in output.headers]
        if output in letters:
            told = dict(headers[-7:])
            place = (int(told[b"__connect.errors.partition"]), int(told[b"__connect.errors.offset"]))
            headers = headers[:-7]
            assert output.value == sources[place].value
        else:
            at = json.loads(output.value)["source"]
            place = (at["partition"], at["offset"])
        record = sources[place]
        assert headers == [(key.encode(), value) for key, value in record.headers]
        assert (output.key, output.timestamp, output.partition) == (record.key, record.timestamp_ms, place[0])
        seen.add(place)
    assert seen == set(placed)
