"""An answer about committed offsets that has an error for the group is not taken for "nothing is committed"."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import GroupAuthorizationFailedError
from aiokafka.protocol.commit import OffsetFetchResponse_v1, OffsetFetchResponse_v3

from stream_classifier.stream.committed_offsets import heed_group_errors
from stream_classifier.stream.fetching import BatchConsumerThread

TP = TopicPartition("texts", 3)
LOADING, NOT_AVAILABLE, MOVED, NOT_ALLOWED = 14, 15, 16, 30


class Coordinator(GroupCoordinator):
    """aiokafka's own, whose broker answers from a list."""

    def __init__(self, answers: list[Any]) -> None:
        self.group_id = "group"
        self._retry_backoff_ms = 0
        self.answers = answers
        self.marked_dead = 0

    def __del__(self) -> None:
        """It was not started."""

    async def ensure_coordinator_known(self) -> None:
        """It always is."""

    async def _send_req(self, request: Any) -> Any:
        return self.answers.pop(0)

    def coordinator_dead(self) -> None:
        self.marked_dead += 1


def answer(offset: int) -> Any:
    return OffsetFetchResponse_v3(0, [("texts", [(3, offset, "", 0)])], 0)


def refusal(code: int) -> Any:
    return OffsetFetchResponse_v3(0, [], code)


async def committed(coordinator: Coordinator) -> int | None:
    heed_group_errors(SimpleNamespace(_coordinator=coordinator))
    offsets = await coordinator.fetch_committed_offsets([TP])
    return offsets[TP].offset if TP in offsets else None


@pytest.mark.parametrize(("code", "marked_dead"), [(LOADING, 0), (NOT_AVAILABLE, 1), (MOVED, 1)])
async def test_a_coordinator_that_cannot_say_yet_is_asked_again(code: int, marked_dead: int) -> None:
    coordinator = Coordinator([refusal(code), answer(7)])
    assert await committed(coordinator) == 7
    assert coordinator.marked_dead == marked_dead


async def test_what_no_second_question_helps_is_raised() -> None:
    with pytest.raises(GroupAuthorizationFailedError):
        await committed(Coordinator([refusal(NOT_ALLOWED)]))


async def test_the_workers_consumer_does_so(monkeypatch: pytest.MonkeyPatch) -> None:
    coordinator = Coordinator([refusal(LOADING), answer(7)])
    consumer = SimpleNamespace(_coordinator=coordinator, _fetcher=SimpleNamespace())
    monkeypatch.setattr(BatchConsumerThread.__mro__[1], "on_start", lambda self: asyncio.sleep(0))
    thread = object.__new__(BatchConsumerThread)
    monkeypatch.setattr(thread, "_ensure_consumer", lambda: consumer)
    await thread.on_start()
    assert (await coordinator.fetch_committed_offsets([TP]))[TP].offset == 7


@pytest.mark.parametrize("response", [answer(-1), OffsetFetchResponse_v1([("texts", [(3, -1, "", 0)])])])
async def test_nothing_committed_is_still_nothing(response: Any) -> None:
    assert await committed(Coordinator([response])) is None


async def test_offsets_are_those_of_the_answer() -> None:
    assert await committed(Coordinator([answer(7)])) == 7
