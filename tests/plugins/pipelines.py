"""A pipeline that runs in the test: two small models and their queues, real codecs and threads, an in-memory Kafka."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import numpy as np
from aiokafka import ConsumerRecord

from stream_classifier import codecs
from stream_classifier.model.classifier import Classifier
from stream_classifier.model.protocols import TokenBatch
from stream_classifier.observe.metrics import Metrics
from stream_classifier.stream.batcher import Batcher, Limits, TextList
from stream_classifier.stream.delivery import Delivery, Placement, Producer
from stream_classifier.stream.guarantee import AtLeastOnce
from stream_classifier.stream.outputs import Route
from stream_classifier.stream.pipeline import Branch, Pipeline, Reading, Threads
from stream_classifier.stream.record_batch import RecordBatch
from stream_classifier.stream.recovery import Recovery
from stream_classifier.stream.watermark import Span, TopicPartition
from tests.plugins.fake_kafka import FakeKafka

__all__ = ["DEAD", "MAX_BYTES", "NUM_PARTITIONS", "SINKS", "Running", "Tokens", "Words", "running"]

DEAD = "texts.dead-letter"
SINKS = {"words": "words-out", "tokens": "tokens-out", "field": "field-out"}
NUM_PARTITIONS = 2
MAX_BYTES = 3000


class Words:
    """A model that does not tokenize: the number of words decides. Fails on poison, is lost for words at "nan"."""

    labels = ("short", "long")
    problem_type = "single_label_classification"
    broken = False

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        if self.broken or any("poison" in text for text in texts):
            raise ValueError("the model fails")
        rows = [[math.nan, 0.0] if "nan" in text else [0.0, len(text.split()) - 2.5] for text in texts]
        return np.array(rows, dtype=np.float64).reshape(len(texts), 2)


class Tokens(Words):
    """The same in two halves; its tokenizer has no token for "untokenizable"."""

    def encode(self, texts: Sequence[str]) -> TokenBatch:
        if any("untokenizable" in text for text in texts):
            raise KeyError("no such token")
        return TokenBatch.from_lists([[0, *map(ord, text[:90])] for text in texts], [len(text) > 90 for text in texts])

    def forward(self, batch: TokenBatch) -> np.ndarray:
        ids = batch.input_ids_T
        return self.logits(["".join(map(chr, ids[a + 1 : b])) for a, b in pairwise(batch.offsets)])


class Running:
    """A pipeline that runs: what it was given, what it finished, and what it wrote."""

    def __init__(
        self, kafka: FakeKafka, readings: Sequence[Reading], placement: Placement, producer: Producer, threads: Threads
    ) -> None:
        self.kafka = kafka
        self.metrics = Metrics()
        self.submitted: list[RecordBatch] = []
        self.finished: list[RecordBatch] = []
        self._changed = asyncio.Event()
        kafka.on_request = self._changed.set
        self.pipeline = Pipeline(
            readings,
            placement=placement,
            delivery=Delivery(placement),
            guarantee=AtLeastOnce(producer),
            threads=threads,
            on_finished=self._finish,
            on_delivered=lambda: None,
            on_aborted=lambda error: None,
            metrics=self.metrics,
        )
        self.task: asyncio.Future[None] = asyncio.ensure_future(self.pipeline.run())

    def _finish(self, batch: RecordBatch) -> None:
        self.finished.append(batch)
        self._changed.set()

    def submit(self, records: Sequence[ConsumerRecord]) -> RecordBatch:
        batch = RecordBatch("texts", records[0].partition, records)
        tp = TopicPartition("texts", batch.partition)
        batch.span = Span(tp, batch.first_offset, batch.offset, len(batch), batch.num_bytes)
        self.submitted.append(batch)
        self.pipeline.submit(batch)
        return batch

    async def until(self, done: Callable[[], bool]) -> None:
        """Wait for what a request or a finished batch brings about; raises what ends the pipeline before."""
        while not done():
            self._changed.clear()
            change = asyncio.ensure_future(self._changed.wait())
            await asyncio.wait({change, self.task}, return_when=asyncio.FIRST_COMPLETED)
            change.cancel()
            if self.task.done():
                await self.task

    async def until_finished(self) -> None:
        await self.until(lambda: len(self.finished) == len(self.submitted))

    def results(self, classifier: str) -> list[dict[str, Any]]:
        log = self.kafka.log
        return [
            json.loads(value or b"")
            for partition in range(NUM_PARTITIONS)
            for _, value, _, _ in log[SINKS[classifier], partition]
        ]

    def dead_letters(self) -> list[tuple[int, int, str, tuple[str, ...]]]:
        """(partition, offset, stage, classifiers)."""
        found = []
        for partition in range(NUM_PARTITIONS):
            for _, _, _, headers in self.kafka.log[DEAD, partition]:
                of = {name.removeprefix("__connect.errors."): value.decode() for name, value in headers}
                named = tuple(of["stream-classifier.classifiers"].split(","))
                found.append((int(of["partition"]), int(of["offset"]), of["stage"], named))
        return found


@asynccontextmanager
async def running(
    kafka: FakeKafka, names: Sequence[str] = ("words", "tokens", "field"), models: Mapping[str, Words] | None = None
) -> AsyncIterator[Running]:
    """A pipeline of classifiers: "words" and "tokens" read the whole value, "field" a field of JSON."""
    if models is None:
        models = {name: Tokens() if name == "tokens" else Words() for name in names}
    with ThreadPoolExecutor(1) as inference, ThreadPoolExecutor(1) as text:
        branches = {name: _branch(name, model, inference) for name, model in models.items()}
        fields = [branch for name, branch in branches.items() if name == "field"]
        others = [branch for name, branch in branches.items() if name != "field"]
        readings = [Reading(group[0].route.codec, tuple(group)) for group in (others, fields) if group]
        placement = Placement("texts", NUM_PARTITIONS, {DEAD: NUM_PARTITIONS, **dict.fromkeys(SINKS.values(), 2)})
        async with kafka.producer(max_batch_bytes=2000) as producer:
            made = Running(kafka, readings, placement, producer, Threads(inference, text))
            queues = [asyncio.ensure_future(branch.batcher.run()) for branch in branches.values()]
            try:
                yield made
            finally:
                for task in (made.task, *queues):
                    task.cancel()
                await asyncio.gather(made.task, *queues, return_exceptions=True)


def _branch(name: str, model: Words, inference: ThreadPoolExecutor) -> Branch:
    classifier = Classifier.load(model, name=name)
    call: Any = classifier.answer if classifier.tokenizer_key is None else classifier.forward
    probe: Any = TextList(["warm up"]) if classifier.tokenizer_key is None else classifier.encode(["warm up"])
    concatenate: Any = TextList.concatenate if classifier.tokenizer_key is None else TokenBatch.concatenate
    batcher: Batcher[Any] = Batcher(
        Recovery(call, num_labels=2, probe=probe),
        concatenate,
        thread=inference,
        limits=Limits(max_tokens=300, max_records=7, max_wait_s=0.0),
        observer=_Silent(),
        on_hang=lambda: None,
    )
    codec = codecs.create("json", text="/t") if name == "field" else codecs.create("text")
    return Branch(Route(name, "free", {"name": name, "digest": None}, SINKS[name], DEAD, codec), classifier, batcher)


class _Silent:
    def micro_batch(self, **counts: int) -> None: ...
