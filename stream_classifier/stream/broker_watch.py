"""Whether the broker answers: what /livez and the log say of it. Asked through a client of aiokafka's, now and then."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from aiokafka.errors import KafkaError

__all__ = ["BrokerWatch"]

logger = logging.getLogger(__name__)

_TRIES = 3
"""Each asks a node at random: one that is down is no broker that is away."""


class BrokerWatch:
    """Whether the broker answered when it was asked last, and a line in the log when that changes.

    Args:
        ask: asks any node for something, and raises aiokafka's error when there is no answer.
        late_s: after which the broker is said not to answer, before the question's own time-out.
    """

    def __init__(self, ask: Callable[[], Awaitable[object]], *, late_s: float = 5.0) -> None:
        self._ask = ask
        self._late_s = late_s
        self.answers = True

    async def look(self) -> None:
        """Ask once; returns when there is an answer, or nobody waits for it any more."""
        for tries_left in reversed(range(_TRIES)):
            asking = asyncio.ensure_future(self._ask())
            try:
                # Late, but not given up: aiokafka closes a connection that has gone silent when the question's own
                # time-out comes. Cancelled before, it would ask on that connection again, for as long as TCP keeps it.
                if not (await asyncio.wait([asking], timeout=self._late_s))[0]:
                    self._note(f"nothing within {self._late_s:g} s")
                await asking
            except (KafkaError, OSError, asyncio.TimeoutError) as error:
                if not tries_left:
                    self._note(type(error).__name__)
            else:
                self._note(None)
                return
            finally:
                asking.cancel()

    def _note(self, failure: str | None) -> None:
        if failure is not None and self.answers:
            logger.warning("the broker does not answer: %s", failure)
        elif failure is None and not self.answers:
            logger.info("the broker answers again")
        self.answers = failure is None
