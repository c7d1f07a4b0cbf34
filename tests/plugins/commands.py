"""`stream-training` in processes of its own that begin with everything imported, and how they end."""

from __future__ import annotations

import multiprocessing
import multiprocessing.context
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

__all__ = ["Commands", "Done", "command_line", "fork_context"]

_WAIT_S = 200
_MODULES = (
    "training.adaptation", "training.baseline", "training.cli", "training.comparison", "training.cross_validation",
    "training.distillation", "training.fitting", "training.folds", "training.quantization", "training.search",
)  # fmt: skip


@dataclass(frozen=True)
class Done:
    """How a command ended.

    Attributes:
        code: its exit code; negative: the signal that killed it.
        stderr: all of it.
        has_left_processes: whether one that it started outlives it.
    """

    code: int
    stderr: str
    has_left_processes: bool

    @property
    def last_line(self) -> str:
        return self.stderr.rstrip().splitlines()[-1]


class Commands:
    """Runs them one after the other.

    Args:
        log: a file for their standard error.
    """

    def __init__(self, log: Path) -> None:
        self._context = fork_context()
        self._log = log

    def run(self, arguments: Sequence[str], patch: Callable[[], None] | None = None) -> Done:
        """Runs one, and `patch` in its process first."""
        process = self._context.Process(target=command_line, args=(list(arguments), self._log, patch))  # type: ignore[attr-defined]  # not in the stub
        process.start()
        process.join(_WAIT_S)
        if process.is_alive():
            os.killpg(process.pid, 9)
            process.join()
        return Done(process.exitcode, self._log.read_text(), _is_group(process.pid))


def fork_context() -> multiprocessing.context.BaseContext:
    """Forks of a process that has imported what commands need: a new one would take ten seconds to do so.

    There is one such process, whichever test module asks first.
    """
    context: multiprocessing.context.BaseContext = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*_MODULES, __name__])
    return context


def command_line(arguments: list[str], log: Path, patch: Callable[[], None] | None) -> None:
    """The command in this process, in a group of its own, `patch` first and its standard error in a file."""
    os.setpgid(0, 0)
    torch.set_num_threads(1)
    if patch is not None:
        patch()
    with log.open("w") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    sys.stderr = os.fdopen(2, "w", buffering=1)
    sys.argv = ["stream-training", *arguments]
    from training import cli

    cli.main()


def _is_group(number: int) -> bool:
    try:
        os.killpg(number, 0)
    except ProcessLookupError:
        return False
    return True
