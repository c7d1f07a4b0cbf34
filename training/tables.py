"""Files to rows of cells: CSV, TSV, JSON lines and Parquet.

Every cell is a string and only the empty one is missing: the texts "NA" and "null" and the labels "None" and "01" are
what they are (readers that guess types lose them). JSON and Parquet may hold lists of strings too, and the times and
dates of Parquet are their ISO 8601 texts. What the columns mean is for reading.py.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from itertools import islice
from pathlib import Path
from typing import IO, Any

from stream_classifier.errors import ConfigError, nearest

__all__ = [
    "FORMATS",
    "BadRow",
    "Cell",
    "NoColumnError",
    "Row",
    "column_names",
    "index_of_column",
    "make_row",
    "read_rows",
    "to_cell",
]

FORMATS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")

Cell = str | tuple[str, ...]
"""A text, `""` where missing, or the texts of a list."""

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_MAX_NAME = 40  # characters of a column's name in a message: a file without a header has texts there
_ROWS_WITH_NAMES = 100  # JSON lines may leave keys out: so many objects are looked at for the names of columns
_UNDECODED = re.compile("[\udc80-\udcff]")  # what `surrogateescape` makes of bytes that are not UTF-8


@dataclass(frozen=True, slots=True)
class Row:
    """One row: the line it starts on (Parquet: the row's number, from 1), and its cells."""

    line: int
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be read: its line, what is wrong with it, the fix, and its name where that is no line."""

    line: int
    problem: str
    fix: str
    name: str | None = None

    def __str__(self) -> str:
        return f"{self.name or f'line {self.line}'} {self.problem}"


class NoColumnError(ConfigError):
    """A file lacks a column; where its text and label stand is then to be said.

    Attributes:
        path: of the file.
        header: the columns that it has.
        column: the one it lacks.
    """

    def __init__(self, path: Path, header: Sequence[str], column: str) -> None:
        fix = "give --text-column and --label-column, or add a header line"
        if len(header) == 1 and (delimiter := next((mark for mark in ";\t|," if mark in header[0]), None)):
            fix = f"the cells seem to be divided by {delimiter!r}: write a .csv file with commas, or a .tsv with tabs"
        self.path, self.header, self.column = path, tuple(header), column
        super().__init__(f"{path}: there is no column {column!r}, {self._seen()}; {fix}")

    def of_option(self, option: str) -> ConfigError:
        """The same, of a column that an option named."""
        close = nearest(self.column, self.header)
        fix = f"did you mean {close!r}?" if close else "give one of them, or leave the option out"
        return ConfigError(f"{option} {self.column}: {self.path} has no such column, {self._seen()}; {fix}")

    def _seen(self) -> str:
        return f"the columns are {', '.join(repr(name[:_MAX_NAME]) for name in self.header[:20])}"


def column_names(path: Path) -> list[str]:
    """The names of a file's columns; those of JSON lines are what the first 100 objects have.

    Raises:
        ConfigError: a file that cannot be read, is empty, or is of another format.
    """
    suffix = _suffix(path)
    with _reading(path):
        if suffix == ".parquet":
            with _parquet_file(path) as file:
                return list(file.schema_arrow.names)
        with _open(path) as file:
            if suffix in _DELIMITERS:
                return _header(path, csv.reader(file, delimiter=_DELIMITERS[suffix], strict=True))
            found: dict[str, None] = {}
            for value in islice((_object(line) for line in file if line.strip()), _ROWS_WITH_NAMES):
                if not isinstance(value, str):
                    found.update(dict.fromkeys(value))
    return list(found)


def read_rows(path: Path, columns: Sequence[str], *, time: str | None = None) -> Iterator[Row | BadRow]:
    """The rows of a file, only the `columns` named, in that order; what cannot be read comes as a `BadRow`.

    Args:
        path: of the file.
        columns: by name.
        time: the one of them that tells a time: numbers with a fraction are cells there.

    Raises:
        ConfigError: a file that cannot be read, is of another format, or lacks a column; with the file and the fix.
    """
    suffix = _suffix(path)
    with _reading(path):
        if suffix == ".parquet":
            yield from _parquet(path, columns, time)
        elif suffix in _DELIMITERS:
            yield from _delimited(path, columns, _DELIMITERS[suffix])
        else:
            yield from _json_lines(path, columns, time)


def to_cell(value: Any) -> Cell | None:
    """A JSON or Parquet value as a cell; None for one that has no single spelling as text, such as 1.0 or true."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # whole numbers are common labels
    if isinstance(value, datetime):
        return datetime.isoformat(value)  # not the method of pandas, which tells nanoseconds: Python 3.10 reads none
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, list):
        cells = [to_cell(item) for item in value]
        texts = tuple(cell for cell in cells if isinstance(cell, str) and cell)
        return texts if len(texts) == len(cells) else None
    return None


def make_row(number: int, columns: Sequence[str], value: dict[str, Any], *, time: str | None = None) -> Row | BadRow:
    """The cells of a row from its values by column, a missing one empty; `time` as for `read_rows`."""
    cells = []
    for column in columns:
        found = value.get(column)
        cell = repr(found) if column == time and isinstance(found, float) else to_cell(found)
        if cell is None:
            kind = type(value[column]).__name__
            return BadRow(number, f"has a {kind} as {column!r}", "give a string, or null for a missing one")
        cells.append(cell)
    return Row(number, tuple(cells))


def index_of_column(path: Path, header: Sequence[str], column: str) -> int:
    """Where a column stands in a header.

    Raises:
        ConfigError: it is not there, or twice.
    """
    if header.count(column) > 1:
        raise ConfigError(f"{path}: the column {column!r} is there {header.count(column)} times; rename all but one")
    if column not in header:
        raise NoColumnError(path, header, column)
    return header.index(column)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Names the file in what goes wrong with it as a whole."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(f"{path}: it cannot be read ({reason}); check the path and its mode") from error


def _suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise ConfigError(f"{path}: the format {suffix or 'without a suffix'} is not read; give {', '.join(FORMATS)}")
    return suffix


def _open(path: Path) -> IO[str]:
    # newline="": csv wants it, and a text of JSON may hold U+2028 and such, which end no line. Bytes that are not UTF-8
    # become surrogates, so that the row that has them can be named.
    newline = "" if path.suffix.lower() in _DELIMITERS else "\n"
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def _header(path: Path, reader: Any) -> list[str]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # the default refuses texts over 128 KiB
    try:
        header: list[str] | None = next(reader, None)
    except csv.Error as error:
        raise ConfigError(f"{path}: its header is broken ({error}); name the columns on the first line") from error
    if header is None:
        raise ConfigError(f"{path}: it is empty; give a header and at least two rows")
    if any(map(_is_undecoded, header)):
        raise ConfigError(f"{path}: its header is not UTF-8; convert the file, as with iconv")
    return header


def _delimited(path: Path, columns: Sequence[str], delimiter: str) -> Iterator[Row | BadRow]:
    with _open(path) as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        header = _header(path, reader)
        indices = [index_of_column(path, header, column) for column in columns]
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                fix = "quote the cells that hold a delimiter, a quote or a line break, and double the quotes in them"
                end = reader.line_num  # a quote that nothing closes swallows all lines to the end
                problem = f"is broken ({error})" + (f", and so are those up to line {end}" if end > line else "")
                yield from (BadRow(number, problem, fix) for number in range(line, end + 1))
                continue
            if cells is None:
                return
            if not cells:
                continue
            if len(cells) != len(header):
                problem = f"has {len(cells)} cells, the header has {len(header)}"
                yield BadRow(line, problem, "quote the cells that hold a delimiter or a line break")
                continue
            chosen = tuple(cells[i] for i in indices)
            yield _not_utf8(line) if any(map(_is_undecoded, chosen)) else Row(line, chosen)


def _json_lines(path: Path, columns: Sequence[str], time: str | None) -> Iterator[Row | BadRow]:
    found: dict[str, None] = {}
    missing = set(columns)
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            value = _object(line)
            if isinstance(value, str):
                yield BadRow(number, value, "write one object a line")
            elif _is_undecoded(line):
                yield _not_utf8(number)
            else:
                found.update(dict.fromkeys(value))
                missing.difference_update(value)
                yield make_row(number, columns, value, time=time)
    if not found:
        raise ConfigError(f"{path}: it is empty; give at least two rows")
    for column in columns:
        if column in missing:
            raise NoColumnError(path, list(found), column)


def _object(line: str) -> dict[str, Any] | str:
    """The object of a line of JSON, or what is wrong with it."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return "is not valid JSON"
    return value if isinstance(value, dict) else "is no JSON object"


def _parquet(path: Path, columns: Sequence[str], time: str | None) -> Iterator[Row | BadRow]:
    number = 0
    with _parquet_file(path) as file:
        for column in columns:
            index_of_column(path, file.schema_arrow.names, column)
        for batch in file.iter_batches(columns=list(columns)):
            try:
                values = batch.to_pylist()
            except (ValueError, OverflowError):  # of some row: which one?
                values = [_value(batch.slice(i, 1)) for i in range(len(batch))]
            for value in values:
                number += 1
                if isinstance(value, dict):
                    yield make_row(number, columns, value, time=time)
                else:
                    yield BadRow(number, value, "write the file again, without such values")


def _value(row: Any) -> dict[str, Any] | str:
    """The values of a batch of one row, or what is wrong with them."""
    try:
        value: dict[str, Any] = row.to_pylist()[0]
    except UnicodeDecodeError:
        return "has a string that is not UTF-8"
    except (ValueError, OverflowError):
        return "has a time that no calendar has"
    return value


@contextmanager
def _parquet_file(path: Path) -> Iterator[Any]:
    """The file, and its name in what is wrong with it, which may show late."""
    try:
        from pyarrow import ArrowException, parquet  # type: ignore[import-not-found, unused-ignore]  # optional
    except ImportError as error:
        raise ConfigError(f"{path}: reading Parquet needs pyarrow; pip install pyarrow, or give a CSV file") from error
    try:
        yield parquet.ParquetFile(path)
    except (ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's, and not pyarrow's own
            raise
        problem = f"it is no Parquet file, or a damaged one ({type(error).__name__})"
        raise ConfigError(f"{path}: {problem}; write it again") from error


def _is_undecoded(text: str) -> bool:
    return not text.isascii() and _UNDECODED.search(text) is not None


def _not_utf8(line: int) -> BadRow:
    return BadRow(line, "is not UTF-8", "convert the file, as with iconv")
