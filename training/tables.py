"""Files to rows of text cells: CSV, TSV, JSON lines and, where pyarrow is installed, Parquet.

Every cell is a string and only the empty one is missing: the texts "NA" and "null" and the labels "None" and "01" are
what they are (readers that guess types lose them). What the columns mean is for data.py.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stream_classifier.errors import ConfigError

__all__ = ["FORMATS", "Row", "read_rows"]

FORMATS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_MAX_NAME = 40  # characters of a column's name in a message: a file without a header has texts there


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its cells, `""` where missing, and the line it starts on (Parquet: the row's number, from 1)."""

    line: int
    cells: tuple[str, ...]


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """The rows of a file, only the `columns` named, in that order.

    Raises:
        ConfigError: a file that cannot be read, is of another format, lacks a column, or has a row that is broken; with
            the file, the line and the fix.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise ConfigError(f"{path}: the format {suffix or 'without a suffix'} is not read; give {', '.join(FORMATS)}")
    try:
        if suffix == ".parquet":
            yield from _parquet(path, columns)
        elif suffix in _DELIMITERS:
            yield from _delimited(path, columns, _DELIMITERS[suffix])
        else:
            yield from _json_lines(path, columns)
    except OSError as error:
        raise ConfigError(f"{path}: it cannot be read ({error.strerror}); check the path and its mode") from error
    except UnicodeDecodeError as error:
        line = path.read_bytes().count(b"\n", 0, error.start) + 1 if suffix != ".parquet" else 1
        raise ConfigError(f"{path}: line {line} or later is not UTF-8; convert the file, as with iconv") from error


def _delimited(path: Path, columns: Sequence[str], delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # the default refuses texts over 128 KiB
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            header = next(reader, None)
            if header is None:
                raise ConfigError(f"{path}: it is empty; give a header and at least two rows")
            indices = [_index(path, header, column) for column in columns]
            line = reader.line_num + 1
            for cells in reader:
                if cells and len(cells) != len(header):
                    problem = f"line {line} has {len(cells)} cells, the header has {len(header)}"
                    raise ConfigError(f"{path}: {problem}; quote the cells that hold a delimiter or a line break")
                if cells:
                    yield Row(line, tuple(cells[i] for i in indices))
                line = reader.line_num + 1
        except csv.Error as error:
            fix = "quote the cells that hold a delimiter, a quote or a line break, and double the quotes in them"
            raise ConfigError(f"{path}: line {reader.line_num} is broken ({error}); {fix}") from error


def _json_lines(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    found: dict[str, None] = {}
    missing = set(columns)
    with path.open(encoding="utf-8-sig", newline="\n") as file:  # a text may hold U+2028 and such, which end no line
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ConfigError(f"{path}: line {number} is not valid JSON; write one object a line") from error
            if not isinstance(value, dict):
                raise ConfigError(f"{path}: line {number} is no JSON object; write one object a line")
            found.update(dict.fromkeys(value))
            missing.difference_update(value)
            yield Row(number, tuple(_cell(path, number, column, value.get(column)) for column in columns))
    if not found:
        raise ConfigError(f"{path}: it is empty; give at least two rows")
    for column in columns:
        if column in missing:
            raise _no_column(path, list(found), column)


def _parquet(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException, parquet  # type: ignore[import-not-found, unused-ignore]  # optional
    except ImportError as error:
        raise ConfigError(f"{path}: reading Parquet needs pyarrow; pip install pyarrow, or give a CSV file") from error
    try:
        file = parquet.ParquetFile(path)
        for column in columns:
            _index(path, file.schema_arrow.names, column)
        number = 0
        for batch in file.iter_batches(columns=list(columns)):
            for value in batch.to_pylist():
                number += 1
                yield Row(number, tuple(_cell(path, number, column, value[column]) for column in columns))
    except ArrowException as error:
        raise ConfigError(f"{path}: it is no Parquet file ({type(error).__name__}); write it again") from error


def _cell(path: Path, number: int, column: str, value: Any) -> str:
    """A JSON or Parquet value as text. Whole numbers are common labels; other types would be written in many ways."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    kind = type(value).__name__
    raise ConfigError(f"{path}: line {number} has a {kind} as {column!r}; give a string, or null for a missing one")


def _index(path: Path, header: Sequence[str], column: str) -> int:
    if header.count(column) > 1:
        raise ConfigError(f"{path}: the column {column!r} is there {header.count(column)} times; rename all but one")
    if column not in header:
        raise _no_column(path, header, column)
    return header.index(column)


def _no_column(path: Path, header: Sequence[str], column: str) -> ConfigError:
    seen = ", ".join(repr(name[:_MAX_NAME]) for name in header[:20])
    return ConfigError(
        f"{path}: there is no column {column!r}, the columns are {seen}; "
        "give --text-column and --label-column, or add a header line"
    )
