"""`classify(stream, text=…)`: events in order, acknowledged when the body asks for more, never before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import pytest

from stream_classifier.errors import ModelError, RecordError
from stream_classifier.stream.inline import classify_events


@dataclass(frozen=True)
class Event:
    value: Any


class Stream:
    """A Faust stream over a list; then it ends, raises, or waits for more."""

    def __init__(self, values: Sequence[Any], then: Exception | None = None, *, ends: bool = True) -> None:
        self.waiting = [Event(value) for value in values]
        self.read = 0
        self.acked: list[Any] = []
        self._then = then
        self._ends = ends
        self._acks_by_itself = True

    def noack(self) -> Stream:
        self._acks_by_itself = False
        return self

    async def events(self) -> AsyncIterator[Event]:
        assert not self._acks_by_itself, "Faust would acknowledge each event as soon as the next is asked for"
        for event in self.waiting:
            self.read += 1
            yield event
        if self._then is not None:
            raise self._then
        if not self._ends:
            await asyncio.Event().wait()

    async def ack(self, event: Event) -> bool:
        self.acked.append(event.value)
        return True


async def lengths(texts: Sequence[str]) -> list[int]:
    return [len(text) for text in texts]


def batches(stream: Stream, answer: Any = lengths, *, text: Any = str, max_records: int = 3) -> Any:
    return aclosing(classify_events(stream, answer, text=text, max_records=max_records))


async def collect(stream: Stream, **options: Any) -> list[list[tuple[Any, Any]]]:
    async with batches(stream, **options) as answered:
        return [[(event.value, answer) for event, answer in batch] async for batch in answered]


async def turns(number: int = 10) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


@pytest.mark.parametrize("max_records", [1, 2, 3, 100])
async def test_every_event_is_answered_once_in_order_in_batches_of_the_limit_at_most(max_records: int) -> None:
    values = ["x" * i for i in range(10)]
    stream = Stream(values)
    answered = await collect(stream, max_records=max_records)
    assert [pair for batch in answered for pair in batch] == [(value, len(value)) for value in values]
    assert max(map(len, answered)) <= max_records
    assert stream.acked == values


async def test_a_batch_is_acknowledged_when_the_next_one_is_asked_for() -> None:
    stream = Stream(["a", "b", "c", "d"], ends=False)
    async with batches(stream, max_records=2) as answered:
        first = await anext(answered)
        await turns()
        assert stream.acked == []
        await anext(answered)
        assert stream.acked == [event.value for event, _ in first]


async def test_a_body_that_raises_leaves_its_batch_unacknowledged() -> None:
    stream = Stream(["a", "b", "c", "d"], ends=False)
    seen: list[list[str]] = []

    async def body() -> None:
        async with batches(stream, max_records=2) as answered:
            async for batch in answered:
                seen.append([event.value for event, _ in batch])
                if len(seen) == 2:
                    raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await body()
    assert stream.acked == seen[0]


async def test_an_answer_that_fails_is_raised_and_nothing_is_acknowledged() -> None:
    async def broken(texts: Sequence[str]) -> list[Any]:
        raise ModelError("it is broken")

    stream = Stream(["a", "b"])
    with pytest.raises(ModelError):
        await collect(stream, answer=broken)
    assert stream.acked == []


async def test_an_event_without_a_text_gets_its_own_error_and_is_not_asked_about() -> None:
    asked: list[str] = []

    async def answer(texts: Sequence[str]) -> list[int]:
        asked.extend(texts)
        return [len(text) for text in texts]

    stream = Stream([{"body": "one"}, {}, {"body": 17}, {"body": "three"}], ends=True)
    [pairs] = await collect(stream, answer=answer, text=lambda value: value["body"], max_records=10)
    answers = [answer for _, answer in pairs]
    assert (answers[0], answers[3]) == (3, 5)
    assert [(type(answer), answer.stage, answer.reason) for answer in answers[1:3]] == [
        (RecordError, "decode", "KeyError"),
        (RecordError, "decode", "TypeError"),
    ]
    assert "17" not in str(answers[2])
    assert asked == ["one", "three"]
    assert len(stream.acked) == 4


async def test_a_batch_without_any_text_asks_nothing_of_the_model() -> None:
    async def answer(texts: Sequence[str]) -> list[int]:
        raise AssertionError("there is nothing to ask")

    [[(_, error)]] = await collect(Stream([None]), answer=answer, text=lambda value: value)
    assert isinstance(error, RecordError)


async def test_what_the_stream_raises_comes_after_all_that_was_read_before() -> None:
    stream = Stream(["a", "b", "c"], then=ConnectionError())
    seen: list[str] = []

    async def body() -> None:
        async with batches(stream, max_records=2) as answered:
            async for batch in answered:
                seen.extend(event.value for event, _ in batch)

    with pytest.raises(ConnectionError):
        await body()
    assert seen == stream.acked == ["a", "b", "c"]


async def test_no_more_is_read_ahead_than_a_batch() -> None:
    stream = Stream(["x"] * 100, ends=False)
    async with batches(stream, max_records=5) as answered:
        await anext(answered)
        await turns(50)
        assert stream.read <= 5 + 5 + 1  # the batch, those that wait, and the one that has no place yet


async def test_events_that_come_while_the_model_works_are_one_batch() -> None:
    gate = asyncio.Event()

    async def slow(texts: Sequence[str]) -> list[int]:
        await gate.wait()
        return [0] * len(texts)

    stream = Stream(["x"] * 9, ends=False)
    async with batches(stream, slow, max_records=8) as answered:
        first = asyncio.ensure_future(anext(answered))
        await turns(50)
        gate.set()
        assert len(await first) + len(await anext(answered)) == 9
