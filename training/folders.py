"""Folders to rows of cells: a folder of text files for each label, and a data set that Hugging Face's datasets saved.

Both stand for one table. Folders with a table each for training, validation and testing are taken apart by reading.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from stream_classifier.errors import ConfigError
from training.tables import BadRow, Row, index_of_column, make_row

__all__ = ["folder_column_names", "folder_rows", "is_table"]

_DATASET_FILE = "state.json"  # what Dataset.save_to_disk writes; a DatasetDict has a folder with one for each split
_LABEL_FOLDER_COLUMNS = ["text", "label"]
_BATCH_ROWS = 1000


def is_table(folder: Path) -> bool:
    """Whether a folder is one table: a saved data set, or folders that are named as labels and hold .txt files."""
    return _is_dataset(folder) or any(next(_text_files(child), None) for child in _label_folders(folder))


def folder_column_names(folder: Path) -> list[str]:
    """The columns of a folder for which `is_table` is true; folders of labels have `text` and `label`.

    Raises:
        ConfigError: a data set that cannot be loaded.
    """
    return list(_load(folder).column_names) if _is_dataset(folder) else _LABEL_FOLDER_COLUMNS


def folder_rows(folder: Path, columns: Sequence[str], *, time: str | None = None) -> Iterator[Row | BadRow]:
    """The rows of a folder for which `is_table` is true, only the `columns` named; lines are numbers of rows, from 1.

    Label folders go by name, and so do their files. The class labels of a data set are given by their names. `time` is
    as for `tables.read_rows`.

    Raises:
        ConfigError: a data set that cannot be loaded, or lacks a column.
    """
    if _is_dataset(folder):
        return _dataset_rows(folder, columns, time)
    return _label_folder_rows(folder, columns)


def _label_folder_rows(folder: Path, columns: Sequence[str]) -> Iterator[Row | BadRow]:
    indices = [index_of_column(folder, _LABEL_FOLDER_COLUMNS, column) for column in columns]
    number = 0
    for child in _label_folders(folder):
        for file in _text_files(child):
            number += 1
            name = file.relative_to(folder).as_posix()
            try:
                text = file.read_text("utf-8-sig").removesuffix("\n")
            except UnicodeDecodeError:
                yield BadRow(number, "is not UTF-8", "convert the file, as with iconv", name)
                continue
            except OSError as error:
                problem = f"cannot be read ({error.strerror or type(error).__name__})"
                yield BadRow(number, problem, "check the file and its mode", name)
                continue
            cells = (text, child.name)
            yield Row(number, tuple(cells[i] for i in indices))


def _label_folders(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))


def _text_files(folder: Path) -> Iterator[Path]:
    return iter(sorted(child for child in folder.glob("*.txt") if child.is_file() and not child.name.startswith(".")))


def _is_dataset(folder: Path) -> bool:
    return (folder / _DATASET_FILE).is_file() and (folder / "dataset_info.json").is_file()


def _load(folder: Path) -> Any:
    try:
        from datasets import load_from_disk
    except ImportError as error:
        fix = "pip install 'stream-classifier[training]', or give a CSV file"
        raise ConfigError(f"{folder}: reading a saved data set needs datasets; {fix}") from error
    try:
        return load_from_disk(str(folder)).with_format(None)
    except Exception as error:  # of datasets, pyarrow, json and fsspec: whatever is wrong with the folder
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ConfigError(f"{folder}: datasets does not load it ({reason}); save it again with save_to_disk") from error


def _dataset_rows(folder: Path, columns: Sequence[str], time: str | None) -> Iterator[Row | BadRow]:
    dataset = _load(folder)
    for column in columns:
        index_of_column(folder, dataset.column_names, column)
    named = {column: _names(dataset.features[column]) for column in columns}
    number = 0
    for batch in dataset.select_columns(list(dict.fromkeys(columns))).iter(_BATCH_ROWS):
        for values in zip(*(batch[column] for column in columns), strict=True):
            number += 1
            row = {column: named[column](value) for column, value in zip(columns, values, strict=True)}
            yield make_row(number, columns, row, time=time)


def _names(feature: Any) -> Callable[[Any], Any]:
    """What gives a class label's name for its number, in lists too; -1 stands for a missing one."""
    inner = getattr(feature, "feature", None)
    if inner is not None:
        name = _names(inner)
        return lambda values: None if values is None else [name(value) for value in values]
    names = getattr(feature, "names", None)
    if names is None:
        return lambda value: value
    return lambda value: None if value is None or value < 0 else names[value]
