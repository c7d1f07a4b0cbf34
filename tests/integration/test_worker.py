"""`stream-classifier run` on both brokers: every source record has exactly one result or dead letter."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.plugins.brokers import Broker, Record
from tests.plugins.workers import Worker

Start = Callable[..., Worker]
Name = Callable[[str], str]


def null_answer(text: str, labels: tuple[str, ...] = ("even", "odd")) -> tuple[str, float]:
    """What the null model is documented to say of a text."""
    digest = zlib.crc32(text.encode())
    return labels[digest % len(labels)], 0.5 + (digest >> 16) / 131072


def null(source: str, **settings: Any) -> dict[str, Any]:
    """A null classifier on `source`."""
    return {"name": "null", "model": "null", "source": source, "sink": f"{source}.results", **settings}


def headers_of(record: Any) -> dict[str, bytes]:
    return dict(record.headers)


def test_every_record_has_one_result_with_key_headers_and_timestamp(
    broker: Broker, start_worker: Start, unique_name: Name
) -> None:
    source = unique_name("source")
    broker.create_topic(source, partitions=4)
    records = [
        Record(
            f"text {i}".encode(),
            key=None if i % 7 == 0 else f"key-{i % 50}".encode(),
            headers=[("trace", str(i).encode()), ("again", b"1"), ("again", b"2")] if i % 3 == 0 else [],
            timestamp_ms=1_700_000_000_000 + i,
            partition=i % 4,
        )
        for i in range(2000)
    ]
    placed = broker.produce(source, records)
    worker = start_worker(broker, classifiers=[null(source, threshold=0.75)])

    results = broker.consume_all(f"{source}.results", count=2000, timeout_s=60)

    assert len(results) == 2000
    by_source = {(record.partition, json.loads(record.value)["source"]["offset"]): record for record in results}
    assert len(by_source) == 2000
    for record, (partition, offset) in zip(records, placed, strict=True):
        result = by_source[partition, offset]
        body = json.loads(result.value)
        label, score = null_answer(record.value.decode())
        other = "odd" if label == "even" else "even"
        assert body == {
            "classifier": "null",
            "task": "free",
            "label": label,
            "score": score,
            "decision": "accepted" if score >= 0.75 else "uncertain",
            "scores": [{"label": label, "score": score}, {"label": other, "score": pytest.approx(1 - score)}],
            "passthrough": {},
            "model": {"name": "null", "digest": None},
            "source": {"topic": source, "partition": partition, "offset": offset, "timestamp": record.timestamp_ms},
        }
        assert (result.key, result.timestamp) == (record.key, record.timestamp_ms)
        assert [tuple(header) for header in result.headers] == list(record.headers)
    for partition in range(4):
        offsets = [json.loads(r.value)["source"]["offset"] for r in results if r.partition == partition]
        assert offsets == sorted(offsets)
    for stage in ("tokenize", "queue", "infer", "deliver"):
        assert worker.metric("stage_seconds_count", classifier="null", stage=stage) > 0
    assert worker.stop() == 0
    ends = {partition: 1 + max(o for p, o in placed if p == partition) for partition in range(4)}
    assert broker.committed(worker_group(worker), source) == ends


def worker_group(worker: Worker) -> str:
    return next(line for line in worker.config_file.read_text().splitlines() if line.startswith("id")).split('"')[1]


def test_what_cannot_be_classified_becomes_a_dead_letter_and_the_rest_goes_on(
    broker: Broker, start_worker: Start, unique_name: Name
) -> None:
    source = unique_name("source")
    broker.create_topic(source, partitions=1)
    good = b'{"body": "good"}'
    broken: list[bytes | None] = [
        b"\xff\xfe not UTF-8",
        b"{",
        b"{}",
        b'{"body": 7}',
        b'{"body": null}',
        b'{"body": "\\ud800"}',
        b"[" * 100_000,
        b'{"body": ["a"]}',
        None,
    ]
    values = [good, *[value for bad in broken for value in (bad, good)]]
    values += [b'{"body": ""}', b'{"body": "nul \\u0000 inside"}', json.dumps({"body": "x" * 2_000_000}).encode()]
    broker.produce(source, [Record(v, key=b"k", headers=[("h", b"1")], timestamp_ms=1_700_000_000_000) for v in values])
    classifiers = [null(source, text="/body"), null(source, text="/body", name="second", sink=f"{source}.second")]
    worker = start_worker(broker, classifiers=classifiers)

    for sink in (f"{source}.results", f"{source}.second"):
        results = broker.consume_all(sink, count=len(broken) + 4, timeout_s=60)
        assert len(results) == len(broken) + 4
        assert [json.loads(r.value).get("truncated", False) for r in results] == [False] * (len(broken) + 3) + [True]
    letters = broker.consume_all(f"{source}.dead-letter", count=len(broken))
    assert len(letters) == len(broken)
    for number, (letter, value) in enumerate(zip(letters, broken, strict=True)):
        headers = headers_of(letter)
        assert (letter.key, letter.value, letter.timestamp, headers["h"]) == (b"k", value, 1_700_000_000_000, b"1")
        assert headers["__connect.errors.topic"] == source.encode()
        assert headers["__connect.errors.partition"] == b"0"
        assert headers["__connect.errors.offset"] == str(1 + 2 * number).encode()
        assert headers["__connect.errors.stage"] == b"decode"
        assert headers["__connect.errors.exception.class.name"]
        assert headers["stream-classifier.classifiers"] == b"null,second"
    assert worker.metric("records_total", classifier="", outcome="dead_letter") == len(broken)
    assert worker.stop() == 0
    assert "good" not in worker.log


def test_routes_get_copies_by_decision_and_by_label(broker: Broker, start_worker: Start, unique_name: Name) -> None:
    source = unique_name("source")
    broker.create_topic(source, partitions=2)
    texts = [f"text {i}" for i in range(300)]
    broker.produce(source, [Record(text.encode(), partition=i % 2) for i, text in enumerate(texts)])
    route = {"uncertain": f"{source}.uncertain", "label": {"odd": f"{source}.odd"}}
    start_worker(broker, classifiers=[null(source, threshold=0.6, thresholds={}, route=route)])

    def bodies(topic: str, expected: list[str]) -> list[str]:
        offsets = {(i % 2, i // 2): text for i, text in enumerate(texts)}
        found = [json.loads(r.value)["source"] for r in broker.consume_all(topic, count=len(expected), timeout_s=60)]
        return sorted(offsets[item["partition"], item["offset"]] for item in found)

    assert bodies(f"{source}.results", texts) == sorted(texts)
    uncertain = [text for text in texts if null_answer(text)[1] < 0.6]
    assert bodies(f"{source}.uncertain", uncertain) == sorted(uncertain)
    odd = [text for text in texts if null_answer(text)[0] == "odd"]
    assert bodies(f"{source}.odd", odd) == sorted(odd)


def test_results_go_by_key_where_partition_counts_differ(
    broker: Broker, start_worker: Start, unique_name: Name
) -> None:
    source = unique_name("source")
    broker.create_topic(source, partitions=3)
    broker.create_topic(f"{source}.results", partitions=2)
    broker.create_topic(f"{source}.like-kafka", partitions=2)
    keyed = [Record(f"text {i}".encode(), key=f"key-{i}".encode()) for i in range(100)]
    broker.produce(f"{source}.like-kafka", keyed)
    broker.produce(source, [*keyed, *[Record(b"no key", partition=partition) for partition in range(3)]])
    start_worker(broker, classifiers=[null(source)])

    results = broker.consume_all(f"{source}.results", count=103, timeout_s=60)

    expected = {record.key: record.partition for record in broker.consume_all(f"{source}.like-kafka", count=100)}
    assert {record.key: record.partition for record in results if record.key} == expected
    without_key = [(json.loads(r.value)["source"]["partition"], r.partition) for r in results if r.key is None]
    assert sorted(without_key) == [(0, 0), (1, 1), (2, 0)]


def test_a_replayed_record_is_answered_only_by_the_classifiers_it_names(
    broker: Broker, start_worker: Start, unique_name: Name
) -> None:
    source = unique_name("source")
    broker.create_topic(source, partitions=1)
    replayed = Record(b"again", headers=[("stream-classifier.only", b"second,unknown")])
    broken = Record(b"\xff", headers=[("stream-classifier.only", b"second")])
    broker.produce(source, [Record(b"first"), replayed, broken, Record(b"last")])
    start_worker(broker, classifiers=[null(source), null(source, name="second", sink=f"{source}.second")])

    def offsets(sink: str, count: int) -> list[int]:
        return [json.loads(r.value)["source"]["offset"] for r in broker.consume_all(sink, count=count, timeout_s=60)]

    assert offsets(f"{source}.second", 3) == [0, 1, 3]
    assert offsets(f"{source}.results", 2) == [0, 3]
    [letter] = broker.consume_all(f"{source}.dead-letter", count=1)
    assert headers_of(letter)["stream-classifier.classifiers"] == b"second"


def test_two_workers_share_a_group_one_joins_late_and_one_stops(
    broker: Broker, start_worker: Start, unique_name: Name
) -> None:
    source, group = unique_name("source"), unique_name("group")
    broker.create_topic(source, partitions=4)
    total = 6000

    def produce(start: int, stop: int) -> None:
        broker.produce(source, [Record(f"text {i}".encode(), partition=i % 4) for i in range(start, stop)])

    produce(0, 2000)
    classifiers = [null(source, batch={"max_records": 16})]
    first = start_worker(broker, classifiers=classifiers, app={"id": group})
    second = start_worker(broker, classifiers=classifiers, app={"id": group})
    produce(2000, 4000)
    second.wait_for(lambda: "lag_records{partition" in second.get("/metrics")[1], 60, "given partitions")
    produce(4000, 5000)
    assert first.stop() == 0
    produce(5000, total)

    def seen() -> set[tuple[int, int]]:
        results = broker.consume_all(f"{source}.results", count=1, timeout_s=30)
        return {(r.partition, json.loads(r.value)["source"]["offset"]) for r in results}

    second.wait_for(lambda: len(seen()) == total, 60, "done")
    results = broker.consume_all(f"{source}.results", count=total)
    counts = Counter((r.partition, json.loads(r.value)["source"]["offset"]) for r in results)
    assert not {place: count for place, count in counts.items() if count > 1}, "an orderly rebalance repeats nothing"
    assert second.stop() == 0


def test_nothing_is_lost_when_a_worker_is_killed_in_mid_flight(
    broker: Broker, start_worker: Start, unique_name: Name
) -> None:
    source, group = unique_name("source"), unique_name("group")
    broker.create_topic(source, partitions=4)
    total = 20_000
    broker.produce(source, [Record(f"text {i}".encode(), partition=i % 4) for i in range(total)])
    classifiers = [null(source, batch={"max_records": 8})]
    for _ in range(2):
        doomed = start_worker(broker, classifiers=classifiers, app={"id": group, "commit_interval_s": 0.2})
        doomed.wait_for(lambda w=doomed: w.metric("records_total", outcome="accepted") > 500, 60, "in mid-flight")
        doomed.kill()
    last = start_worker(broker, classifiers=classifiers, app={"id": group})

    def seen() -> set[tuple[int, int]]:
        results = broker.consume_all(f"{source}.results", count=1, timeout_s=60)
        return {(r.partition, json.loads(r.value)["source"]["offset"]) for r in results}

    last.wait_for(lambda: len(seen()) == total, 90, "done")
    assert last.stop() == 0


def test_several_brokers_and_a_token_for_the_web_server(
    apache_kafka: Broker, start_worker: Start, unique_name: Name
) -> None:
    source = unique_name("source")
    apache_kafka.create_topic(source)
    worker = start_worker(
        f"kafka://127.0.0.1:1,{apache_kafka.bootstrap}",
        classifiers=[null(source)],
        environ={"STREAM_CLASSIFIER__WEB__TOKEN": "secret-of-the-test"},
    )
    assert worker.get("/metrics")[0] == 401
    assert worker.get("/livez")[0] == 200
    assert worker.stop() == 0
    assert "secret-of-the-test" not in worker.log
