"""Labelled tables: every cell is a string, only empty is missing, and what is wrong is said with file and line."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from stream_classifier.errors import ConfigError
from training.data import Columns, Table, read_table
from training.splits import split_table


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


def test_cells_that_other_readers_turn_into_missing_or_numbers_survive(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "t.csv", 'text,label\nNA,None\nnull,01\n"a, ""b""\nc",1.0\n'))
    assert table.texts == ["NA", "null", 'a, "b"\nc']
    assert table.labels == ["None", "01", "1.0"]


def test_json_lines_and_tsv_are_read_alike(tmp_path: Path) -> None:
    lines = write(tmp_path / "t.jsonl", '{"text": "one", "label": "a"}\n{"text": "two", "label": "b"}\n')
    tabs = write(tmp_path / "t.tsv", "text\tlabel\none\ta\ntwo\tb\n")
    assert read_table(lines).texts == read_table(tabs).texts == ["one", "two"]
    assert read_table(lines).labels == read_table(tabs).labels == ["a", "b"]


def test_rows_without_text_or_label_are_left_out_and_counted(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "t.csv", "text,label\none,a\n,a\ntwo,\nthree,b\n"))
    assert (table.texts, table.num_skipped) == (["one", "three"], 2)


def test_several_text_columns_are_joined(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "title,body,kind\nHi,there,a\nOnly title,,b\n")
    table = read_table(path, Columns(text=("title", "body"), label="kind"))
    assert table.texts == ["Hi\nthere", "Only title"]


def test_a_missing_column_names_those_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"t\.csv.*label.*kind") as refused:
        read_table(write(tmp_path / "t.csv", "text,kind\none,a\n"))
    assert "--label-column" in str(refused.value)


@pytest.mark.parametrize("content", ["", "text,label\n", '{"text": "one"'])
def test_tables_without_rows_or_with_broken_lines_are_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(ConfigError, match=r"t\.(csv|jsonl)"):
        read_table(write(tmp_path / ("t.jsonl" if content.startswith("{") else "t.csv"), content))


def test_a_split_keeps_shares_of_labels_and_all_rows_once() -> None:
    labels = ["common"] * 80 + ["rare"] * 20
    table = Table("rows", [f"text {i}" for i in range(100)], labels)
    train, validation = split_table(table, share=0.2, seed=7)
    assert sorted(train.texts + validation.texts) == sorted(table.texts)
    assert Counter(validation.labels) == {"common": 16, "rare": 4}
    assert split_table(table, share=0.2, seed=7)[1].texts == validation.texts
    assert split_table(table, share=0.2, seed=8)[1].texts != validation.texts
