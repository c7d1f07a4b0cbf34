"""The way of a record batch, with real codecs, queues, threads and delivery over a fake broker and small models."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from aiokafka import ConsumerRecord
from aiokafka.errors import KafkaTimeoutError
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_classifier import codecs
from stream_classifier.errors import DeliveryError, ModelError, RecordError
from stream_classifier.model.classifier import Classifier
from stream_classifier.model.protocols import TokenBatch
from tests.plugins.fake_kafka import FakeKafka
from tests.plugins.pipelines import DEAD, MAX_BYTES, NUM_PARTITIONS, SINKS, Running, Tokens, Words, running
from tests.plugins.records import record

VALUES: dict[str, bytes | None] = {
    "good": b'{"t": "one two three"}',
    "no json": b"one two",
    "no field": b'{"u": "one"}',
    "not utf-8": b"\xff\xfe",
    "null": None,
    "untokenizable": b'{"t": "untokenizable"}',
    "poison": b'{"t": "poison"}',
    "nan": b'{"t": "nan"}',
    "too large": b'{"t": "one"}',
}
STAGES = {  # kind → the stage at which each classifier fails on it
    "good": {},
    "no json": {"field": "decode"},
    "no field": {"field": "decode"},
    "not utf-8": dict.fromkeys(SINKS, "decode"),
    "null": dict.fromkeys(SINKS, "decode"),
    "untokenizable": {"tokens": "tokenize"},
    "poison": dict.fromkeys(SINKS, "infer"),
    "nan": dict.fromkeys(SINKS, "infer"),
    "too large": dict.fromkeys(SINKS, "deliver"),
}
ONLY = "stream-classifier.only"

kinds = st.tuples(st.sampled_from(sorted(VALUES)), st.none() | st.sets(st.sampled_from(sorted(SINKS)), min_size=1))
traffic = st.lists(st.tuples(st.integers(0, NUM_PARTITIONS - 1), st.lists(kinds, min_size=1, max_size=12)), max_size=6)


def of_kind(kind: str, offset: int, partition: int, only: set[str] | None) -> ConsumerRecord:
    headers = [] if only is None else [(ONLY, ",".join(sorted(only)).encode())]
    key = b"k" * MAX_BYTES if kind == "too large" else b"key"
    return record(offset, partition=partition, key=key, value=VALUES[kind], headers=headers)


@settings(max_examples=60, deadline=None)
@given(traffic)
def test_each_record_and_classifier_has_exactly_one_result_or_dead_letter(
    batches: list[tuple[int, list[tuple[str, set[str] | None]]]],
) -> None:
    async def scene() -> Running:
        kafka = FakeKafka()
        for sink in SINKS.values():
            kafka.limit(sink, MAX_BYTES)
        async with running(kafka) as made:
            at: Counter[int] = Counter()
            for partition, asked in batches:
                records = [of_kind(kind, at[partition] + i, partition, only) for i, (kind, only) in enumerate(asked)]
                at[partition] += len(records)
                made.submit(records)
            await made.until_finished()
            return made

    made = asyncio.run(scene())
    at: Counter[int] = Counter()
    expected: dict[str, list[tuple[int, int]]] = {name: [] for name in SINKS}
    failed: dict[tuple[int, int, str], set[str]] = defaultdict(set)
    for partition, asked in sorted(batches, key=lambda batch: batch[0]):
        for kind, only in asked:
            for name in SINKS:
                if only is None or name in only:
                    stage = STAGES[kind].get(name)
                    if stage is None:
                        expected[name].append((partition, at[partition]))
                    else:
                        failed[partition, at[partition], stage].add(name)
            at[partition] += 1
    for name in SINKS:
        results = made.results(name)
        assert [(r["source"]["partition"], r["source"]["offset"]) for r in results] == expected[name]
        assert {result["classifier"] for result in results} <= {name}
    letters = made.dead_letters()
    assert {(partition, offset, stage): set(named) for partition, offset, stage, named in letters} == failed
    assert len(letters) == len(failed)
    for partition in range(NUM_PARTITIONS):
        ended = [batch.offset for batch in made.finished if batch.partition == partition]
        assert ended == [batch.offset for batch in made.submitted if batch.partition == partition]


async def test_results_are_those_of_the_classifier_by_itself() -> None:
    texts = ["one", "one two three", "", "é 東京", "a b c d e f", "x" * 200]
    async with running(FakeKafka()) as made:
        made.submit([record(i, value=text.encode()) for i, text in enumerate(texts)])
        await made.until_finished()
        for name, model in (("words", Words()), ("tokens", Tokens())):
            alone = [prediction.as_dict() for prediction in Classifier.load(model, name=name)(texts)]
            written = [{key: result[key] for key in result if key in alone[0]} for result in made.results(name)]
            assert written == [{key: value for key, value in each.items() if key in alone[0]} for each in alone]
        assert [result.get("truncated", False) for result in made.results("tokens")] == [False] * 5 + [True]


async def test_a_batch_is_finished_only_when_everything_of_it_is_acknowledged() -> None:
    kafka = FakeKafka()
    gates = [kafka.hold(topic, 0) for topic in ("words-out", "tokens-out", DEAD)]
    async with running(kafka, ("words", "tokens")) as made:
        made.submit([of_kind(kind, i, 0, None) for i, kind in enumerate(("good", "null", "poison"))])
        for gate in gates:
            await made.until(lambda: len(kafka.requests) == 3)
            assert made.finished == []
            gate.set()
        await made.until_finished()


async def test_a_later_batch_is_not_finished_before_an_earlier_one_of_its_partition() -> None:
    kafka = FakeKafka()
    gate = kafka.hold("words-out", 0)
    async with running(kafka, ("words",)) as made:
        first, second = made.submit([record(0)]), made.submit([record(1)])
        other = made.submit([record(0, partition=1)])
        await made.until(lambda: bool(made.finished))
        assert made.finished == [other], "partitions do not wait for each other"
        gate.set()
        await made.until_finished()
        assert made.finished == [other, first, second]


async def test_a_dropped_batch_produces_nothing_and_is_not_finished() -> None:
    kafka = FakeKafka()
    async with running(kafka, ("words",)) as made:
        dropped = made.submit([record(0)])
        dropped.span.dropped = True
        last = made.submit([record(1)])
        await made.until(lambda: bool(made.finished))
        assert made.finished == [last]
        assert [result["source"]["offset"] for result in made.results("words")] == [1]


async def test_values_are_decoded_once_for_all_that_read_them_alike_and_tokenized_once_for_each_tokenizer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: Counter[str] = Counter()

    class Counting(Tokens):
        def encode(self, texts: Sequence[str]) -> TokenBatch:
            calls["encode"] += 1
            return super().encode(texts)

    def decode(codec: codecs.TextCodec, values: Sequence[bytes | None]) -> codecs.Decoded:
        calls["decode"] += 1
        return plain(codec, values)

    plain = codecs.TextCodec.decode
    monkeypatch.setattr(codecs.TextCodec, "decode", decode)
    model = Counting()
    async with running(FakeKafka(), models={"words": model, "tokens": model}) as made:
        calls.clear()
        made.submit([record(i) for i in range(5)])
        await made.until_finished()
        assert calls == {"decode": 1, "encode": 1}
        assert len(made.results("words")) == len(made.results("tokens")) == 5


async def test_a_result_the_codec_cannot_write_is_the_dead_letter_of_its_own_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def encode(codec: codecs.TextCodec, result: Mapping[str, Any]) -> bytes:
        if result["source"]["offset"] == 3:
            raise RecordError("deliver", "Unwritable", "no")
        return json.dumps(result).encode()

    monkeypatch.setattr(codecs.TextCodec, "writes_json", False)
    monkeypatch.setattr(codecs.TextCodec, "encode", encode)
    async with running(FakeKafka(), ("words",)) as made:
        made.submit([of_kind("null" if i == 1 else "good", i, 0, None) for i in range(5)])
        await made.until_finished()
        assert [result["source"]["offset"] for result in made.results("words")] == [0, 2, 4]
        assert made.dead_letters() == [(0, 1, "decode", ("words",)), (0, 3, "deliver", ("words",))]


class TestWhatStopsTheWorker:
    async def test_a_broken_model_dead_letters_nothing_and_finishes_nothing(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kafka = FakeKafka()
        async with running(kafka, ("words",)) as made:
            monkeypatch.setattr(Words, "broken", True)
            made.submit([record(i) for i in range(3)])
            made.submit([record(i) for i in range(3, 6)])
            with pytest.raises(ModelError):
                await made.until_finished()
        assert made.finished == []
        assert not kafka.log

    async def test_a_broker_that_fails_finishes_nothing_from_there_on(self) -> None:
        kafka = FakeKafka()
        kafka.refuse("words-out", KafkaTimeoutError(), key=b"bad")
        async with running(kafka, ("words",)) as made:
            first = made.submit([record(0)])
            await made.until_finished()
            made.submit([record(1, key=b"bad")])
            made.submit([record(2)])
            with pytest.raises(DeliveryError):
                await made.until_finished()
        assert made.finished == [first]
        assert [result["source"]["offset"] for result in made.results("words")] == [0]

    async def test_cancelling_leaves_nothing_running(self) -> None:
        kafka = FakeKafka()
        kafka.hold("words-out", 0)
        async with running(kafka, ("words",)) as made:
            for offset in range(5):
                made.submit([record(offset)])
            await made.until(lambda: bool(kafka.requests))
            made.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await made.task
        assert made.finished == []


async def test_what_became_of_every_record_is_counted_once_it_is_delivered() -> None:
    kafka = FakeKafka()
    kafka.limit("words-out", MAX_BYTES)
    gate = kafka.hold("words-out", 0)
    async with running(kafka, ("words", "tokens")) as made:
        kept = ["good", "null", "untokenizable", "poison", "nan", "too large", "good"]
        made.submit([of_kind(kind, i, 0, None) for i, kind in enumerate(kept)])
        await made.until(lambda: bool(kafka.requests))
        counted = made.metrics.render()[0].decode()
        assert "stream_classifier_records_total{" not in counted
        gate.set()
        await made.until_finished()
        counted = made.metrics.render()[0].decode()
    lines = [line for line in counted.splitlines() if line.startswith("stream_classifier_records_total{")]
    assert sorted(lines) == [
        'stream_classifier_records_total{classifier="",outcome="dead_letter"} 1.0',
        'stream_classifier_records_total{classifier="tokens",outcome="accepted"} 3.0',
        'stream_classifier_records_total{classifier="tokens",outcome="dead_letter"} 3.0',
        'stream_classifier_records_total{classifier="words",outcome="accepted"} 3.0',
        'stream_classifier_records_total{classifier="words",outcome="dead_letter"} 3.0',
    ]
