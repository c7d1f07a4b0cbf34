"""Augmented tables to files, complete or not there."""

from __future__ import annotations

import csv
import errno
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from stream_classifier.errors import ConfigError
from stream_classifier.model.tokenization import without_surrogates
from training.data import LABEL_SEPARATOR, METHOD_COLUMN, MULTI_LABEL_COLUMN, ORIGIN_COLUMN, Columns, Table

__all__ = ["FORMATS", "MadeRow", "check_labels", "check_target", "write_rows"]

FORMATS = (".csv", ".tsv", ".jsonl", ".parquet")
_WITH_LISTS = (".jsonl", ".parquet")

MadeRow = tuple[int, str, tuple[str, ...]]
"""The row of the table that it was made from, the method ("": it is that row), the cells of the text columns."""


def check_target(out: Path, source: Path, *, overwrite: bool) -> None:
    """Refuses a place where the table cannot be put, before it is made.

    Raises:
        ConfigError: with the fix.
    """
    if out.suffix.lower() not in FORMATS:
        raise ConfigError(f"--out {out}: the format {out.suffix!r} is not written; give one of {', '.join(FORMATS)}")
    if out.is_dir() or not out.parent.is_dir():
        raise ConfigError(f"--out {out}: give a file in a directory that is there")
    if out.exists() and out.samefile(source):
        raise ConfigError(f"--out {out} is the table that is read; give another file")
    if out.exists() and not overwrite:
        raise ConfigError(f"--out {out} is there already; give another one, or --overwrite")


def check_labels(out: Path, table: Table) -> None:
    """Refuses a format that has no lists where the labels need them, before rows are made.

    Raises:
        ConfigError: with the fix.
    """
    if table.multi_label and out.suffix.lower() not in _WITH_LISTS:
        unwritable = any(not labels or any(LABEL_SEPARATOR in label for label in labels) for labels in table.label_sets)
        if unwritable:
            raise ConfigError(f"--out {out}: rows without a label, or with | in one, need lists; give a .jsonl file")


def write_rows(out: Path, table: Table, columns: Columns, rows: Sequence[MadeRow]) -> None:
    """Writes rows with the labels, groups and times of those that they were made from.

    Raises:
        ConfigError: the file cannot be written.
    """
    suffix = out.suffix.lower()
    records = _records(table, columns, rows, lists=suffix in _WITH_LISTS)
    aside = out.with_name(f".{out.name}.{os.getpid()}.new")
    try:
        _write_records(aside, suffix, records)
        aside.replace(out)
    except OSError as error:
        is_full = error.errno == errno.ENOSPC
        fix = "free some space, and give the same command with --resume" if is_full else "give another file"
        raise ConfigError(f"--out {out}: it cannot be written ({error.strerror}); {fix}") from error
    finally:
        aside.unlink(missing_ok=True)


def _records(table: Table, columns: Columns, rows: Sequence[MadeRow], *, lists: bool) -> Iterator[dict[str, Any]]:
    label = columns.label or (MULTI_LABEL_COLUMN if table.multi_label else "label")
    for i, method, cells in rows:
        labels = table.label_sets[i]
        record: dict[str, Any] = dict(zip(columns.text, map(without_surrogates, cells), strict=True))
        if table.multi_label:
            record[label] = list(labels) if lists else LABEL_SEPARATOR.join(labels)
        else:
            record[label] = labels[0]
        if columns.group is not None and table.groups is not None:
            record[columns.group] = table.groups[i]
        if columns.time is not None and table.times is not None:
            record[columns.time] = str(table.times[i])
        record[ORIGIN_COLUMN] = str(i + 1 if table.lines is None else table.lines[i])
        record[METHOD_COLUMN] = method
        yield record


def _write_records(path: Path, suffix: str, records: Iterator[dict[str, Any]]) -> None:
    if suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(list(records)), path)
    elif suffix == ".jsonl":
        with path.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    else:
        first = next(records)
        with path.open("w", encoding="utf-8", newline="") as file:
            delimiter = "," if suffix == ".csv" else "\t"
            writer = csv.DictWriter(file, list(first), delimiter=delimiter, lineterminator="\n")
            writer.writeheader()
            writer.writerow(first)
            writer.writerows(records)
