"""Workers of one group and the supervisor that restarts them: what a deployment would be, as child processes."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from typing import IO

from stream_classifier.broker import spawn_tied

__all__ = ["Fleet", "Launch"]

_LOOK_S = 0.1
_RESTART_S = 0.5
_STOP_LIMIT_S = 30.0


@dataclass(frozen=True)
class Launch:
    """How to start a worker.

    Attributes:
        command: of worker number N.
        environ: its environment, whole.
    """

    command: Callable[[int], list[str]]
    environ: Callable[[int], dict[str, str]]


class Fleet:
    """As many workers as are wanted, each restarted when it ends by itself or is killed.

    Args:
        launch: starts worker number N.
        folder: for their logs.
    """

    def __init__(self, launch: Launch, folder: Path, size: int) -> None:
        self._launch = launch
        self._folder = folder
        self._lock = threading.RLock()
        self._running: dict[int, Popen[bytes]] = {}
        self._restart_at: dict[int, float] = {}
        self._logs: list[IO[bytes]] = []
        self._frozen: set[int] = set()
        self._closed = threading.Event()
        self.exits: Counter[int] = Counter()
        for number in range(size):
            self.join(number)
        self._supervisor = threading.Thread(target=self._supervise, name="supervisor")
        self._supervisor.start()

    @property
    def numbers(self) -> list[int]:
        """The workers that run now."""
        with self._lock:
            return sorted(number for number, process in self._running.items() if process.poll() is None)

    @property
    def size(self) -> int:
        """The workers that are wanted, running or about to be restarted."""
        with self._lock:
            return len(self._running)

    def join(self, number: int) -> None:
        """One worker more."""
        with self._lock:
            log = (self._folder / f"worker-{number}.log").open("ab")
            self._logs.append(log)
            environ = self._launch.environ(number)
            self._running[number] = spawn_tied([sys.executable, *self._launch.command(number)], log=log, env=environ)

    def leave(self, number: int) -> None:
        """One worker less, in order."""
        with self._lock:
            process = self._running.pop(number)
            self._restart_at.pop(number, None)
        self._end(process, signal.SIGTERM)

    def signal(self, number: int, signal_number: int) -> None:
        """Send a signal; the supervisor restarts what ends of it."""
        with self._lock:
            self._running[number].send_signal(signal_number)
            if signal_number == signal.SIGSTOP:
                self._frozen.add(number)
            elif signal_number == signal.SIGCONT:
                self._frozen.discard(number)

    def stop(self) -> None:
        """Stop all in order, and the supervisor."""
        self._closed.set()
        self._supervisor.join()
        with self._lock:
            for number in self._frozen:
                self._running[number].send_signal(signal.SIGCONT)
            for process in self._running.values():
                process.send_signal(signal.SIGTERM)
            for process in self._running.values():
                self._end(process, None)
            self._running.clear()
        for log in self._logs:
            log.close()

    def _supervise(self) -> None:
        while not self._closed.wait(_LOOK_S):
            with self._lock:
                for number, process in list(self._running.items()):
                    if process.poll() is None:
                        continue
                    if number not in self._restart_at:
                        self._restart_at[number] = time.monotonic() + _RESTART_S
                        self._frozen.discard(number)
                        self._end(process, None)
                    elif time.monotonic() >= self._restart_at[number]:
                        del self._restart_at[number]
                        self.join(number)

    def _end(self, process: Popen[bytes], signal_number: int | None) -> None:
        if signal_number is not None and process.poll() is None:
            process.send_signal(signal_number)
        try:
            self.exits[process.wait(_STOP_LIMIT_S)] += 1
        except TimeoutExpired:
            process.kill()
            self.exits[process.wait()] += 1
        if process.stdin is not None:
            process.stdin.close()
