"""Classify inside an agent of the user's own, on any stream of events.

The stream keeps Faust's record-by-record path; events are gathered while the model is busy, answered in micro-batches,
and acknowledged when the body asks for the next batch: a body that raises leaves its batch unacknowledged.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from typing import Any, Protocol

from stream_classifier.errors import RecordError
from stream_classifier.model.classifier import Classifier
from stream_classifier.records import Prediction
from stream_classifier.stream.batcher import Batcher, TextList
from stream_classifier.stream.recovery import encode_each

__all__ = ["EventStream", "answer_texts", "classify_events"]

Answered = list[tuple[Any, "Prediction | RecordError"]]


class EventStream(Protocol):
    """What is used of a Faust stream."""

    def noack(self) -> EventStream: ...
    def events(self) -> AsyncIterator[Any]: ...
    async def ack(self, event: Any) -> bool: ...


async def answer_texts(
    classifier: Classifier, batcher: Batcher[Any], text_thread: Executor, texts: Sequence[str]
) -> list[Prediction | RecordError]:
    """A prediction for each text, or why it has none."""
    failed: dict[int, RecordError] = {}
    if classifier.tokenizer_key is None:
        work: Any = TextList(texts)
        truncated = classifier.overlong(texts)
    else:
        loop = asyncio.get_running_loop()
        work, failed = await loop.run_in_executor(text_thread, encode_each, classifier.encode, list(texts))
        truncated = work.truncated_N
    answer = await batcher.answer(work)
    failed = {**answer.failures, **failed}
    good = [row for row in range(len(texts)) if row not in failed]
    predictions = classifier.decide(answer.scores_NL[good], truncated[good])
    answered: list[Prediction | RecordError] = [failed.get(row, _UNANSWERED) for row in range(len(texts))]
    for row, prediction in zip(good, predictions, strict=True):
        answered[row] = prediction
    return answered


_UNANSWERED = RecordError("infer", "Unanswered", "the model gave no answer")


async def classify_events(
    stream: EventStream,
    answer: Callable[[Sequence[str]], Any],
    *,
    text: Callable[[Any], Any],
    max_records: int,
) -> AsyncIterator[Answered]:
    """Batches of (event, answer), in the order of the stream. See `StreamClassifier.classify`.

    Args:
        answer: texts to a list of Prediction or RecordError.
        text: an event's value to its text; what it raises becomes that event's RecordError.
        max_records: events in a batch at most, and events waiting behind it.
    """
    acks = stream.noack()
    waiting: asyncio.Queue[Any] = asyncio.Queue(maxsize=max_records)
    feeder = asyncio.ensure_future(_feed(acks, waiting))
    try:
        while True:
            events = await _take(waiting, feeder, max_records)
            if not events:
                return
            yield await _answer_events(events, answer, text)
            for event in events:
                await acks.ack(event)
    finally:
        feeder.cancel()
        await asyncio.gather(feeder, return_exceptions=True)


async def _feed(stream: EventStream, waiting: asyncio.Queue[Any]) -> None:
    async for event in stream.events():
        await waiting.put(event)


async def _take(waiting: asyncio.Queue[Any], feeder: asyncio.Future[None], max_records: int) -> list[Any]:
    """All events that wait, at least one; none when the stream has ended. Raises what the stream raised."""
    if waiting.empty():
        getter = asyncio.ensure_future(waiting.get())
        try:
            await asyncio.wait({getter, feeder}, return_when=asyncio.FIRST_COMPLETED)
            events = [getter.result()] if getter.done() else []
        finally:
            getter.cancel()
    else:
        events = []
    while len(events) < max_records and not waiting.empty():
        events.append(waiting.get_nowait())
    if not events and feeder.done():
        feeder.result()
    return events


async def _answer_events(
    events: Sequence[Any], answer: Callable[[Sequence[str]], Any], text: Callable[[Any], Any]
) -> Answered:
    answers: list[Prediction | RecordError | None] = []
    texts: list[str] = []
    for event in events:
        try:
            value = text(event.value)
            if not isinstance(value, str):
                raise TypeError(f"text= gave {type(value).__name__}, not str")
        except Exception as error:  # noqa: BLE001 - the user's function; its failure is this event's alone
            answers.append(
                RecordError("decode", type(error).__name__, f"no text in this event: {type(error).__name__}")
            )
        else:
            answers.append(None)
            texts.append(value)
    answered = iter(await answer(texts) if texts else [])
    return [(event, next(answered) if known is None else known) for event, known in zip(events, answers, strict=True)]
