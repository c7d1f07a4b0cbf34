"""Labelled tables: every cell is a string, only empty is missing, and what is wrong is said with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream_classifier.errors import ConfigError
from training.cli.fit_options import read_golden_texts
from training.cli.options import parse_label_map
from training.data import Columns, label_targets, labels_of
from training.lesson import read_unlabelled
from training.reading import find_part, find_sources, read_table
from training.recipe import read_recipe
from training.texts import read_texts


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


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", "text,labels\none,a|b\ntwo,b\nthree, b | a \nfour,\n"),
        (
            "t.jsonl",
            '{"text": "one", "labels": ["a", "b"]}\n{"text": "two", "labels": "b"}\n'
            '{"text": "three", "labels": ["b", "a"]}\n{"text": "four", "labels": null}\n',
        ),
    ],
)
def test_a_column_named_labels_makes_a_table_multi_label(tmp_path: Path, name: str, content: str) -> None:
    table = read_table(write(tmp_path / name, content))
    assert table.multi_label
    assert table.label_sets == [("a", "b"), ("b",), ("b", "a")]
    assert table.lines == ([2, 3, 4] if name == "t.csv" else [1, 2, 3])
    assert label_targets(table, ("a", "b", "c")).tolist() == [[1, 1, 0], [0, 1, 0], [1, 1, 0]]
    assert table.num_skipped == 1


def test_an_empty_list_says_that_no_label_applies(tmp_path: Path) -> None:
    lines = '{"text": "one", "labels": []}\n{"text": "two", "labels": ["b"]}\n'
    assert read_table(write(tmp_path / "t.jsonl", lines)).label_sets == [(), ("b",)]


def test_label_comes_before_labels_and_any_column_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "text,label,labels\none,a,x|y\ntwo,b|c,x\n")
    assert read_table(path).labels == ["a", "b|c"]
    assert read_table(path, Columns(label="labels")).label_sets == [("x", "y"), ("x",)]
    assert read_table(path, Columns(label="label", multi_label=True)).label_sets == [("a",), ("b", "c")]


def test_a_list_in_a_column_of_one_label_is_refused_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"line 1 has a list as 'label'.*--multi-label"):
        read_table(write(tmp_path / "t.jsonl", '{"text": "one", "label": ["a", "b"]}\n'))


def test_groups_and_times_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "text,label,who,when\none,a,ann,1970-01-02\ntwo,b,,1970-01-01T00:00:10Z\n")
    table = read_table(path, Columns(group="who", time="when"))
    assert (table.groups, table.times) == (["ann", ""], [86400.0, 10.0])
    with pytest.raises(ConfigError, match=r"line 2 has no time in 'who'"):
        read_table(path, Columns(time="who"))


def test_rows_that_cannot_be_read_are_refused_by_line_or_skipped_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b'text,label\none,a\ntoo,many,cells\n"bad"quote,a\ncaf\xe9,b\ntwo,b\n')
    with pytest.raises(ConfigError, match=r"line 3 has 3 cells, the header has 2.*--skip-bad-rows"):
        read_table(path)
    table = read_table(path, Columns(skip_bad_rows=True))
    assert (table.texts, table.lines, table.num_skipped) == (["one", "two"], [2, 6], 3)


def test_bad_lines_of_json_are_named_or_skipped(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    good = [b'{"text": "one", "label": 1}', b'{"text": "two", "label": "b"}']
    bad = [b"{", b"[1]", b'{"text": 1.5, "label": "a"}', b'{"text": "caf\xe9", "label": "a"}']
    path.write_bytes(b"\n".join([good[0], *bad, good[1]]))
    for line, problem in enumerate(("not valid JSON", "no JSON object", "a float as 'text'", "not UTF-8"), start=2):
        path.write_bytes(b"\n".join([good[0], *[b""] * (line - 2), bad[line - 2], good[1]]))
        with pytest.raises(ConfigError, match=rf"line {line} .*{problem}"):
            read_table(path)
    path.write_bytes(b"\n".join([good[0], *bad, good[1]]))
    table = read_table(path, Columns(skip_bad_rows=True))
    assert (table.texts, table.labels, table.num_skipped) == (["one", "two"], ["1", "b"], 4)


def test_a_label_map_renames_merges_and_drops(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "text,label\none,Spam\ntwo,spam \nthree,ham\nfour,unsure\n")
    table = read_table(path, Columns(label_map={"Spam": "spam", "spam ": "spam", "unsure": ""}))
    assert (table.labels, table.num_skipped, table.num_dropped) == (["spam", "spam", "ham"], 0, 1)
    with pytest.raises(ConfigError, match="the label map leaves out all 4 rows that have a text and a label"):
        read_table(path, Columns(label_map=dict.fromkeys(("Spam", "spam ", "ham", "unsure"), "")))
    several = write(tmp_path / "m.csv", "text,labels\none,a|b|c\ntwo,c\n")
    mapped = read_table(several, Columns(label_map={"b": "a", "c": ""}))
    assert mapped.label_sets == [("a",)]


def test_a_label_map_is_written_on_the_command_line_or_in_a_file(tmp_path: Path) -> None:
    path = write(tmp_path / "map", "Spam=spam\n\na=b=c\nunsure=\n")
    assert parse_label_map(str(path)) == {"Spam": "spam", "a=b": "c", "unsure": ""}
    assert parse_label_map("a=x,b=x") == {"a": "x", "b": "x"}
    for wrong in ("a", "=x", "a=x,a=y"):
        with pytest.raises(ConfigError, match=r"--label-map"):
            parse_label_map(wrong)


def test_a_byte_order_mark_is_no_part_of_what_it_begins(tmp_path: Path) -> None:
    def marked(name: str, content: str) -> Path:
        (tmp_path / name).write_text(content, encoding="utf-8-sig")
        return tmp_path / name

    assert parse_label_map(str(marked("map", "Spam=spam\n"))) == {"Spam": "spam"}
    assert read_texts(marked("texts.txt", "one\n")) == ["one"]
    assert read_unlabelled(tmp_path / "texts.txt") == read_golden_texts(str(tmp_path / "texts.txt")) == ("one",)
    assert read_recipe(marked("run.toml", "seed = 3\n"))["seed"] == 3
    assert read_table(marked("t.jsonl", '{"text": "one", "label": "a"}\n')).texts == ["one"]
    assert read_table(marked("t.csv", "text,label\none,a\n")).texts == ["one"]


def test_numbers_with_a_fraction_are_times_and_no_texts(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", '{"text": "a", "label": "x", "at": 1.5}\n{"text": "b", "label": "y", "at": 2}\n')
    assert read_table(path, Columns(time="at")).times == [1.5, 2.0]
    with pytest.raises(ConfigError, match="line 1 has a float as 'at'"):
        read_table(path, Columns(label="at"))
    not_finite = write(tmp_path / "n.jsonl", '{"text": "a", "label": "x", "at": NaN}\n')
    with pytest.raises(ConfigError, match=r"line 1 has no time in 'at' \(--time-column\)"):
        read_table(not_finite, Columns(time="at"))


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


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("t.csv", "text,label\none,a\n".encode("utf-16"), r"header is not UTF-8; convert"),
        ("t.csv", b"text;label\none;a\n", r"divided by ';': write a \.csv file with commas"),
        ("t.tsv", b"text,label\none,a\n", r"divided by ','"),
        ("t.csv", b'text,label\n"unclosed,a\nmore,b\n', r"line 2 is broken"),
        ("t.jsonl", b"[" * 100_000, r"line 1 is not valid JSON"),
        ("t.jsonl", b'{"text": "a", "label": true}', r"line 1 has a bool as 'label'"),
        ("t.jsonl", b'{"text": {"x": 1}, "label": "a"}', r"line 1 has a dict as 'text'"),
        ("t.xlsx", b"PK", r"the format \.xlsx is not read"),
    ],
)
def test_what_is_no_table_is_refused_with_the_fix(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=problem):
        read_table(path)


def test_line_ends_of_every_kind_and_large_cells_are_read(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    for end in (b"\n", b"\r\n", b"\r"):
        path.write_bytes(b"text,label" + end + b"a b,x" + end + b"y" * 300_000 + b",z" + end)
        assert read_table(path).texts == ["a b", "y" * 300_000]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", 'text,label\na,"two\nlines"\nb,good\n'),
        ("t.csv", "text,label\na,be\x07ll\nb,good\n"),
        ("t.jsonl", '{"text": "a", "label": "half \\ud800"}\n{"text": "b", "label": "good"}\n'),
    ],
)
def test_a_label_that_no_model_directory_can_hold_is_refused_before_any_training(
    tmp_path: Path, name: str, content: str
) -> None:
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(ConfigError, match="control characters or half characters"):
        labels_of(read_table(file))


def test_a_path_that_cannot_be_looked_at_is_refused(tmp_path: Path) -> None:
    for find in (find_sources, lambda path: find_part(path, "test")):
        with pytest.raises(ConfigError, match=r"cannot be looked at \(File name too long\); check the path"):
            find(tmp_path / f"{'x' * 300}.csv")
