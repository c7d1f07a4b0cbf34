"""What a path stands for: files, folders with a file for each kind of rows, folders of labels, saved data sets."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from stream_classifier.errors import ConfigError
from tests.plugins.models import make_directory
from training.cli import cli
from training.data import Columns
from training.parts import read_parts
from training.reading import find_part, find_sources, read_table
from training.settings import FitSettings


@pytest.fixture
def no_bars() -> Iterator[None]:
    from datasets.utils.logging import disable_progress_bar, enable_progress_bar

    disable_progress_bar()
    yield
    enable_progress_bar()


def label_folder(folder: Path, texts: dict[str, list[str]]) -> Path:
    for label, contents in texts.items():
        (folder / label).mkdir(parents=True)
        for i, content in enumerate(contents):
            (folder / label / f"{i}.txt").write_text(content, "utf-8")
    return folder


def test_a_folder_of_text_files_for_each_label_is_a_table(tmp_path: Path) -> None:
    folder = label_folder(tmp_path / "mail", {"spam": ["win\n", "NA"], "ham": ["lunch?\nnoon", ""]})
    (folder / "spam" / "notes.md").write_text("not a row")
    (folder / "README.md").write_text("not a row")
    table = read_table(find_sources(folder).train)
    assert list(zip(table.texts, table.labels, strict=True)) == [
        ("lunch?\nnoon", "ham"),
        ("win", "spam"),
        ("NA", "spam"),
    ]
    assert table.num_skipped == 1
    assert find_part(folder, "test") == folder


def test_a_folder_of_labels_for_each_kind_of_rows(tmp_path: Path) -> None:
    for kind in ("train", "validation", "test"):
        label_folder(tmp_path / kind, {"a": [f"{kind} one"], "b": [f"{kind} two"]})
    sources = find_sources(tmp_path)
    assert [read_table(path).texts[0] for path in (sources.train, sources.validation, sources.test) if path] == [
        "train one",
        "validation one",
        "test one",
    ]
    assert find_part(tmp_path, "test") == tmp_path / "test"


def test_a_file_of_a_label_folder_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    folder = label_folder(tmp_path, {"a": ["one"], "b": ["two"]})
    (folder / "a" / "bad.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ConfigError, match=r"a/bad\.txt is not UTF-8"):
        read_table(folder)
    assert read_table(folder, Columns(skip_bad_rows=True)).texts == ["one", "two"]


@pytest.mark.usefixtures("no_bars")
def test_a_saved_data_set_gives_the_names_of_its_class_labels(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["ham", "spam"]),
            "tags": datasets.Sequence(datasets.ClassLabel(names=["x", "y"])),
        }
    )
    rows = {"text": ["one", "two", "three", None], "label": [1, 0, -1, 0], "tags": [[0, 1], [], [1], [0]]}
    train = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict(train=train, test=train.select([1])).save_to_disk(tmp_path / "both")
    train.save_to_disk(tmp_path / "alone")
    sources = find_sources(tmp_path / "both")
    assert sources.validation is None
    assert sources.test is not None
    assert read_table(sources.test).texts == ["two"]
    for path in (sources.train, find_sources(tmp_path / "alone").train):
        table = read_table(path)
        assert (table.texts, table.labels, table.num_skipped) == (["one", "two"], ["spam", "ham"], 2)
        several = read_table(path, Columns(label="tags", multi_label=True))
        assert several.label_sets == [("x", "y"), (), ("y",)]
    with pytest.raises(ConfigError, match=r"no column 'kind', the columns are 'text', 'label', 'tags'"):
        read_table(sources.train, Columns(label="kind"))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_column_that_an_option_names_wrongly_is_refused_with_the_option(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    row = {"text": "one", "label": "a", "author": "me", "date": "2026-01-01"}
    lines = {".csv": ",".join(row) + "\n" + ",".join(row.values()), ".jsonl": json.dumps(row)}
    path.write_text(lines[suffix] + "\n")
    problem = "has no such column, the columns are 'text', 'label', 'author', 'date'"
    with pytest.raises(ConfigError, match=rf"--group-column auhtor: .*{problem}; did you mean 'author'\?"):
        read_table(path, Columns(group="auhtor"))
    with pytest.raises(ConfigError, match=r"there is no column 'kind', the columns are 'text'.*--label-column"):
        read_table(path, Columns(label="kind", group="author"))
    with pytest.raises(ConfigError, match=r"line [12] has no time in 'author' \(--time-column\)"):
        read_table(path, Columns(time="author"))
    with pytest.raises(ConfigError, match="--time-column"):
        read_table(path, Columns(time="when"))


def test_a_broken_data_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{")
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"datasets does not load it .*save it again"):
        read_table(tmp_path)


def test_numbers_that_parquet_holds_are_labels_and_lists_are_several(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "t.parquet"
    parquet.write_table(pyarrow.table({"text": ["one", "two"], "label": [1, None], "tags": [["x"], ["x", "y"]]}), path)
    table = read_table(path)
    assert (table.labels, table.num_skipped) == (["1"], 1)
    assert read_table(path, Columns(label="tags", multi_label=True)).label_sets == [("x",), ("x", "y")]
    path.write_bytes(b"PAR1 no")
    with pytest.raises(ConfigError, match="no Parquet file"):
        read_table(path)


@pytest.mark.parametrize("encoded", [False, True], ids=["plain", "dictionary"])
def test_rows_of_parquet_that_are_not_utf8_are_refused_by_number_or_skipped_and_counted(
    tmp_path: Path, encoded: bool
) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    values = pyarrow.array([b"one", b"caf\xe9", b"two"])
    texts = pyarrow.Array.from_buffers(pyarrow.string(), 3, values.buffers())
    path = tmp_path / "t.parquet"
    texts = texts.dictionary_encode() if encoded else texts
    parquet.write_table(pyarrow.table({"text": texts, "label": ["a", "b", "b"]}), path)
    refused = CliRunner().invoke(cli, ["data", "check", str(path)])
    assert isinstance(refused.exception, ConfigError)
    assert "t.parquet: line 2 has a string that is not UTF-8; write the file again" in str(refused.exception)
    table = read_table(path, Columns(skip_bad_rows=True))
    assert (table.texts, table.lines, table.num_skipped) == (["one", "two"], [1, 3], 1)


def test_a_parquet_file_whose_pages_are_damaged_is_refused(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "t.parquet"
    columns = {"text": [f"text {i}" for i in range(500)], "label": ["a", "b"] * 250}
    parquet.write_table(pyarrow.table(columns), path)
    content = bytearray(path.read_bytes())
    content[60:400] = bytes(340)
    path.write_bytes(content)
    with pytest.raises(
        ConfigError, match=r"t\.parquet: it is no Parquet file, or a damaged one \(\w+\); write it again"
    ):
        read_table(path)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_times_and_dates_that_parquet_holds_are_times(tmp_path: Path, unit: str) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    of_a_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    moments = pyarrow.array([3600 * of_a_second, 7200 * of_a_second + (unit == "ns")], pyarrow.timestamp(unit))
    zoned = moments.cast(pyarrow.timestamp(unit, "Europe/Berlin"))
    dates = pyarrow.array([datetime.date(1970, 1, 2), datetime.date(1970, 1, 3)])
    columns = {"text": ["one", "two"], "label": ["a", "b"], "at": moments, "there": zoned, "on": dates, "n": [0.5, 1.0]}
    path = tmp_path / "t.parquet"
    parquet.write_table(pyarrow.table(columns), path)
    for column, times in {"at": [3600, 7200], "there": [3600, 7200], "on": [86400, 172800], "n": [0.5, 1.0]}.items():
        assert read_table(path, Columns(time=column)).times == times
    assert read_table(path, Columns(label="on")).labels == ["1970-01-02", "1970-01-03"]


def test_a_time_of_parquet_that_no_calendar_has_is_refused(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "t.parquet"
    columns = {"text": ["one", "two"], "label": ["a", "b"], "at": pyarrow.array([0, 2**60], pyarrow.timestamp("ms"))}
    parquet.write_table(pyarrow.table(columns), path)
    with pytest.raises(ConfigError, match="line 2 has a time that no calendar has"):
        read_table(path, Columns(time="at"))


def test_groups_and_times_are_wanted_of_the_rows_that_they_divide_alone(tmp_path: Path) -> None:
    rows = [f"the {kind} of number {i},{kind},{i},g{i}" for i in range(30) for kind in ("good", "bad")]
    train, test = tmp_path / "train.csv", tmp_path / "test.csv"
    train.write_text("\n".join(["text,label,at,who", *rows]))
    test.write_text("text,label\nquite another text,good\none that is like none,bad\n")
    columns = Columns(time="at", group="who")
    settings = FitSettings(base=str(make_directory(tmp_path / "base")), columns=columns)
    parts = read_parts(train, settings=settings, validation=test, test=test)
    assert (len(parts.validation), len(parts.train)) == (2, 60)
    arguments = ["data", "check", str(train), "--validation", str(test), "--time-column", "at"]
    assert "validation  2 rows, 2 labels" in CliRunner().invoke(cli, arguments).stdout
    with pytest.raises(ConfigError, match=r"--group-column who: .*test\.csv has no such column"):
        read_parts(test, settings=settings)


def test_a_folder_without_rows_and_two_tables_of_one_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no rows to train on.*train\.csv"):
        find_sources(tmp_path)
    (tmp_path / "train.csv").write_text("text,label\none,a\n")
    label_folder(tmp_path / "train", {"a": ["one"]})
    with pytest.raises(ConfigError, match=r"both train\.csv and train are there"):
        find_sources(tmp_path)


def test_the_options_say_how_rows_are_read(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("text,label\none,a\nbad\n")
    arguments = ["evaluate", str(tmp_path / "no-model"), str(path)]
    refused = CliRunner().invoke(cli, arguments)
    assert "line 3 has 1 cells" in str(refused.exception)
    skipped = CliRunner().invoke(cli, [*arguments, "--skip-bad-rows"])
    assert "no-model" in str(skipped.exception)
