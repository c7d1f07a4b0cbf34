"""When a golden case holds: probabilities within the tolerance, and the same label where the margin is clear."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stream_classifier.model.golden import (
    GoldenCase,
    GoldenReport,
    compare,
    read_golden,
    sample,
    unsteady,
    write_golden,
)

ALLOWED = 0.1


def replayed(golden: Sequence[float], seen: Sequence[float]) -> GoldenReport:
    """One case; its logits are the probabilities themselves."""
    case = GoldenCase("a text", tuple(golden), margin=0.0)
    return compare([case], np.array([seen]), probabilities=np.asarray, allowed=ALLOWED)


@pytest.mark.parametrize(
    ("golden", "seen", "holds"),
    [
        ((0.75, 0.25), (0.75, 0.25), True),
        ((0.75, 0.25), (0.67, 0.33), True),
        ((0.75, 0.25), (0.64, 0.36), False),  # beyond the tolerance, though the label is the same
        ((0.51, 0.49), (0.49, 0.51), True),  # another label, but nobody could tell them apart
        ((0.59, 0.41), (0.495, 0.505), True),  # margin 0.18, less than twice what is allowed
        ((0.5, 0.2, 0.3), (0.41, 0.2, 0.39), True),
        ((0.5, 0.26, 0.24), (0.405, 0.26, 0.335), True),
        ((0.5, 0.5), (0.5, float("nan")), False),
        ((0.5, 0.5), (float("inf"), 0.5), False),
    ],
)
def test_a_case_holds_within_the_tolerance(golden: Sequence[float], seen: Sequence[float], holds: bool) -> None:
    report = replayed(golden, seen)
    assert report.failed == (() if holds else (0,))


def test_scores_that_are_no_numbers_are_infinitely_far_off() -> None:
    assert replayed((0.5, 0.5), (0.5, float("nan"))).max_difference == float("inf")


def test_the_report_names_the_cases_that_differ_and_the_largest_difference() -> None:
    cases = [GoldenCase("a text", (0.75, 0.25), 0.5)] * 3
    seen = np.array([[0.75, 0.25], [0.5, 0.5], [0.25, 0.75]])
    report = compare(cases, seen, probabilities=np.asarray, allowed=ALLOWED)
    assert (report.num_cases, report.failed, report.max_difference) == (3, (1, 2), 0.5)
    assert str(report) == "2 of 3 golden cases differ (largest difference of a probability 0.5, allowed 0.1)"


@pytest.mark.parametrize(
    ("number", "asked", "taken"),
    [(3, 8, [0, 1, 2]), (8, 8, list(range(8))), (9, 3, [0, 4, 8]), (100, 2, [0, 99]), (5, 1, [0])],
)
def test_a_sample_is_spread_from_the_first_to_the_last(number: int, asked: int, taken: list[int]) -> None:
    cases = [GoldenCase(str(i), (0.0,), 1.0) for i in range(number)]
    assert [int(case.text) for case in sample(cases, asked)] == taken


def test_margins_are_between_the_two_best(tmp_path: Path) -> None:
    probabilities = np.array([[0.1, 0.7, 0.2], [0.4, 0.2, 0.4]])
    write_golden(tmp_path / "golden.jsonl", ["a", "é\n"], np.zeros((2, 3), np.float32), probabilities)
    cases = read_golden(tmp_path / "golden.jsonl", num_labels=3)
    assert [case.text for case in cases] == ["a", "é\n"]
    assert [case.margin for case in cases] == [pytest.approx(0.5), 0.0]


def test_one_label_has_no_other_to_be_taken_for(tmp_path: Path) -> None:
    write_golden(tmp_path / "golden.jsonl", ["a"], np.zeros((1, 1), np.float32), np.array([[0.4]]))
    assert read_golden(tmp_path / "golden.jsonl", num_labels=1)[0].margin == 1.0


def test_a_text_that_rounding_alone_moves_by_more_than_half_the_tolerance_is_unsteady() -> None:
    def same(logits: NDArray[np.float64]) -> NDArray[np.float64]:
        return logits

    logits, rounded = np.array([[0.5], [0.5], [0.5]]), np.array([[0.5], [0.504], [0.506]])
    assert unsteady(logits, rounded, probabilities=same).tolist() == [False, False, True]
