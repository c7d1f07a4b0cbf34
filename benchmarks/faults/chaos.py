"""The faults: what they do, and a plan of them that a seed fixes."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence

from benchmarks.faults.fleet import Fleet
from tests.plugins.network import ProxiedKafka

__all__ = ["FAULTS", "Chaos"]


class Chaos:
    """Injects faults, one after the other.

    Args:
        seed: fixes which faults come, when, and to whom.
        faults: their names, of FAULTS; each as often as it is named.
        every_s: the mean time between two.
        freeze_s: how long a frozen worker stands still.
        max_workers: a worker joins only below that.
        say: told of every fault.
    """

    def __init__(
        self,
        seed: int,
        faults: Sequence[str],
        *,
        fleet: Fleet,
        kafka: ProxiedKafka,
        every_s: float,
        freeze_s: float,
        max_workers: int,
        say: Callable[[str], None],
    ) -> None:
        self._dice = random.Random(seed)
        self._faults = list(faults)
        self._fleet = fleet
        self._kafka = kafka
        self._every_s = every_s
        self._freeze_s = freeze_s
        self._max_workers = max_workers
        self._say = say
        self._thaw: tuple[float, int] | None = None
        self.counts: Counter[str] = Counter()

    def run(self, seconds: float, *, min_kills: int = 0) -> None:
        """Inject faults for so long, and until so many workers were killed; at the end the broker runs and no worker
        stands still.
        """
        deadline = time.monotonic() + seconds
        while (now := time.monotonic()) < deadline or self.counts["kill"] < min_kills:
            self._wait_until(now + self._every_s * self._dice.uniform(0.5, 1.5))
            fault = self._dice.choice(self._faults)
            victim = self._dice.random()
            if FAULTS[fault](self, victim):
                self.counts[fault] += 1
                self._say(fault)
        self._thaw_now()

    def _wait_until(self, at: float) -> None:
        while (now := time.monotonic()) < at:
            if self._thaw is not None and now >= self._thaw[0]:
                self._thaw_now()
            time.sleep(min(0.1, at - now))

    def _thaw_now(self) -> None:
        if self._thaw is not None:
            number, self._thaw = self._thaw[1], None
            if number in self._fleet.numbers:
                self._fleet.signal(number, signal.SIGCONT)

    def _one(self, victim: float) -> int | None:
        """A worker that runs, chosen by the dice."""
        frozen = None if self._thaw is None else self._thaw[1]
        numbers = [number for number in self._fleet.numbers if number != frozen]
        return numbers[int(victim * len(numbers))] if numbers else None

    def _kill(self, victim: float) -> bool:
        return self._signal(victim, signal.SIGKILL)

    def _restart(self, victim: float) -> bool:
        return self._signal(victim, signal.SIGTERM)

    def _signal(self, victim: float, signal_number: int) -> bool:
        number = self._one(victim)
        if number is not None:
            self._fleet.signal(number, signal_number)
        return number is not None

    def _freeze(self, victim: float) -> bool:
        number = self._one(victim)
        if number is None or self._thaw is not None:
            return False
        self._fleet.signal(number, signal.SIGSTOP)
        self._thaw = (time.monotonic() + self._freeze_s, number)
        return True

    def _join(self, victim: float) -> bool:
        if self._fleet.size >= self._max_workers:
            return False
        self._fleet.join(max(self._fleet.numbers, default=-1) + 1)
        return True

    def _leave(self, victim: float) -> bool:
        number = self._one(victim)
        if number is None or self._fleet.size < 2:
            return False
        self._fleet.leave(number)
        return True

    def _kill_broker(self, victim: float) -> bool:
        self._kafka.node.kill()
        time.sleep(3 * victim)
        self._kafka.node.start()
        return True

    def _cut(self, victim: float) -> bool:
        self._kafka.proxy.cut_all()
        return True


FAULTS: dict[str, Callable[[Chaos, float], bool]] = {
    "kill": Chaos._kill,
    "restart": Chaos._restart,
    "freeze": Chaos._freeze,
    "join": Chaos._join,
    "leave": Chaos._leave,
    "kill-broker": Chaos._kill_broker,
    "cut": Chaos._cut,
}
"""SIGKILL, SIGTERM, or SIGSTOP and SIGCONT of a worker; one more, one less; SIGKILL of the broker, and its restart; the
connections between workers and broker cut, whatever is under way on them.
"""
