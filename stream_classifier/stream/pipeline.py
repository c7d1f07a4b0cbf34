"""The way of a record batch: decode → tokenize → infer → decide → deliver → finished.

One pipeline for each source topic, shared by all its classifiers. Record batches overlap; each step is done once a
batch and off the event loop; outputs leave in the order of their partition (lanes.py). Nothing here is bounded, because
the consumer reads no more than the budget allows (budget.py). Whatever fails for one record becomes its dead letter;
whatever fails for all raises out of `run` and stops the worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from stream_classifier.codecs import Codec, Decoded
from stream_classifier.errors import RecordError
from stream_classifier.model.classifier import Classifier
from stream_classifier.model.decision import Predictions
from stream_classifier.model.protocols import TokenBatch
from stream_classifier.observe.metrics import Metrics
from stream_classifier.records import SourceRecord
from stream_classifier.stream.batcher import Batcher, TextList
from stream_classifier.stream.dead_letter import only_classifiers
from stream_classifier.stream.delivery import Delivery, Placement, Shipment
from stream_classifier.stream.guarantee import Guarantee
from stream_classifier.stream.lanes import Lane
from stream_classifier.stream.outputs import Route, dead_letters, results
from stream_classifier.stream.record_batch import RecordBatch
from stream_classifier.stream.recovery import Answer, encode_each
from stream_classifier.stream.reporting import BatchReport, BranchReport, report_delivery
from stream_classifier.stream.transactions import TransactionAborted
from stream_classifier.stream.watermark import TopicPartition

__all__ = ["Branch", "Pipeline", "Reading", "Threads"]


@dataclass(frozen=True)
class Threads:
    """Where the work runs: one thread for the models, one for decoding, tokenizing and encoding."""

    inference: Executor
    text: Executor


@dataclass(frozen=True)
class Branch:
    """One classifier of a source: its model's queue and where its outputs go."""

    route: Route
    classifier: Classifier
    batcher: Batcher[Any]


@dataclass(frozen=True)
class Reading:
    """One way to read the source's values, and the classifiers that read it so: decoded once for all of them."""

    codec: Codec
    branches: tuple[Branch, ...]


@dataclass
class _Read:
    """A record batch as one reading sees it."""

    reading: Reading
    decoded: Decoded
    tokens: dict[str, TokenBatch] = field(default_factory=dict)
    failed: dict[str, dict[int, RecordError]] = field(default_factory=dict)
    """tokenizer key → text → why it could not be tokenized; such a text stands as an empty one."""
    answers: list[Answer] = field(default_factory=list)
    """One for each branch, in their order."""
    tokenize_s: float = 0.0
    """How long decoding and tokenizing took."""


@dataclass
class _Outputs:
    shipments: list[Shipment]
    report: BatchReport


class Pipeline:
    """All classifiers of one source topic.

    Args:
        readings: the classifiers, by how they read the source.
        placement: chooses output partitions.
        delivery: produces, and returns when acknowledged.
        guarantee: when what is produced counts as delivered.
        threads: where decoding and tokenizing run.
        on_finished: called with each record batch when all it produced is acknowledged.
        on_delivered: called when outputs were delivered, once for several record batches.
        on_aborted: called when a partition has to be read again.
        metrics: told of every delivery.
    """

    def __init__(
        self,
        readings: Sequence[Reading],
        *,
        placement: Placement,
        delivery: Delivery,
        guarantee: Guarantee,
        threads: Threads,
        on_finished: Callable[[RecordBatch], None],
        on_delivered: Callable[[], None],
        on_aborted: Callable[[TransactionAborted], None],
        metrics: Metrics,
    ) -> None:
        self._readings = tuple(readings)
        self._placement = placement
        self._delivery = delivery
        self._guarantee = guarantee
        self._threads = threads
        self._on_finished = on_finished
        self._on_delivered = on_delivered
        self._on_aborted = on_aborted
        self._metrics = metrics
        self._lanes: dict[int, Lane[_Outputs]] = {}
        self._lane_tasks: set[asyncio.Task[None]] = set()
        self._lane_added = asyncio.Event()

    def submit(self, batch: RecordBatch) -> None:
        """Take a record batch that was read; returns at once."""
        lane = self._lanes.get(batch.partition)
        if lane is None:
            lane = self._lanes[batch.partition] = Lane(self._deliver)
            self._lane_tasks.add(asyncio.ensure_future(lane.run()))
            self._lane_added.set()
        lane.append(batch, asyncio.ensure_future(self._classify(batch)))

    async def run(self) -> None:
        """Deliver until cancelled. Raises the error that must stop the worker."""
        try:
            while True:
                self._lane_added.clear()
                wake = asyncio.ensure_future(self._lane_added.wait())
                try:
                    await asyncio.wait({wake, *self._lane_tasks}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    wake.cancel()
                for task in self._lane_tasks:
                    if task.done():
                        task.result()
        finally:
            for lane in self._lanes.values():
                lane.cancel()
            for task in self._lane_tasks:
                task.cancel()

    # One record batch -----------------------------------------------------------------------------------------------

    async def _classify(self, batch: RecordBatch) -> _Outputs:
        reads = await self._in_text_thread(self._read, batch)
        for read in reads:
            branches = read.reading.branches
            read.answers = await asyncio.gather(*(branch.batcher.answer(_work(read, branch)) for branch in branches))
        outputs: _Outputs = await self._in_text_thread(self._decide, batch, reads)
        return outputs

    async def _in_text_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads.text, function, *args)

    def _read(self, batch: RecordBatch) -> list[_Read]:
        """Decode once a reading, tokenize once a tokenizer."""
        values = [record.value for record in batch.records]
        reads = []
        for reading in self._readings:
            started = perf_counter()
            read = _Read(reading, reading.codec.decode(values))
            for branch in reading.branches:
                key = branch.classifier.tokenizer_key
                if key is not None and key not in read.tokens:
                    read.tokens[key], read.failed[key] = encode_each(branch.classifier.encode, read.decoded.texts)
            read.tokenize_s = perf_counter() - started
            reads.append(read)
        return reads

    def _decide(self, batch: RecordBatch, reads: list[_Read]) -> _Outputs:
        """Scores to results, copies and dead letters."""
        sources = list(batch.records)
        replayed = _replayed(sources)
        outputs = _Outputs([], BatchReport())
        for read in reads:
            for branch, answer in zip(read.reading.branches, read.answers, strict=True):
                self._decide_branch(branch, read, answer, sources, replayed, outputs)
        outputs.shipments += dead_letters(outputs.report.failures, sources, self._placement)
        return outputs

    def _decide_branch(
        self,
        branch: Branch,
        read: _Read,
        answer: Answer,
        sources: list[SourceRecord],
        replayed: dict[int, frozenset[str]],
        outputs: _Outputs,
    ) -> None:
        route, decoded, failures = branch.route, read.decoded, outputs.report.failures
        not_mine = {row for row, names in replayed.items() if route.classifier not in names}
        for row, error in decoded.errors:
            if row not in not_mine:
                failures.add(row, error, route)
        tokens = read.tokens.get(branch.classifier.tokenizer_key or "")
        truncated_N = branch.classifier.overlong(decoded.texts) if tokens is None else tokens.truncated_N
        predictions = branch.classifier.decide(answer.scores_NL, truncated_N)
        failed = {
            **_invalid(predictions),
            **answer.failures,
            **read.failed.get(branch.classifier.tokenizer_key or "", {}),
        }
        rows = decoded.rows
        for text, error in failed.items():
            if rows[text] not in not_mine:
                failures.add(rows[text], error, route)
        passthrough = decoded.passthrough
        if failed or not_mine:
            kept = [text for text in range(len(rows)) if text not in failed and rows[text] not in not_mine]
            rows = [rows[text] for text in kept]
            predictions = predictions.take(kept)
            passthrough = None if passthrough is None else [passthrough[text] for text in kept]
        mine = sources if len(rows) == len(sources) else [sources[row] for row in rows]
        if mine:
            shipments, unwritten = results(route, self._placement, mine, predictions, passthrough)
            outputs.shipments += shipments
            for index, error in unwritten.items():
                failures.add(rows[index], error, route)
            if unwritten:
                kept = [index for index in range(len(mine)) if index not in unwritten]
                mine, predictions = [mine[index] for index in kept], predictions.take(kept)
            num_tokens = 0 if tokens is None else len(tokens.input_ids_T)
            stage_seconds = {"queue": answer.queued_s, "tokenize": read.tokenize_s, "infer": answer.ran_s}
            outputs.report.branches.append(BranchReport(route.classifier, mine, predictions, num_tokens, stage_seconds))

    # One partition --------------------------------------------------------------------------------------------------

    async def _deliver(self, ready: list[tuple[RecordBatch, _Outputs]]) -> None:
        last = ready[-1][0]
        try:
            async with self._guarantee.step(TopicPartition(last.topic, last.partition)) as step:
                started = perf_counter()
                shipments = (shipment for _, outputs in ready for shipment in outputs.shipments)
                refusals = await self._delivery.deliver(step.producer, shipments)
                seconds = perf_counter() - started
                for batch, _ in ready:
                    self._on_finished(batch)
                step.end = last.offset + 1
                reports = [outputs.report for _, outputs in ready]
                step.delivered += [
                    lambda: report_delivery(self._metrics, reports, refusals, seconds),
                    self._on_delivered,
                ]
        except TransactionAborted as error:
            self._on_aborted(error)


def _work(read: _Read, branch: Branch) -> TokenBatch | TextList:
    key = branch.classifier.tokenizer_key
    return TextList(read.decoded.texts) if key is None else read.tokens[key]


def _replayed(sources: Sequence[SourceRecord]) -> dict[int, frozenset[str]]:
    """Row → the classifiers that record was replayed for."""
    named = ((row, only_classifiers(record)) for row, record in enumerate(sources) if record.headers)
    return {row: names for row, names in named if names is not None}


def _invalid(predictions: Predictions) -> dict[int, RecordError]:
    if not predictions.invalid_N.any():
        return {}
    error = RecordError("decide", "NonFiniteScores", "the model's scores are not finite numbers")
    return {int(row): error for row in predictions.invalid_N.nonzero()[0]}
