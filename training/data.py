"""Tables of texts with their labels, from a file or from a folder with train, validation and test files.

Reading formats is for tables.py, dividing rows for splits.py. Rows without a text or a label are left out and counted.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stream_classifier.errors import ConfigError
from training.tables import FORMATS, read_rows

__all__ = ["TEXT_JOIN", "Columns", "Sources", "Table", "check_known_labels", "find_sources", "labels_of", "read_table"]

logger = logging.getLogger(__name__)

TEXT_JOIN = "\n"
"""What stands between the parts of a text that is made of several columns."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns hold what; several text columns are joined with `TEXT_JOIN`, empty ones left out."""

    text: tuple[str, ...] = ("text",)
    label: str = "label"


@dataclass(frozen=True, slots=True)
class Table:
    """Texts with their labels, row i of one for row i of the other.

    Attributes:
        source: where the rows are from, for messages.
        texts: never empty.
        labels: never empty.
        num_skipped: rows that had no text or no label and are not here.
    """

    source: str
    texts: list[str] = field(repr=False)
    labels: list[str] = field(repr=False)
    num_skipped: int = 0

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: Sequence[int], source: str) -> Table:
        """The rows at `indices`, in that order."""
        return Table(source, [self.texts[i] for i in indices], [self.labels[i] for i in indices])


@dataclass(frozen=True, slots=True)
class Sources:
    """The files of the three kinds of rows."""

    train: Path
    validation: Path | None = None
    test: Path | None = None


def find_sources(data: Path, *, validation: Path | None = None, test: Path | None = None) -> Sources:
    """The files that `data` stands for: itself, or those of a folder; files given apart come before the folder's.

    Raises:
        ConfigError: nothing is there, a folder has no train file, or two files of one kind.
    """
    if not data.exists():
        raise ConfigError(f"{data}: there is no such file or folder; check the path")
    if not data.is_dir():
        return Sources(data, validation, test)
    train = find_file(data, "train")
    if train is None:
        names = ", ".join(f"train{suffix}" for suffix in FORMATS)
        raise ConfigError(f"{data}: the folder has no train file; name one of {names}, or give the file itself")
    return Sources(train, validation or find_file(data, "validation"), test or find_file(data, "test"))


def find_file(folder: Path, kind: str) -> Path | None:
    """The file of a kind ("train", "validation", "test") in a folder.

    Raises:
        ConfigError: there are two.
    """
    found = [folder / f"{kind}{suffix}" for suffix in FORMATS if (folder / f"{kind}{suffix}").is_file()]
    if len(found) > 1:
        raise ConfigError(f"{folder}: both {found[0].name} and {found[1].name} are there; remove one")
    return found[0] if found else None


def read_table(path: Path, columns: Columns | None = None) -> Table:
    """All rows of a file that have a text and a label; a warning counts the others.

    `columns` None stands for text and label. A text of white space alone is a text. Blocks; all is held in memory.

    Raises:
        ConfigError: a file, a column or a row that is wrong, or no row that can be used.
    """
    texts: list[str] = []
    labels: list[str] = []
    skipped: list[int] = []
    columns = columns or Columns()
    for row in read_rows(path, (*columns.text, columns.label)):
        *parts, label = row.cells
        text = TEXT_JOIN.join(part for part in parts if part)
        if text and label:
            texts.append(text)
            labels.append(label)
        else:
            skipped.append(row.line)
    if not texts:
        problem = f"none of its {len(skipped)} rows has both a text and a label" if skipped else "it has no rows"
        raise ConfigError(f"{path}: {problem}; check the file and the names of the columns")
    if skipped:
        logger.warning(
            "%s: %d rows without a text or a label are left out, the first on line %d", path, len(skipped), skipped[0]
        )
    return Table(str(path), texts, labels, len(skipped))


def labels_of(table: Table) -> tuple[str, ...]:
    """The labels of a table to train on, sorted.

    Raises:
        ConfigError: there is only one.
    """
    labels = tuple(sorted(set(table.labels)))
    if len(labels) < 2:
        raise ConfigError(
            f"{table.source}: all {len(table)} rows have the label {labels[0]!r}; give at least two labels"
        )
    return labels


def check_known_labels(table: Table, labels: Sequence[str], *, known_from: str) -> None:
    """Refuses rows that have labels the model does not know.

    Raises:
        ConfigError: with the labels, and where those known are from.
    """
    unknown = sorted(set(table.labels) - set(labels))
    if unknown:
        named = ", ".join(repr(label) for label in unknown[:5]) + (" …" if len(unknown) > 5 else "")
        raise ConfigError(
            f"{table.source}: {len(unknown)} labels are not among those of {known_from}: {named}; "
            "correct them, or add rows that have them to the training file"
        )
