"""`stream-classifier dead-letters` against brokers: counts, single letters, and replay of each letter once."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from aiokafka.errors import KafkaTimeoutError

from stream_classifier.cli import main
from stream_classifier.stream.producer import TransactionalProducer
from tests.integration.test_worker import null
from tests.plugins.brokers import Broker, Record
from tests.plugins.workers import Worker

Start = Callable[..., Worker]
Name = Callable[[str], str]
Run = Callable[..., Any]

SECRET = "our secret text"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `stream-classifier dead-letters …`; its JSON, or its output with `as_json=False`."""

    def run(command: str, *arguments: str, code: int = 0, as_json: bool = True) -> Any:
        capsys.readouterr()
        flags = ["--json"] if as_json else []
        assert main(["dead-letters", command, *arguments, *flags]) == code, capsys.readouterr().err
        out, err = capsys.readouterr()
        return json.loads(out) if as_json and code != 2 else out + err

    return run


def letter(source: str, *, offset: int = 0, value: bytes | None = b"v", headers: Any = (), **told: str) -> Record:
    """A dead letter made by hand, as docs/reference/records.md says."""
    envelope = {
        "__connect.errors.topic": source,
        "__connect.errors.partition": "0",
        "__connect.errors.offset": str(offset),
        "__connect.errors.stage": "infer",
        "__connect.errors.exception.class.name": "ValueError",
        "__connect.errors.exception.message": "the model fails on this text: ValueError",
        "stream-classifier.classifiers": "null",
        **told,
    }
    made = [*headers, *((name, text.encode()) for name, text in envelope.items())]
    return Record(value, key=b"k%d" % offset, headers=made, timestamp_ms=1_700_000_000_000 + offset, partition=0)


def test_replaying_one_classifiers_failures_gives_the_other_no_second_result(
    broker: Broker, start_worker: Start, unique_name: Name, run: Run
) -> None:
    source = unique_name("source")
    broker.create_topic(source, partitions=2)
    first = null(source, name="first", sink=f"{source}.first", text="/body")
    second = null(source, name="second", sink=f"{source}.second", text="/title")
    documents = [json.dumps({"body": SECRET, "title": "t"})] * 6 + [json.dumps({"body": SECRET})] * 4 + ["{"] * 2
    records = [
        Record(
            document.encode(),
            key=b"\xff%d" % number,
            headers=[("trace", b"\x00\xff"), ("trace", b"2")],
            timestamp_ms=1_700_000_000_000 + number,
            partition=number % 2,
        )
        for number, document in enumerate(documents)
    ]
    placed = broker.produce(source, records)
    worker = start_worker(broker, classifiers=[first, second], app={"id": source})
    letters = f"{source}.dead-letter"
    broker.consume_all(letters, count=6, timeout_s=60)
    assert worker.stop() == 0

    at = [letters, "--broker", broker.bootstrap]
    counts = run("list", *at)
    assert counts["num_letters"] == 6
    assert [(g["num_letters"], g["stage"], g["error"], g["classifiers"]) for g in counts["groups"]] == [
        (4, "decode", "MissingField", ["second"]),
        (2, "decode", "InvalidJson", ["first", "second"]),
    ]
    assert run("list", *at, "--classifier", "first")["num_letters"] == 2
    missing = [*at, "--error", "MissingField"]
    assert SECRET not in run("show", *missing, as_json=False)
    assert SECRET in run("show", *missing, "--show-text", "--limit", "1", as_json=False)

    delivery = ["--delivery", "at_least_once" if broker.kind == "embedded" else "exactly_once"]
    assert run("replay", *missing, *delivery, "--dry-run")["num_replayed"] == 4
    assert len(broker.consume_all(source, count=12)) == 12
    assert run("replay", *missing, *delivery)["sources"] == {source: 4}
    again = run("replay", *missing, *delivery)
    assert (again["num_replayed"], again["kept"]["done_before"]) == (0, 4)

    sent = broker.consume_all(source, count=16)
    replayed = [record for record in sent if (record.partition, record.offset) not in placed]
    assert sorted((r.partition, r.key, r.value, r.timestamp) for r in replayed) == sorted(
        (r.partition, r.key, r.value, r.timestamp_ms) for r in records[6:10]
    )
    only = [("stream-classifier.only", b"second"), ("stream-classifier.replays", b"1")]
    assert all(list(r.headers) == [("trace", b"\x00\xff"), ("trace", b"2"), *only] for r in replayed)

    mended = {**second, "text": "/body"}
    worker = start_worker(broker, classifiers=[first, mended], app={"id": source})
    assert len(broker.consume_all(f"{source}.second", count=10, timeout_s=60)) == 10
    assert worker.stop() == 0
    assert len(broker.consume_all(f"{source}.first", count=10)) == 10
    assert len(broker.consume_all(letters, count=6)) == 6


def test_each_letter_is_sent_once_whatever_is_selected_and_in_whatever_order(
    apache_kafka: Broker, unique_name: Name, run: Run
) -> None:
    source = unique_name("source")
    letters = f"{source}.dead-letter"
    apache_kafka.create_topic(source)
    apache_kafka.create_topic(letters)
    stages = ["infer", "decode", "deliver"]
    apache_kafka.produce(
        letters,
        [letter(source, offset=i, **{"__connect.errors.stage": stages[i % 3]}) for i in range(900)],
    )
    at = [letters, "--broker", apache_kafka.bootstrap]
    counts = [
        run("replay", *at, *options)["num_replayed"]
        for options in (["--stage", "decode"], ["--offset", "100-199"], ["--stage", "decode"], [], [])
    ]
    assert counts == [300, 66, 0, 534, 0]
    keys = [record.key for record in apache_kafka.consume_all(source, count=900)]
    assert sorted(keys) == sorted(b"k%d" % i for i in range(900))
    assert run("replay", *at, "--group", unique_name("afresh"), "--dry-run")["num_replayed"] == 900


def test_a_replay_that_dies_in_between_sends_nothing_twice(
    apache_kafka: Broker, unique_name: Name, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = unique_name("source")
    letters = f"{source}.dead-letter"
    apache_kafka.create_topic(source)
    apache_kafka.create_topic(letters)
    apache_kafka.produce(letters, [letter(source, offset=i) for i in range(1200)])
    at = [letters, "--broker", apache_kafka.bootstrap]
    commit, calls = TransactionalProducer.commit, []

    async def failing(self: TransactionalProducer, *arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise KafkaTimeoutError
        await commit(self, *arguments)

    monkeypatch.setattr(TransactionalProducer, "commit", failing)
    assert "it goes on where it was" in run("replay", *at, as_json=False, code=1)
    assert 0 < len(apache_kafka.consume_all(source)) < 1200
    run("replay", *at)
    keys = [record.key for record in apache_kafka.consume_all(source, count=1200)]
    assert sorted(keys) == sorted(b"k%d" % i for i in range(1200))


def test_what_cannot_or_should_not_be_replayed_stays_and_is_told(
    apache_kafka: Broker, unique_name: Name, run: Run
) -> None:
    source, other = unique_name("source"), unique_name("other")
    letters = f"{source}.dead-letter"
    apache_kafka.create_topic(source, config={"max.message.bytes": "20000"})
    apache_kafka.create_topic(other)
    apache_kafka.create_topic(letters)
    apache_kafka.produce(
        letters,
        [
            letter(source, offset=0, headers=[("stream-classifier.replays", b"3")]),
            letter(source, offset=1, value=None, **{"stream-classifier.value-size": "12345678"}),
            letter(other, offset=2),
            Record(b"no letter at all"),
            letter(source, offset=4, value=b"x" * 50_000),
            letter(source, offset=5, headers=[("a", b""), ("stream-classifier.replays", b"2")]),
            letter(source, offset=6, value=None),
        ],
    )
    at = [letters, "--broker", apache_kafka.bootstrap]
    outcome = run("replay", *at, code=1)
    assert outcome["sources"] == {source: 2}
    reasons = {"too_often": 1, "value_lost": 1, "other_source": 1, "no_letter": 1, "refused": 1}
    assert outcome["kept"] == reasons
    assert "TooLarge" in outcome["refusals"][source]
    text = run("replay", *at, "--dry-run", as_json=False)
    assert "2 were replayed before" in text
    assert "1 were replayed as often as --max-replays allows" in text
    sent = apache_kafka.consume_all(source, count=2)
    assert [(record.key, record.value) for record in sent] == [(b"k5", b"v"), (b"k6", None)]
    assert list(sent[0].headers) == [
        ("a", b""),
        ("stream-classifier.only", b"null"),
        ("stream-classifier.replays", b"3"),
    ]
    assert run("replay", *at, "--source", other)["sources"] == {other: 1}
    assert run("replay", *at, "--max-replays", "4", "--offset", "0")["sources"] == {source: 1}


def test_a_record_that_always_fails_comes_to_rest(
    apache_kafka: Broker, start_worker: Start, unique_name: Name, run: Run
) -> None:
    source = unique_name("source")
    letters = f"{source}.dead-letter"
    apache_kafka.create_topic(source)
    apache_kafka.produce(source, [Record(b"\xff", headers=[("trace", b"1")])])
    start_worker(apache_kafka, classifiers=[null(source)])
    at = ["replay", letters, "--broker", apache_kafka.bootstrap, "--max-replays", "2"]
    for number in range(1, 4):
        [*_, last] = apache_kafka.consume_all(letters, count=number, timeout_s=60)
        assert [value for name, value in last.headers if name == "stream-classifier.replays"] == (
            [b"%d" % (number - 1)] if number > 1 else []
        )
        outcome = run(*at)
        assert outcome["num_replayed"] == (1 if number < 3 else 0)
    assert outcome["kept"] == {"done_before": 2, "too_often": 1}
    assert len(apache_kafka.consume_all(source)) == 3


def test_wrong_topics_and_brokers_are_refused_in_one_line(apache_kafka: Broker, unique_name: Name, run: Run) -> None:
    missing = unique_name("missing")
    at = ["--broker", apache_kafka.bootstrap]
    for command in ("list", "show", "replay"):
        assert "does not exist" in run(command, f"{missing}.dead-letter", *at, code=2, as_json=False)
    assert "give --source" in run("replay", missing, *at, code=2, as_json=False)
    with apache_kafka.admin() as admin:
        assert not [topic for topic in admin.list_topics() if missing in topic], "asking must not make a topic"
