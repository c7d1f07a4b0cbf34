"""`data check`: each thing that spoils a model is found in a table that has it, and in no other."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from stream_classifier.errors import ConfigError
from tests.plugins.models import make_directory
from training.cli import cli
from training.cli.options import parse_label_map
from training.data import Table
from training.encoder import load_tokenizer
from training.findings import Finding, Tables
from training.inspection import inspect_tables
from training.lengths import estimate, token_counter
from training.parts import read_parts
from training.settings import FitSettings

WORDS = ["amber", "bridge", "candle", "dragon", "engine", "forest", "garden", "harbor", "island", "jungle", "kettle"]


def texts(number: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=10)) for _ in range(number)]


def table(some: Sequence[str], labels: Sequence[str], **fields: object) -> Table:
    lines = list(range(2, len(some) + 2))
    return Table("t.csv", list(some), [(label,) for label in labels], lines=lines, **fields)  # type: ignore[arg-type]


def clean(number: int = 400, seed: int = 0) -> Table:
    return table(texts(number, seed), ["a", "b"] * (number // 2))


def found(train: Table, validation: Table | None = None, test: Table | None = None) -> dict[str, Finding]:
    return {finding.code: finding for finding in inspect_tables(Tables(train, validation, test)).findings}


def test_nothing_is_found_in_clean_tables() -> None:
    assert found(clean(), clean(200, 1), clean(200, 2)) == {}


def test_copies_in_the_test_rows_are_counted_with_their_lines() -> None:
    train, test = clean(), clean(200, 2)
    test.texts[4] = train.texts[0]
    test.texts[9] = train.texts[3].upper() + "!"
    leakage = found(train, None, test)["leakage"]
    assert (leakage.severity, leakage.part, leakage.lines) == ("warning", "test", (6, 11))
    assert "copies of train rows: 2 of 200 texts (1.0 %), 1 letter by letter, 1 nearly" in leakage.message


def test_one_text_with_two_labels() -> None:
    train = table([*texts(400), "Hello  there", "hello there"], [*["a", "b"] * 200, "a", "b"])
    assert found(train)["two-labels"].lines == (402, 403)
    same = table([*texts(400), "Hello there", "hello there"], [*["a", "b"] * 200, "a", "a"])
    assert "two-labels" not in found(same)


def test_a_text_with_another_label_in_the_test_rows() -> None:
    train, test = clean(), clean(200, 2)
    test.texts[0], test.label_sets[0] = train.texts[0], ("b",)
    assert train.label_sets[0] == ("a",)
    assert "two-labels" in found(train, None, test)


@pytest.mark.parametrize(
    ("one", "other"), [("Spam", "spam "), ("card_lost", "Card-Lost"), ("a b", "ab"), ("not_spam", "Not Spam")]
)
def test_labels_that_are_nearly_equal_come_with_the_map_that_merges_them(one: str, other: str) -> None:
    train = table(texts(300), [*["x", one, one] * 90, *[other] * 30])
    finding = found(train)["similar-labels"]
    assert f"--label-map '{other}={one}'" in finding.fix
    assert "similar-labels" not in found(table(texts(300), ["C", "C++", "w2"] * 100))


@pytest.mark.parametrize(("one", "other"), [("lost, stolen", "Lost, stolen"), ("can't pay", "Can't pay")])
def test_a_label_that_the_option_cannot_say_goes_to_a_file(one: str, other: str, tmp_path: Path) -> None:
    finding = found(table(texts(300), [one, one, other] * 100))["similar-labels"]
    assert finding.fix == f"merge them: --label-map FILE, with a line OLD=NEW for each, NEW being {one!r}"
    file = tmp_path / "map.txt"
    file.write_text(f"{other}={one}\n", "utf-8")
    assert parse_label_map(str(file)) == {other: one}
    assert "merge them: in the table" in found(table(texts(200), ["a=b", "A=b"] * 100))["similar-labels"].fix


def test_rare_labels_and_imbalance() -> None:
    train = table(texts(400), [*["a"] * 390, "once", *["few"] * 9])
    codes = found(train)
    assert "'once'" in codes["single-examples"].message
    assert codes["imbalance"].message.startswith("'a' has 390 rows and 'once' 1")
    assert "few-examples" in found(table(texts(400), [*["a"] * 393, *["few"] * 7]))


def test_blank_texts_and_rows_left_out() -> None:
    train = table([*texts(400), " \n"], [*["a", "b"] * 200, "a"], num_skipped=3)
    codes = found(train)
    assert codes["blank-texts"].lines == (402,)
    assert codes["skipped-rows"].message.startswith("3 rows are left out")


def test_labels_that_training_does_not_have_are_an_error() -> None:
    test = table(texts(200, 2), ["a", "b", "c", "b"] * 50)
    unknown = found(clean(), None, test)["unknown-labels"]
    assert (unknown.severity, unknown.lines[0]) == ("error", 4)
    assert "'c'" in unknown.message
    absent = found(test, None, clean(200, 3))["absent-labels"]
    assert "'c'" in absent.message


def test_one_label_and_numbers_are_errors() -> None:
    codes = found(table([str(i) for i in range(100)], ["a"] * 100))
    assert codes["one-label"].severity == codes["numbers"].severity == "error"
    assert "numbers" not in found(table(["1", "two"], ["a", "b"]))


def test_other_shares_of_labels_in_the_test_rows() -> None:
    assert "label-shift" in found(clean(), None, table(texts(200, 2), ["a"] * 150 + ["b"] * 50))


def test_a_multi_label_table_with_one_label_each() -> None:
    train = Table("t.csv", texts(20), [("a",), ("b",)] * 10, multi_label=True)
    assert "one-label-each" in found(train)
    assert found(train, Table("v.csv", texts(5), [("a",)] * 5))["kinds-differ"].severity == "error"


def test_long_texts_are_found_with_the_length_that_reads_most(tmp_path: Path) -> None:
    base = make_directory(tmp_path / "base")
    counter = token_counter(str(base))
    assert counter.max_length == 64
    long = [" ".join(["the film"] * 40), *["the film"] * 3]
    tables = Tables(table(long * 100, ["a", "b"] * 200))
    inspection = inspect_tables(tables, counter=counter, max_length=20)
    lengths = counter.count(long)
    assert inspection.lengths.quantile(1.0) == lengths.tokens_N[0] > 64
    finding = next(finding for finding in inspection.findings if finding.code == "long-texts")
    assert "25.0 % of the texts have more than 20 tokens" in finding.message
    assert "--max-length 64 " in finding.fix
    at_limit = inspect_tables(tables, counter=counter, max_length=256)
    assert at_limit.max_length == 64
    assert "the base reads no more" in next(f for f in at_limit.findings if f.code == "long-texts").fix


def test_symbols_that_the_base_does_not_know(tmp_path: Path) -> None:
    counter = token_counter(str(make_directory(tmp_path / "base")))
    tables = Tables(table([f"{text} ★ ☂" for text in texts(100)], ["a", "b"] * 50))
    assert "unknown-tokens" in {finding.code for finding in inspect_tables(tables, counter=counter).findings}


def test_an_estimate_of_lengths_is_near_for_english() -> None:
    assert estimate(["one two three four five six seven eight"]).tokens_N.tolist() == [13]


def test_a_base_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"--base .*tokenizer does not load"):
        token_counter(str(tmp_path))


def test_a_base_that_is_nowhere_is_refused_as_path_and_as_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for base in ("./no/such", "/no/such", "a/b/c"):
        with pytest.raises(ConfigError, match=f"--base {base}: there is no such directory, and a name of the Hub is"):
            token_counter(base)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for base in ("no-such/model", "no-such-model"):
        wanted = (
            rf"--base {base}: there is no such directory, and no model of that name in the Hub's cache \(.*HF_HUB_OFF"
        )
        with pytest.raises(ConfigError, match=wanted):
            token_counter(base)
        with pytest.raises(ConfigError, match=wanted):
            load_tokenizer(base)


def test_a_name_that_the_hub_does_not_give_is_refused_as_path_too(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no connection\nand more")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", unreachable)
    with pytest.raises(
        ConfigError, match=r"there is no such directory, and as a name of the Hub .* \(no connection\);"
    ):
        token_counter("no-such/model")


def write(path: Path, rows: Table) -> Path:
    lines = [json.dumps({"text": t, "label": label}) for t, label in zip(rows.texts, rows.labels, strict=True)]
    path.write_text("\n".join(lines))
    return path


def test_a_fit_refuses_errors_and_logs_warnings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base = str(make_directory(tmp_path / "base"))
    train, test = clean(), clean(200, 2)
    test.texts[4] = train.texts[0]
    parts = read_parts(
        write(tmp_path / "train.jsonl", train),
        test=write(tmp_path / "test.jsonl", test),
        settings=FitSettings(base=base),
    )
    assert {finding.code for finding in parts.inspection.findings} == {"leakage"}
    assert "copies of train rows: 1 of 200" in caplog.text
    numbers = write(tmp_path / "numbers.jsonl", table([str(i) for i in range(100)], ["a", "b"] * 50))
    with pytest.raises(ConfigError, match=r"numbers\.jsonl: all 100 texts are numbers; .*--text-column"):
        read_parts(numbers, settings=FitSettings(base=base))


def test_the_command_shows_lines_but_no_texts_and_exits_1_for_warnings(tmp_path: Path) -> None:
    base = str(make_directory(tmp_path / "base"))
    train, test = clean(), clean(200, 2)
    good = write(tmp_path / "good.jsonl", train)
    ran = CliRunner().invoke(cli, ["data", "check", str(good), "--base", base])
    assert ran.exit_code == 0
    assert "nothing found" in ran.stdout
    assert "train       400 rows, 2 labels" in ran.stdout
    test.texts[4] = train.texts[0]
    arguments = ["data", "check", str(good), "--test", str(write(tmp_path / "test.jsonl", test)), "--base", base]
    ran = CliRunner().invoke(cli, arguments)
    assert ran.exit_code == 1
    assert "warning, test: copies of train rows: 1 of 200" in ran.stdout
    assert train.texts[0] not in ran.output
    found_by_machine = json.loads(CliRunner().invoke(cli, [*arguments, "--json"]).stdout)
    assert found_by_machine["rows"] == {"train": 400, "test": 200}
    assert [(f["code"], f["part"], f["lines"]) for f in found_by_machine["findings"]] == [("leakage", "test", [5])]


def test_rows_that_the_label_map_leaves_out_are_a_note(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", table(texts(600), ["a", "b", "unsure"] * 200))
    ran = CliRunner().invoke(cli, ["data", "check", str(path), "--label-map", "unsure="])
    assert ran.exit_code == 0
    assert "note, train: 200 rows are left out by the label map" in ran.stdout
    assert json.loads(CliRunner().invoke(cli, ["data", "check", str(path), "--label-map", "unsure=", "--json"]).stdout)[
        "skipped"
    ] == {"train": 0}


def test_the_out_of_scope_label_need_not_be_trained() -> None:
    test = table(texts(200, 2), ["a", "b", "oos", "b"] * 50)
    tables = Tables(clean(), None, test, out_of_scope_label="oos")
    assert "unknown-labels" not in {finding.code for finding in inspect_tables(tables).findings}


def test_a_table_of_several_labels_by_mistake_is_told_so_with_an_out_of_scope_label_too() -> None:
    test = table(texts(200, 2), ["a", "b"] * 100, multi_label=True)
    tables = Tables(clean(), None, test, out_of_scope_label="oos")
    assert [finding.code for finding in inspect_tables(tables).findings] == ["kinds-differ"]


def test_rows_out_of_scope_are_judged_as_fit_judges_them(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", table(texts(401), [*["a", "b"] * 200, "oos"]))
    test = write(tmp_path / "test.jsonl", table(texts(200, 2), ["a", "b"] * 50 + ["oos"] * 100))
    arguments = ["data", "check", str(train), "--test", str(test), "--json"]
    outside = ("--out-of-scope-label", "oos")
    for options, codes in (((), {"single-examples", "imbalance", "label-shift"}), (outside, set[str]())):
        said = json.loads(CliRunner().invoke(cli, [*arguments, *options]).stdout)
        assert {finding["code"] for finding in said["findings"]} - {"copies", "unknown-tokens"} == codes
    one = write(tmp_path / "one.jsonl", table(texts(400), ["a", "oos"] * 200))
    none = write(tmp_path / "none.jsonl", table(texts(200, 2), ["oos"] * 200))
    for path, other, problem in (
        (one, test, "one.jsonl: all 200 rows have the label 'a'; give at least two labels"),
        (train, none, "none.jsonl: all 200 rows have the out-of-scope label 'oos'; give rows with the labels"),
    ):
        ran = CliRunner().invoke(cli, ["data", "check", str(path), "--test", str(other), *outside])
        assert ran.exit_code == 1
        assert problem.partition(": ")[2].partition(";")[0] in ran.stdout
        with pytest.raises(ConfigError, match=re.escape(problem)):
            read_parts(path, test=other, settings=FitSettings(out_of_scope_label="oos"))


@pytest.mark.parametrize(
    ("task", "labels", "positive"),
    [("spam", ("ham", "Spam"), "Spam"), ("spam", ("no", "yes"), None), ("free", ("ham", "spam"), None)],
)
def test_the_positive_label_of_spam_is_spam(
    tmp_path: Path, task: str, labels: tuple[str, str], positive: str | None
) -> None:
    rows = table(texts(100), labels * 50)
    settings = FitSettings(task=task, base=str(make_directory(tmp_path / "base")))
    assert read_parts(write(tmp_path / "t.jsonl", rows), settings=settings).positive_label == positive
