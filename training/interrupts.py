"""Ctrl-C and SIGTERM while a long work runs: outside a loop they end it at once, inside they let it save first.

Python runs handlers in the main thread only; in any other thread nothing is installed, and nothing is deferred.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interrupted", "Interrupts"]

logger = logging.getLogger(__name__)


class Interrupted(KeyboardInterrupt):
    """A signal ended the work; what was saved, and how to go on, is in the message.

    Args:
        message: one line.
        signum: SIGINT or SIGTERM; commands exit with 128 + this.
    """

    def __init__(self, message: str, signum: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.signum = signum


class Interrupts:
    """Whether a signal has come. One object for one piece of work."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self._is_deferring = False

    @contextmanager
    def handled(self) -> Iterator[Interrupts]:
        """Within it SIGINT and SIGTERM raise `Interrupted`, or are noted while `deferred`; a second one raises."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {signum: signal.signal(signum, self._handle) for signum in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Within it a signal is only noted in `signum`: whoever runs the loop looks there and raises."""
        self._is_deferring = True
        try:
            yield
        finally:
            self._is_deferring = False

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self._is_deferring and self.signum is None:
            self.signum = signum
            logger.info("interrupted: a checkpoint is saved after this step; once more ends it at once")
            return
        raise Interrupted("interrupted", signum)
