"""Whether the worker lives and whether it is ready: pure logic on a clock, served by web.py.

A worker that is not alive should be restarted, one that is not ready should be waited for. So liveness fails only for
what a restart can mend: work is there, the broker answers, and nothing is delivered.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

__all__ = ["Health"]


class Health:
    """The worker's health, asked for by probes every few seconds.

    The probes may come on another thread than the stream's calls.

    Args:
        pending: whether work waits: records in flight, or lag on an assigned partition.
        broker_answers: whether the broker answered lately. While it does not, a restart would not help.
        liveness_timeout_s: how long work may be pending with nothing delivered.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        *,
        pending: Callable[[], bool],
        broker_answers: Callable[[], bool],
        liveness_timeout_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pending = pending
        self._broker_answers = broker_answers
        self._liveness_timeout_s = liveness_timeout_s
        self._clock = clock
        self._num_deliveries = 0
        # When a probe first saw work pending and a broker that answers, with nothing delivered since; None: not so at
        # the last probe. Counting from there, and not from the last delivery, spares the worker that was idle for an
        # hour, or cut off from its broker, when work or broker come back; it is late by one probe at most.
        self._stalled_since: float | None = None
        self._deliveries_then = 0
        self._warm = False
        self._assigned = False

    def delivered(self) -> None:
        """Something was acknowledged (under exactly-once: committed). Once a batch is enough; from one thread only."""
        self._num_deliveries += 1

    def warm(self) -> None:
        """The models of all classifiers are loaded and warmed up."""
        self._warm = True

    def assigned(self) -> None:
        """An assignment was received, even an empty one."""
        self._assigned = True

    def livez(self) -> tuple[int, dict[str, Any]]:
        """(200 or 503, why), for a JSON body."""
        if not self._broker_answers():
            self._stalled_since = None
            return 200, {"status": "alive", "reason": "the broker does not answer: a restart would not help"}
        if not self._pending():
            self._stalled_since = None
            return 200, {"status": "alive", "reason": "nothing is pending"}
        now = self._clock()
        if self._stalled_since is None or self._num_deliveries != self._deliveries_then:
            self._stalled_since = now
            self._deliveries_then = self._num_deliveries
        stalled_s = round(now - self._stalled_since, 3)
        if stalled_s >= self._liveness_timeout_s:
            return 503, {
                "status": "stalled",
                "reason": "work is pending and nothing was delivered",
                "stalled_s": stalled_s,
                "liveness_timeout_s": self._liveness_timeout_s,
            }
        return 200, {"status": "alive", "reason": "work is pending", "stalled_s": stalled_s}

    def readyz(self) -> tuple[int, dict[str, Any]]:
        """(200 or 503, why), for a JSON body. Once ready, always ready: a rebalance is no reason to look away."""
        missing = [name for name, there in (("models", self._warm), ("assignment", self._assigned)) if not there]
        if missing:
            return 503, {"status": "starting", "waiting_for": missing}
        return 200, {"status": "ready"}
