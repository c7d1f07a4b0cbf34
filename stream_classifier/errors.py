"""The exceptions of this project, split by what the caller does about them.

    StreamClassifierError
    ├── ConfigError               refuse to start (exit 2): a setting, a topic or a broker is wrong
    │   └── ModelDirectoryError   refuse to start: a model directory is wrong
    ├── RecordError               dead letter: this one record cannot be classified or delivered
    ├── TransientError            retry: the same call may succeed later or on less work
    ├── TrainingError             stop (exit 1): a step of `training` failed while it ran
    └── FatalError                stop (exit 1): going on would lose records; a restart reads them again
        ├── DeliveryError         the broker did not take what was produced
        └── ModelError            the model answers nothing any more, not even its probe

A message says what happened, the value seen, the limit and the fix, and never holds message text or keys. Where a name
is not known it says which one was probably meant: `nearest`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

__all__ = [
    "ConfigError",
    "DeliveryError",
    "FatalError",
    "ModelDirectoryError",
    "ModelError",
    "RecordError",
    "StreamClassifierError",
    "TrainingError",
    "TransientError",
    "nearest",
    "no_command",
]


class StreamClassifierError(Exception):
    """Root of all errors raised by this project."""


class ConfigError(StreamClassifierError):
    """The settings, the topics or the broker do not allow a start. The message is one line that names the fix."""


class ModelDirectoryError(ConfigError):
    """A model directory cannot be trusted or used.

    Args:
        path: the file or directory at fault.
        problem: what is wrong with it, with the value seen.
        fix: what to do about it.
    """

    def __init__(self, path: str | Path, problem: str, fix: str) -> None:
        super().__init__(f"{path}: {problem}; {fix}")
        self.path = Path(path)
        self.problem = problem
        self.fix = fix


class RecordError(StreamClassifierError):
    """One record, and no other, cannot go on: it becomes a dead letter.

    Args:
        stage: where it failed: "decode", "tokenize", "infer", "decide" or "deliver".
        reason: the error's class name, as a metric label and a header: bounded in number, never message text.
        message: one line for a person; never holds message text.
    """

    def __init__(self, stage: str, reason: str, message: str) -> None:
        super().__init__(message)
        self.stage = stage
        self.reason = reason
        self.message = message


class TransientError(StreamClassifierError):
    """The call may succeed when it is made again, later or with less work (out of memory, a broker away)."""


class TrainingError(StreamClassifierError):
    """A fit, or another step of `training`, failed while it ran. The message is one line that says what to try."""


class FatalError(StreamClassifierError):
    """The worker must stop with exit code 1; what it had not committed is read again after a restart."""


class DeliveryError(FatalError):
    """The broker did not acknowledge what was produced, within the delivery time-out or at all."""


class ModelError(FatalError):
    """The model fails on texts it answered before: nothing is dead-lettered, the worker stops."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` was probably meant to be; the case and the kind of dash do not count.

    >>> nearest("clasify", ["classify", "check"]), nearest("Max-Tokens", ["max_tokens"]), nearest("x", ["check"])
    ('classify', 'max_tokens', None)
    """
    known = list(known)
    folded = {name.casefold().replace("-", "_"): name for name in reversed(known)}
    matches = difflib.get_close_matches(word.casefold().replace("-", "_"), folded, n=1, cutoff=0.6)
    return folded[matches[0]] if matches else None


def no_command(name: str, commands: Iterable[str]) -> str:
    """What a command line says of a command that it does not have."""
    commands = list(commands)
    close = nearest(name, commands)
    known = f"perhaps {close!r}" if close else f"the commands are {', '.join(commands)}"
    return f"there is no command {name!r}, {known}"
