"""Progress bars on a terminal's standard error; silence anywhere else, where lines of the log say how far it is."""

from __future__ import annotations

import logging
import sys
from typing import Any

from tqdm import tqdm

from training.processes import Processes

__all__ = ["TqdmHandler", "bar", "show_bars"]

_shown_by_default = False


def show_bars() -> None:
    """Shows the bars of this process that nobody decides on: a command line does, a library does not."""
    global _shown_by_default  # noqa: PLW0603 - like the handlers of logging, of the process
    _shown_by_default = True


def bar(total: int, what: str, *, unit: str, shown: bool | None = None) -> tqdm[Any]:
    """A bar over `total` units; hidden when not `shown`, in all processes but the main one, and where standard error is
    no terminal. None: see `show_bars`."""
    shown = _shown_by_default if shown is None else shown
    return tqdm(
        total=total,
        desc=what,
        unit=unit,
        unit_scale=True,
        file=sys.stderr,
        disable=None if shown and Processes.started().is_main else True,
        leave=False,
    )


class TqdmHandler(logging.Handler):
    """Writes log lines to standard error above the bars, not through them."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record), file=sys.stderr)
        except Exception:  # noqa: BLE001 - what logging.StreamHandler does: a log line never breaks the work
            self.handleError(record)
