"""What an `augment` with models has made so far, in OUT.work/made.jsonl: a line a batch, to go on from."""

from __future__ import annotations

import json
import os
from pathlib import Path

from stream_classifier.errors import TrainingError
from training.work_dir import MADE_NAME

__all__ = ["MadeTexts"]


class MadeTexts:
    """The texts of each batch by method and number, those of an interrupted run among them.

    Args:
        work: OUT.work; see work_dir.py.
    """

    def __init__(self, work: Path) -> None:
        self._path = work / MADE_NAME
        self._of_batch: dict[tuple[str, int], list[str]] = {}
        if not self._path.exists():
            return
        whole, newline, torn = self._path.read_bytes().rpartition(b"\n")
        if torn:  # by a kill, or a full disk
            os.truncate(self._path, len(whole) + len(newline))
        for line in whole.splitlines():
            method, number, texts = json.loads(line)
            self._of_batch[method, number] = texts

    def of(self, method: str, number: int) -> list[str] | None:
        """The texts of a batch; None when they are not made yet."""
        return self._of_batch.get((method, number))

    def keep(self, method: str, number: int, texts: list[str]) -> None:
        """Writes down what a batch came to, for a run that goes on from there.

        Raises:
            TrainingError: it cannot be written.
        """
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([method, number, texts]) + "\n")
        except OSError as error:
            problem = f"{self._path}: what was made cannot be kept ({error.strerror})"
            raise TrainingError(f"{problem}; free some space, and give the same command with --resume") from error
