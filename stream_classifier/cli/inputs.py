"""Texts from a file or a pipe: lines of text, JSON lines or CSV, as values for a codec, each with its line number.

Reading is lazy, and says when it is about to wait for more: what came so far can be answered first, so that a slow pipe
gets each answer as its line arrives while a file is read in large pieces. CSV rows become JSON objects, so that one
codec reads both.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import orjson

from stream_classifier.errors import ConfigError, RecordError

__all__ = ["FORMATS", "Item", "format_of", "read_items"]

FORMATS = ("text", "jsonl", "csv", "tsv")

_BY_EXTENSION = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".tsv": "tsv"}
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_READ_BYTES = 1 << 20
_MAX_CELL_CHARS = 2**31 - 1  # csv's own limit is 128 KiB


class Item(NamedTuple):
    """One record of the input: where it begins, and its value, or why it has none."""

    line: int
    value: bytes | RecordError


def format_of(path: str) -> str:
    """The format that a file's name tells; "text" for all others."""
    return _BY_EXTENSION.get(Path(path).suffix.lower(), "text")


def read_items(
    stream: io.BufferedIOBase,
    *,
    format: str,
    text_columns: Iterable[str] = (),
    before_wait: Callable[[], None] = lambda: None,
    on_read: Callable[[int], None] = lambda size: None,
) -> Iterator[Item]:
    """The records of an input, in order.

    Args:
        stream: bytes in UTF-8; a byte order mark is skipped.
        format: one of FORMATS. Blank lines are texts in "text", and nothing in the others.
        text_columns: columns that a CSV file must have.
        before_wait: called before each read that may block.
        on_read: called with the number of bytes of each read.

    Raises:
        ConfigError: a CSV file without one of `text_columns`.
    """
    lines = _lines(stream, before_wait, on_read)
    if format == "text":
        yield from (Item(number, line) for number, line in enumerate(lines, start=1))
    elif format == "jsonl":
        yield from (Item(number, line) for number, line in enumerate(lines, start=1) if line.strip())
    else:
        yield from _rows(lines, "\t" if format == "tsv" else ",", text_columns)


def _lines(
    stream: io.BufferedIOBase, before_wait: Callable[[], None], on_read: Callable[[int], None]
) -> Iterator[bytes]:
    """Lines without their ends."""
    begun: list[bytes] = []  # the parts of a line whose end has not been read
    at_start = True
    while True:
        before_wait()
        data = stream.read1(_READ_BYTES)
        if not data:
            break
        on_read(len(data))
        if at_start:
            data, at_start = data.removeprefix(_BYTE_ORDER_MARK), False
        first, *others = data.split(b"\n")
        begun.append(first)
        for part in others:
            yield b"".join(begun).removesuffix(b"\r")
            begun = [part]
    if rest := b"".join(begun):
        yield rest.removesuffix(b"\r")


def _rows(lines: Iterator[bytes], delimiter: str, text_columns: Iterable[str]) -> Iterator[Item]:
    csv.field_size_limit(_MAX_CELL_CHARS)
    # Bytes that are not UTF-8 become lone surrogates, which no JSON can hold: they fail their own row below.
    reader = csv.reader((line.decode("utf-8", "surrogateescape") + "\n" for line in lines), delimiter=delimiter)
    header = next(reader, None)
    if header is None:
        return
    for column in text_columns:
        if column not in header:
            known = ", ".join(map(repr, header[:20]))
            raise ConfigError(f"there is no column {column!r}; give --text-column, the columns are {known}")
    while True:
        number = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            yield Item(number, RecordError("decode", "InvalidCsv", f"the row is not CSV: {error}"))
            continue
        if row is None:
            return
        if row:
            yield Item(number, _as_json(header, row))


def _as_json(header: list[str], row: list[str]) -> bytes | RecordError:
    if len(row) > len(header):
        message = f"the row has {len(row)} cells, the header {len(header)}: a cell with a comma needs quotes"
        return RecordError("decode", "InvalidCsv", message)
    try:
        return orjson.dumps(dict(zip(header, row, strict=False)))
    except TypeError:
        return RecordError("decode", "InvalidUtf8", "the row is not UTF-8")
