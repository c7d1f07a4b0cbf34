"""What is in flight stays within two limits, and whoever waits for room gets it as soon as there is some."""

from __future__ import annotations

import asyncio

import pytest

from stream_classifier.stream.budget import Budget


async def turns(number: int = 5) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def test_room_is_what_the_records_leave():
    budget = Budget(100, 1000)
    budget.take(30, 10)
    assert budget.room == 70
    budget.give(30, 10)
    assert (budget.room, budget.records, budget.bytes) == (100, 0, 0)


@pytest.mark.parametrize(("records", "size"), [(100, 1), (150, 1), (1, 1000), (1, 5000)])
def test_there_is_none_once_either_limit_is_reached(records, size):
    budget = Budget(100, 1000)
    budget.take(records, size)
    assert budget.room == 0


async def test_room_that_is_there_is_not_waited_for():
    assert await Budget(1, 1).wait_for_room(0.0)


async def test_a_waiter_gets_room_when_enough_was_delivered_and_not_before():
    budget = Budget(100, 1000)
    budget.take(150, 10)
    waiter = asyncio.ensure_future(budget.wait_for_room(60.0))
    await turns()
    budget.give(50, 5)  # still full: 100 of 100
    await turns()
    assert not waiter.done()
    budget.give(1, 1)
    assert await waiter
    assert budget.room == 1


async def test_all_waiters_are_woken():
    budget = Budget(1, 10)
    budget.take(1, 1)
    waiters = [asyncio.ensure_future(budget.wait_for_room(60.0)) for _ in range(3)]
    await turns()
    budget.give(1, 1)
    assert await asyncio.gather(*waiters) == [True, True, True]


async def test_waiting_ends_with_its_time_out():
    budget = Budget(1, 10)
    budget.take(1, 1)
    assert not await budget.wait_for_room(0.001)
