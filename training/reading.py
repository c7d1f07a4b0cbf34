"""Files and folders to tables: which tables a path stands for, and their rows as texts with labels.

Formats are for tables.py and folders.py. Rows without a text or a label are left out and counted; rows that cannot be
read are refused with their line, or on request left out and counted too.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from stream_classifier.errors import ConfigError
from training.data import LABEL_SEPARATOR, METHOD_COLUMN, MULTI_LABEL_COLUMN, ORIGIN_COLUMN, TEXT_JOIN, Columns, Table
from training.folders import folder_column_names, folder_rows, is_table
from training.tables import FORMATS, BadRow, Cell, NoColumnError, Row, column_names, read_rows

__all__ = ["Sources", "find_part", "find_sources", "find_table", "read_original_rows", "read_sources", "read_table"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sources:
    """The tables of the three kinds of rows: files, or folders that are one table each."""

    train: Path
    validation: Path | None = None
    test: Path | None = None


def find_sources(data: Path, *, validation: Path | None = None, test: Path | None = None) -> Sources:
    """The tables that `data` stands for: itself, or those in a folder; tables given apart come before the folder's.

    Raises:
        ConfigError: nothing is there, a folder has no train table, or two tables of one kind.
    """
    if not _is_folder(data):
        return Sources(data, validation, test)
    train = find_table(data, "train")
    if train is not None:
        return Sources(train, validation or find_table(data, "validation"), test or find_table(data, "test"))
    if is_table(data):
        return Sources(data, validation, test)
    names = ", ".join(f"train{suffix}" for suffix in FORMATS)
    raise ConfigError(
        f"{data}: the folder has no rows to train on; name a file of it one of {names}, "
        "make a folder with .txt files for each label, or give the file itself"
    )


def find_part(data: Path, kind: str) -> Path:
    """The table of a kind ("train", "validation", "test") in a folder, or `data` itself where it is one table.

    Raises:
        ConfigError: there is none.
    """
    if not _is_folder(data):
        return data
    if (found := find_table(data, kind)) is not None:
        return found
    if find_table(data, "train") is None and is_table(data):
        return data
    raise ConfigError(f"{data}: the folder has no {kind} file; give the file itself")


def find_table(folder: Path, kind: str) -> Path | None:
    """The table of a kind ("train", "validation", "test") in a folder: a file, or a folder of the kind's name.

    Raises:
        ConfigError: there are two.
    """
    found = [folder / f"{kind}{suffix}" for suffix in FORMATS if (folder / f"{kind}{suffix}").is_file()]
    if (folder / kind).is_dir() and is_table(folder / kind):
        found.append(folder / kind)
    if len(found) > 1:
        raise ConfigError(f"{folder}: both {found[0].name} and {found[1].name} are there; remove one")
    return found[0] if found else None


def read_sources(sources: Sources, columns: Columns | None = None) -> tuple[Table, Table | None, Table | None]:
    """The tables to train, validate and test on, each as `read_table` reads it.

    Groups and times are read of the first alone: they say how it is divided, and the others are not.

    Raises:
        ConfigError: as `read_table`.
    """
    columns = columns or Columns()
    held_out = replace(columns, group=None, time=None)
    validation, test = (
        None if path is None else read_table(path, held_out) for path in (sources.validation, sources.test)
    )
    return read_table(sources.train, columns), validation, test


def read_table(path: Path, columns: Columns | None = None) -> Table:
    """All rows of a file, or of a folder that is one table, that have a text and a label; a warning counts the others.

    A text of white space alone is a text. In a multi-label table an empty cell has no labels given and is left out, an
    empty list of JSON or Parquet says that no label applies. Blocks; all is held in memory.

    Raises:
        ConfigError: a file, a column or a row that is wrong, or no row that can be used.
    """
    columns = columns or Columns()
    names = folder_column_names(path) if path.is_dir() else column_names(path)
    label_column, multi_label = columns.labels_in(names)
    is_augmented = ORIGIN_COLUMN in names and METHOD_COLUMN in names
    optional = [name for name in (columns.group, columns.time) if name is not None]
    rows = _Rows(path, columns, label_column, multi_label=multi_label, is_augmented=is_augmented)
    wanted = (*columns.text, label_column, *optional, *((ORIGIN_COLUMN, METHOD_COLUMN) if is_augmented else ()))
    rows_of = folder_rows if path.is_dir() else read_rows
    try:
        for row in rows_of(path, wanted, time=columns.time):
            rows.add(row)
    except NoColumnError as error:
        option = {columns.group: "--group-column", columns.time: "--time-column"}.get(error.column)
        if option is None:
            raise
        raise error.of_option(option) from error
    return rows.table()


def read_original_rows(path: Path, columns: Columns | None = None) -> Table:
    """The same, of rows to measure a model on, or to decide anything by.

    Raises:
        ConfigError: as `read_table`; or rows among them that `augment` made.
    """
    table = read_table(path, columns)
    if table.augmented is not None and any(table.augmented):
        made = f"{sum(table.augmented)} of its {len(table)} rows were made by augment, and are no measure of a model"
        raise ConfigError(f"{table.source}: {made}; give the table that was augmented, or another of original rows")
    return table


def _is_folder(data: Path) -> bool:
    try:
        there = data.exists()
    except OSError as error:  # a name that is too long, a folder on the way that may not be entered
        raise ConfigError(f"{data}: it cannot be looked at ({error.strerror}); check the path") from error
    if not there:
        raise ConfigError(f"{data}: there is no such file or folder; check the path")
    return data.is_dir()


class _Rows:
    """The rows of a file on their way to a table."""

    def __init__(
        self, path: Path, columns: Columns, label_column: str, *, multi_label: bool, is_augmented: bool
    ) -> None:
        self._path = path
        self._columns = columns
        self._label_column = label_column
        self._multi_label = multi_label
        self._is_augmented = is_augmented
        self._texts: list[str] = []
        self._label_sets: list[tuple[str, ...]] = []
        self._lines: list[int] = []
        self._groups: list[str] = []
        self._times: list[float] = []
        self._parts: list[tuple[str, ...]] = []
        self._origins: list[str] = []
        self._augmented: list[bool] = []
        self._incomplete: list[int] = []
        self._bad: list[int] = []
        self._num_dropped = 0
        self._unused = set(columns.label_map)

    def add(self, row: Row | BadRow) -> None:
        """Takes a row, or counts one that cannot be read.

        Raises:
            ConfigError: such rows are not to be skipped.
        """
        if isinstance(row, BadRow):
            self._add_bad(row)
            return
        try:
            self._add(row.line, row.cells)
        except _Unreadable as error:
            self._add_bad(error.row)

    def _add(self, line: int, cells: Sequence[Cell]) -> None:
        """Takes the cells of text and label columns and, where there are any, of group, time, origin and method."""
        num_texts = len(self._columns.text)
        parts = [self._string(line, name, cell) for name, cell in zip(self._columns.text, cells, strict=False)]
        labels = self._labels(line, cells[num_texts])
        rest = iter(cells[num_texts + 1 :])
        group = "" if self._columns.group is None else self._string(line, self._columns.group, next(rest))
        time = 0.0 if self._columns.time is None else self._time(line, self._columns.time, next(rest))
        origin = self._string(line, ORIGIN_COLUMN, next(rest)) if self._is_augmented else ""
        method = self._string(line, METHOD_COLUMN, next(rest)) if self._is_augmented else ""
        text = TEXT_JOIN.join(part for part in parts if part)
        if not text or labels is None:
            self._incomplete.append(line)
            return
        label_map = self._columns.label_map
        self._unused.difference_update(labels)
        kept = tuple(dict.fromkeys(new for label in labels if (new := label_map.get(label, label))))
        if labels and not kept:
            self._num_dropped += 1
            return
        self._texts.append(text)
        self._label_sets.append(kept)
        self._lines.append(line)
        self._groups.append(group)
        self._times.append(time)
        self._parts.append(tuple(parts))
        self._origins.append(origin)
        self._augmented.append(bool(method))

    def _add_bad(self, row: BadRow) -> None:
        if not self._columns.skip_bad_rows:
            fix = f"{row.fix}, or leave such rows out with --skip-bad-rows"
            raise ConfigError(f"{self._path}: {row}; {fix}")
        if not self._bad:
            logger.warning("%s: %s; %s", self._path, row, row.fix)
        self._bad.append(row.line)

    def table(self) -> Table:
        """The rows taken, with a warning that counts the others.

        Raises:
            ConfigError: there are none.
        """
        num_skipped = len(self._incomplete) + len(self._bad)
        if not self._texts:
            problem = f"none of its {num_skipped} rows has both a text and a label" if num_skipped else "it has no rows"
            if self._num_dropped:
                problem = f"the label map leaves out all {self._num_dropped} rows that have a text and a label"
            raise ConfigError(f"{self._path}: {problem}; check the file and the names of the columns")
        for what, lines in (("without a text or a label", self._incomplete), ("that cannot be read", self._bad)):
            if lines:
                message = "%s: %d rows %s are left out, the first on line %d"
                logger.warning(message, self._path, len(lines), what, lines[0])
        if self._unused:
            names = ", ".join(map(repr, sorted(self._unused)))
            logger.warning("%s: no row has a label %s of the label map; check its spelling", self._path, names)
        if self._num_dropped:
            logger.info("%s: the label map leaves %d rows out", self._path, self._num_dropped)
        return Table(
            str(self._path),
            self._texts,
            self._label_sets,
            multi_label=self._multi_label,
            lines=self._lines,
            groups=None if self._columns.group is None else self._groups,
            times=None if self._columns.time is None else self._times,
            parts=self._parts if len(self._columns.text) > 1 else None,
            origins=self._origins if self._is_augmented else None,
            augmented=self._augmented if self._is_augmented else None,
            num_skipped=num_skipped,
            num_dropped=self._num_dropped,
        )

    def _labels(self, line: int, cell: Cell) -> tuple[str, ...] | None:
        """The labels of a cell; None where it is missing."""
        if isinstance(cell, tuple):
            if self._multi_label:
                return cell
            fix = f"name the column {MULTI_LABEL_COLUMN} or give --multi-label if a text has several labels"
            raise _Unreadable(BadRow(line, f"has a list as {self._label_column!r}", fix))
        if not cell:
            return None
        if not self._multi_label:
            return (cell,)
        return tuple(label for part in cell.split(LABEL_SEPARATOR) if (label := part.strip())) or None

    def _string(self, line: int, column: str, cell: Cell) -> str:
        if isinstance(cell, str):
            return cell
        fix = "give a string, or null for a missing one"
        raise _Unreadable(BadRow(line, f"has a list as {column!r}", fix))

    def _time(self, line: int, column: str, cell: Cell) -> float:
        seconds = _seconds(self._string(line, column, cell))
        if seconds is None:
            problem = f"has no time in {column!r} (--time-column)"
            raise _Unreadable(BadRow(line, problem, "give one like 2026-12-31T23:59:59Z, or a number"))
        return seconds


class _Unreadable(Exception):
    def __init__(self, row: BadRow) -> None:
        self.row = row


def _seconds(cell: str) -> float | None:
    """A time as a number: a number as it is, ISO 8601 (without a zone: UTC) as seconds since 1970."""
    try:
        number = float(cell)
    except ValueError:
        return _iso_seconds(cell.strip())
    return number if math.isfinite(number) else None


def _iso_seconds(text: str) -> float | None:
    try:
        time = datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)
    except ValueError:
        return None
    return (time if time.tzinfo else time.replace(tzinfo=timezone.utc)).timestamp()
