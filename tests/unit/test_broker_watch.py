"""What is said of the broker: true of a broker that is away, of a node that is, and of a connection gone silent."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest
from aiokafka.errors import KafkaConnectionError, NodeNotReadyError, RequestTimedOutError

from stream_classifier.stream.broker_watch import BrokerWatch

Answers = list[Exception | None]


def asked(answers: Answers) -> Callable[[], asyncio.Future[None]]:
    """Answers one question after the other: with an error, or well."""

    async def ask() -> None:
        if (error := answers.pop(0)) is not None:
            raise error

    return lambda: asyncio.ensure_future(ask())


async def turn() -> None:
    await asyncio.sleep(0)


async def test_a_broker_that_goes_away_and_comes_back_is_one_line_each(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    away: Answers = [KafkaConnectionError()] * 3
    watch = BrokerWatch(asked([None, *away, *away, None, None]))
    seen = []
    for _ in range(5):
        await watch.look()
        seen.append(watch.answers)
    assert seen == [True, False, False, True, True]
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["the broker does not answer: KafkaConnectionError", "the broker answers again"]


async def test_one_node_that_is_down_is_not_the_broker(caplog: pytest.LogCaptureFixture) -> None:
    watch = BrokerWatch(asked([NodeNotReadyError(), NodeNotReadyError(), None]))
    await watch.look()
    assert watch.answers
    assert not caplog.records


async def test_a_question_without_an_answer_is_reported_at_once_and_left_to_its_own_time_out() -> None:
    """Only that makes aiokafka end the silent connection, so that the next question goes over a new one."""
    first = asyncio.get_running_loop().create_future()
    questions = iter([first])

    async def ask() -> None:
        question = next(questions, None)
        if question is not None:
            await question

    watch = BrokerWatch(ask, late_s=0.0)
    looking = asyncio.ensure_future(watch.look())
    for _ in range(10):
        await turn()
    assert not watch.answers
    assert not first.cancelled()
    first.set_exception(RequestTimedOutError())
    await looking
    assert watch.answers


async def test_no_question_is_left_behind_when_the_worker_stops() -> None:
    question = asyncio.get_running_loop().create_future()

    async def ask() -> None:
        await question

    looking = asyncio.ensure_future(BrokerWatch(ask).look())
    for _ in range(3):
        await turn()
    looking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looking
    await turn()
    assert question.cancelled()
