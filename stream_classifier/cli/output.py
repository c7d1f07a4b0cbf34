"""Data to stdout, written in one place, so that a reader who goes away early is told apart from real failures."""

from __future__ import annotations

import os
import sys

__all__ = ["ReaderGone", "abandon_stdout", "write"]


class ReaderGone(Exception):
    """Nobody reads stdout any more, as behind `| head`."""


def write(data: bytes | str) -> None:
    """Write to stdout at once. A string gets a line break, bytes are written as they are.

    Raises:
        ReaderGone: the other end of the pipe is closed.
    """
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(data if isinstance(data, bytes) else data.encode("utf-8", "backslashreplace") + b"\n")
        sys.stdout.buffer.flush()
    except BrokenPipeError as error:
        raise ReaderGone from error


def abandon_stdout() -> None:
    """Let what is buffered go nowhere, or Python would complain about the closed pipe at exit."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
