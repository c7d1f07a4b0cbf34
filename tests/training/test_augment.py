"""Augmentation: what each method does to a text, what is written, and that no made row is ever evaluated on."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import training
from stream_classifier.errors import ConfigError
from training.augmentation.noise import NOISE
from training.augmentation.settings import AugmentSettings
from training.cli import cli
from training.data import Columns
from training.findings import Tables
from training.inspection import inspect_tables
from training.reading import read_table
from training.splits import split_table

WORDS = ["amber", "bridge", "candle", "dragon", "engine", "forest", "garden", "harbor", "island", "jungle", "kettle"]


def table(path: Path, number: int = 60, header: str = "text,label") -> Path:
    draw = random.Random(0)
    rows = [f"{' '.join(draw.choices(WORDS, k=10))},{'ab'[i % 2]}" for i in range(number)]
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def change(name: str, text: str, rate: float, seed: int = 0) -> str:
    return NOISE[name](text, rate, random.Random(seed))


TEXT = "the quick  brown fox\njumps over the lazy dog"


def test_typing_errors_change_so_many_letters() -> None:
    for seed in range(50):
        changed = change("typing", TEXT, 0.1, seed)
        assert changed != TEXT
        assert abs(len(changed) - len(TEXT)) <= 4  # a tenth of 35 letters
        assert changed.count(" ") == TEXT.count(" ")
    assert change("typing", "123 !", 0.5) == "123 !"


def test_case_changes_case_alone() -> None:
    changed = change("case", TEXT, 0.5)
    assert changed != TEXT
    assert changed.casefold() == TEXT.casefold()
    words = zip(changed.split(), TEXT.split(), strict=True)
    assert sum(one != other for one, other in words) == round(9 * 0.5)


def test_words_are_left_out_but_never_all() -> None:
    assert len(change("drop", TEXT, 0.3).split()) == 9 - 3
    assert change("drop", "alone", 1.0) == "alone"
    assert len(change("drop", TEXT, 1.0).split()) == 1


def test_swapped_words_are_the_same_words_in_another_order() -> None:
    changed = change("swap", TEXT, 0.2)
    assert changed != TEXT
    assert Counter(changed.split()) == Counter(TEXT.split())
    assert [c for c in changed if c.isspace()] == [c for c in TEXT if c.isspace()]


@given(st.sampled_from(sorted(NOISE)), st.text(max_size=40), st.floats(0.01, 1), st.integers(0, 5))
def test_any_text_is_changed_the_same_way_for_the_same_seed(name: str, text: str, rate: float, seed: int) -> None:
    assert change(name, text, rate, seed) == change(name, text, rate, seed)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_the_rows_come_first_and_made_rows_say_from_which_and_how(tmp_path: Path, suffix: str) -> None:
    data = table(tmp_path / "t.csv")
    result = training.augment(data, tmp_path / f"more{suffix}", settings=AugmentSettings(copies=4))
    assert sum(result.num_made.values()) + result.num_unchanged == 4 * 60
    assert min(result.num_made.values()) > 50
    original, made = read_table(data), read_table(result.path)
    assert made.texts[:60] == original.texts
    assert made.origins
    assert made.augmented
    assert made.augmented[:60] == [False] * 60
    assert all(made.augmented[60:])
    label_of = dict(zip(map(str, original.lines or ()), original.labels, strict=True))
    assert [label_of[origin] for origin in made.origins] == made.labels
    assert len(set(made.texts)) == len(made)


def test_equal_seeds_make_equal_files(tmp_path: Path) -> None:
    data = table(tmp_path / "t.csv")
    files = [
        training.augment(data, tmp_path / f"{i}.csv", settings=AugmentSettings(seed=seed)).path.read_bytes()
        for i, seed in enumerate((1, 1, 2))
    ]
    assert files[0] == files[1] != files[2]


def test_noise_takes_no_folder_beside_the_table(tmp_path: Path) -> None:
    """What somebody keeps in a folder of that name is theirs."""
    (tmp_path / "more.csv.work").mkdir()
    (tmp_path / "more.csv.work" / "notes.txt").write_text("mine")

    training.augment(table(tmp_path / "t.csv"), tmp_path / "more.csv")

    assert (tmp_path / "more.csv.work" / "notes.txt").read_text() == "mine"


def test_only_rows_as_they_were_are_held_out_and_those_made_from_them_go_away(tmp_path: Path) -> None:
    data = table(tmp_path / "t.csv", number=200)
    made = read_table(training.augment(data, tmp_path / "more.csv", settings=AugmentSettings(copies=4)).path)
    train, validation = split_table(made, share=0.1, seed=0)
    assert validation.origins
    assert train.origins
    assert not any(validation.augmented or ())
    assert not set(train.origins) & set(validation.origins)
    assert Counter(validation.labels) == {"a": 10, "b": 10}
    assert sum(train.augmented or ()) > 180 * 3.5


def test_made_rows_among_those_to_evaluate_on_are_an_error(tmp_path: Path) -> None:
    data = table(tmp_path / "t.csv")
    made = read_table(training.augment(data, tmp_path / "more.csv").path)
    findings = {finding.code: finding for finding in inspect_tables(Tables(read_table(data), None, made)).findings}
    assert findings["augmented-rows"].severity == "error"
    assert findings["augmented-rows"].lines[0] == 62
    assert "augmented-rows" not in {f.code for f in inspect_tables(Tables(made)).findings}


def test_of_a_folder_the_training_rows_alone_are_augmented(tmp_path: Path) -> None:
    for kind, number in (("train", 60), ("validation", 20), ("test", 30)):
        table(tmp_path / f"{kind}.csv", number)
    assert training.augment(tmp_path, tmp_path / "more.csv").num_originals == 60
    for name in ("validation", "valid", "val", "dev", "evaluation", "eval", "test", "Test"):
        with pytest.raises(ConfigError, match=r"rows to evaluate on are not augmented"):
            training.augment(table(tmp_path / f"{name}.csv"), tmp_path / "other.csv")


def test_a_table_that_was_augmented_is_not_augmented_again(tmp_path: Path) -> None:
    made = training.augment(table(tmp_path / "t.csv"), tmp_path / "more.csv").path
    with pytest.raises(ConfigError, match=r"was made by augment.*--copies"):
        training.augment(made, tmp_path / "most.csv")


def test_several_text_columns_groups_times_and_labels_stay_columns(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    rows = [
        {
            "title": f"{word} title {word}",
            "body": f"a body about {word}\nand more" if i % 2 else "",
            "tags": [word, "x"][: i % 3],
            "who": f"author {i}",
            "day": f"2026-01-{i + 1:02}",
        }
        for i, word in enumerate(WORDS)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    columns = Columns(text=("title", "body"), label="tags", multi_label=True, group="who", time="day")
    result = training.augment(
        path, tmp_path / "more.jsonl", settings=AugmentSettings(columns=columns, methods=("drop",))
    )
    before, after = read_table(path, columns), read_table(result.path, columns)
    number = len(before)
    assert after.parts[:number] == before.parts
    assert after.label_sets == before.label_sets * 2
    assert (after.groups, after.times) == ((before.groups or []) * 2, (before.times or []) * 2)
    assert all(not made[1] for made, own in zip(after.parts[number:], before.parts or (), strict=True) if not own[1])
    with pytest.raises(ConfigError, match=r"need lists; give a \.jsonl file"):
        training.augment(path, tmp_path / "more.csv", settings=AugmentSettings(columns=columns))


def test_texts_with_line_breaks_quotes_and_lone_surrogates_come_back(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    texts = ['a "quoted", text\r\nwith lines', "\ud800 half a character", "tab\there and \u2028 there", "日本 語 の 文"]
    path.write_text("\n".join(json.dumps({"text": text, "label": "ab"[i % 2]}) for i, text in enumerate(texts)))
    for suffix in (".csv", ".tsv", ".jsonl"):
        made = training.augment(path, tmp_path / f"more{suffix}").path
        assert read_table(made).texts[:4] == [texts[0], "\ufffd half a character", *texts[2:]]


def test_places_that_cannot_be_written_are_refused_before_the_work(tmp_path: Path) -> None:
    data = table(tmp_path / "t.csv")
    for out, problem in (
        (tmp_path / "more.xls", "not written"),
        (tmp_path / "none" / "more.csv", "directory that is there"),
        (data, "is the table that is read"),
    ):
        with pytest.raises(ConfigError, match=problem):
            training.augment(data, out, overwrite=True)
    training.augment(data, tmp_path / "more.csv")
    with pytest.raises(ConfigError, match="--overwrite"):
        training.augment(data, tmp_path / "more.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["more.csv", "t.csv"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"methods": ("spelling",)},
        {"methods": ("masked",)},
        {"methods": ("translation",)},
        {"translate_with": Path("x")},
        {"copies": 0},
        {"rates": {"drop": 0.0}},
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        AugmentSettings(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("--methods typing --drop-rate 0.1", "the rate of drop is given, and the methods are typing; add drop to"),
        ("--mask-rate 0.1", "the rate of masked is given, and the methods are typing, case, drop, swap; add masked to"),
        ("--methods drop --masked-model m", "a model of masked is given, and the methods are drop; add masked to"),
        ("--methods drop --translate-with a --translate-back-with b", "a model of translation is given, and the"),
    ],
)
def test_options_of_a_method_that_is_not_chosen_are_refused(tmp_path: Path, options: str, problem: str) -> None:
    arguments = ["augment", str(table(tmp_path / "t.csv")), "--out", str(tmp_path / "more.csv"), *options.split()]
    ran = CliRunner().invoke(cli, arguments)
    assert isinstance(ran.exception, ConfigError)
    assert problem in str(ran.exception)


def test_the_command_says_what_it_made(tmp_path: Path) -> None:
    data, out = table(tmp_path / "t.csv"), tmp_path / "more.csv"
    arguments = [
        "augment",
        str(data),
        "--out",
        str(out),
        "--methods",
        "drop,typing",
        "--drop-rate",
        "0.5",
        "--overwrite",
    ]
    ran = CliRunner().invoke(cli, arguments)
    assert "60 rows as they were and 60 made from them (drop 30, typing 30)" in ran.stdout
    dropped = [text for text in read_table(out).texts[60:] if len(text.split()) == 5]
    assert len(dropped) == 30
    made = json.loads(CliRunner().invoke(cli, [*arguments, "--json"]).stdout)
    assert made == {"path": str(out), "originals": 60, "made": {"drop": 30, "typing": 30}, "unchanged": 0}
