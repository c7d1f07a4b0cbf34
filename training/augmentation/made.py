"""What an `augment` with models has made so far, in OUT.work/made.jsonl: a line a batch, to go on from."""

from __future__ import annotations

import json
from pathlib import Path

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
        whole, newline, _ = self._path.read_bytes().rpartition(b"\n")  # a kill may have torn the last line
        self._path.write_bytes(whole + newline)
        for line in whole.splitlines():
            method, number, texts = json.loads(line)
            self._of_batch[method, number] = texts

    def __len__(self) -> int:
        return len(self._of_batch)

    def of(self, method: str, number: int) -> list[str] | None:
        """The texts of a batch; None when they are not made yet."""
        return self._of_batch.get((method, number))

    def keep(self, method: str, number: int, texts: list[str]) -> None:
        """Writes down what a batch came to.

        Raises:
            OSError: it cannot be written.
        """
        self._of_batch[method, number] = texts
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([method, number, texts]) + "\n")
