"""Splits: shares of labels, copies and groups on one side, the latest rows held out, the same for the same seed."""

from __future__ import annotations

import csv
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_classifier.errors import ConfigError
from training.data import Columns, Table
from training.duplicates import near_duplicates, simplified
from training.parts import read_parts
from training.settings import FitSettings
from training.splits import split_table

WORDS = ["amber", "bridge", "candle", "dragon", "engine", "forest", "garden", "harbor", "island", "jungle", "kettle"]


def texts(number: int, seed: int = 0) -> list[str]:
    """Texts that are no near-duplicates of each other."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=8)) for _ in range(number)]


def single(labels: list[str], **columns: list[float] | list[str]) -> Table:
    return Table("rows", texts(len(labels)), [(label,) for label in labels], **columns)  # type: ignore[arg-type]


def test_a_split_keeps_shares_of_labels_and_all_rows_once() -> None:
    table = single(["common"] * 80 + ["rare"] * 20)
    train, validation = split_table(table, share=0.2, seed=7)
    assert sorted(train.texts + validation.texts) == sorted(table.texts)
    assert Counter(validation.labels) == {"common": 16, "rare": 4}
    assert split_table(table, share=0.2, seed=7)[1].texts == validation.texts
    assert split_table(table, share=0.2, seed=8)[1].texts != validation.texts


def test_a_label_with_a_single_text_is_trained_on() -> None:
    train, validation = split_table(single(["a"] * 30 + ["b"]), share=0.9, seed=0)
    assert "b" in train.labels
    assert Counter(validation.labels) == {"a": 27}


def test_shares_hold_for_every_label_of_a_multi_label_table() -> None:
    draw = random.Random(3)
    sets = [tuple(x for x in "abc" if draw.random() < 0.5) + (("rare",) if i % 20 == 0 else ()) for i in range(1000)]
    table = Table("rows", texts(1000), sets, multi_label=True)
    _, validation = split_table(table, share=0.1, seed=0)
    total, held_out = table.label_counts(), validation.label_counts()
    assert {label: round(held_out[label] / total[label], 2) for label in total} == pytest.approx(
        dict.fromkeys(total, 0.1), abs=0.015
    )
    assert sum(not label_set for label_set in validation.label_sets) == pytest.approx(
        0.1 * sum(not label_set for label_set in sets), abs=1
    )


def test_near_duplicates_stay_on_one_side() -> None:
    originals = [f"{one} {two}" for one, two in zip(texts(60), texts(60, seed=1), strict=True)]
    copies = [f"{text.upper()}!!" for text in originals]
    typos = [text[:20] + text[21:] for text in originals]
    table = Table("rows", [*originals, *copies, *typos], [("a",), ("b",)] * 90)
    train, validation = split_table(table, share=0.2, seed=1)
    number = dict(zip(table.texts, [i % 60 for i in range(180)], strict=True))
    assert len(validation) == pytest.approx(36, abs=3)
    assert not {number[text] for text in train.texts} & {number[text] for text in validation.texts}


def test_rows_made_from_a_template_are_divided_nevertheless(caplog: pytest.LogCaptureFixture) -> None:
    labels = ["good", "bad"] * 20
    template = [f"the film number {i} was {label}" for i, label in enumerate(labels)]
    table = Table("rows", [*template, *template], [(label,) for label in labels] * 2)
    train, validation = split_table(table, share=0.1, seed=0)
    assert Counter(validation.labels) == {"good": 4, "bad": 4}
    assert not set(train.texts) & set(validation.texts)
    assert "nearly copies" in caplog.text


@pytest.mark.parametrize("num_groups", [5, 40])
def test_a_group_is_never_on_both_sides(num_groups: int) -> None:
    draw = random.Random(1)
    groups = [f"author {draw.randrange(num_groups)}" for _ in range(400)]
    train, validation = split_table(single(["a", "b"] * 200, groups=groups), share=0.1, seed=2)
    assert train.groups
    assert validation.groups
    assert not set(train.groups) & set(validation.groups)
    assert 0 < len(validation) <= 400 / 5 * 1.3


def test_an_empty_group_stands_alone() -> None:
    train, validation = split_table(single(["a", "b"] * 50, groups=[""] * 100), share=0.1, seed=0)
    assert (len(train), len(validation)) == (90, 10)


def test_time_holds_out_the_latest_rows() -> None:
    times = [float(i) for i in np.random.default_rng(0).permutation(100)]
    train, validation = split_table(single(["a", "b"] * 50, times=times), share=0.2, seed=0)
    assert train.times
    assert validation.times
    assert sorted(validation.times) == list(range(80, 100))


def test_groups_hold_when_time_divides() -> None:
    times = [float(i) for i in range(100)]
    groups = [f"thread {i % 4 if i > 50 else i}" for i in range(100)]
    train, validation = split_table(single(["a", "b"] * 50, times=times, groups=groups), share=0.1, seed=0)
    assert train.groups
    assert validation.groups
    assert not set(train.groups) & set(validation.groups)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 2.0])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match="validation share"):
        split_table(single(["a", "b"] * 5), share=share, seed=0)


@pytest.mark.parametrize(
    "table",
    [
        single(["a", "b"]),
        single(["a", "b"] * 50, groups=["one"] * 100),
        single(["a", "b"] * 50, times=[1.0] * 100),
        Table("rows", ["the same text"] * 100, [("a",), ("b",)] * 50),
    ],
)
def test_rows_that_cannot_be_divided_are_refused_with_the_fix(table: Table) -> None:
    with pytest.raises(ConfigError, match=r"too few to keep 10 % for validation.*--validation"):
        split_table(table, share=0.1, seed=0)


def test_the_test_share_is_the_same_for_every_seed_and_apart_from_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["text", "label"], *zip(texts(200), ["a", "b"] * 100, strict=True)])
    parts = [read_parts(path, settings=FitSettings(test_share=0.2, seed=seed)) for seed in (0, 1)]
    assert parts[0].test
    assert parts[1].test
    assert parts[0].test.texts == parts[1].test.texts
    assert parts[0].validation.texts != parts[1].validation.texts
    assert [len(part) for part in (parts[0].train, parts[0].validation, parts[0].test)] == [140, 20, 40]
    assert sorted(parts[0].train.texts + parts[0].validation.texts + parts[0].test.texts) == sorted(texts(200))
    with pytest.raises(ConfigError, match=r"test_share is 0\.95"):
        FitSettings(test_share=0.95)


def test_a_time_column_is_used_by_a_fit(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    rows = [[text, "ab"[i % 2], f"2026-01-{i % 28 + 1:02}"] for i, text in enumerate(texts(280))]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["text", "label", "day"], *rows])
    parts = read_parts(path, settings=FitSettings(columns=Columns(time="day"), test_share=0.25))
    assert parts.train.times
    assert parts.validation.times
    assert parts.test
    assert parts.test.times
    assert max(parts.train.times) < min(parts.validation.times)
    assert max(parts.validation.times) < min(parts.test.times)


@pytest.mark.parametrize(("part", "shares"), [("validation", {}), ("test", {"test_share": 0.1})])
def test_a_label_that_the_latest_rows_alone_have_is_refused_by_name(
    tmp_path: Path, part: str, shares: dict[str, float]
) -> None:
    path = tmp_path / "t.csv"
    rows = [[text, "ab"[i % 2] if i < 97 else "new", i] for i, text in enumerate(texts(100))]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["text", "label", "at"], *rows])
    settings = FitSettings(columns=Columns(time="at"), **shares)  # type: ignore[arg-type]
    what = f"no row before the latest 10, which --time-column holds out for {part}, has the label 'new'"
    with pytest.raises(ConfigError, match=rf"t\.csv: {what}.*leave --time-column out.*--label-map old="):
        read_parts(path, settings=settings)
    outside = read_parts(path, settings=replace(settings, out_of_scope_label="new"))
    assert outside.labels == ("a", "b")
    without = read_parts(path, settings=replace(settings, columns=Columns(time="at", label_map={"new": ""})))
    assert without.labels == ("a", "b")


@given(st.lists(st.text(max_size=30), min_size=1, max_size=20))
def test_any_texts_have_clusters_that_equal_texts_share(some: list[str]) -> None:
    number_N = near_duplicates([*some, *some])
    assert number_N.tolist()[: len(some)] == number_N.tolist()[len(some) :]
    assert near_duplicates([*some, *some]).tolist() == number_N.tolist()
    assert all(simplified(text) for text in some if text)


def test_different_texts_are_no_near_duplicates() -> None:
    assert len(set(near_duplicates(texts(2000)).tolist())) > 1980
