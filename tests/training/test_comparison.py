"""Two models on the same rows: what is chance is called chance."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats

import training
from stream_classifier.errors import ConfigError
from tests.plugins.answers import answers_of, drawn_logits
from tests.plugins.tables import make_telling_directory, write_honest_rows
from training.cli import cli
from training.comparison import compare_answers, compare_predictions, is_decided, mcnemar, paired_difference
from training.evaluation import evaluate_answers


def test_a_better_model_is_called_better_and_an_equal_one_is_not() -> None:
    logits_NL, true_N = drawn_logits(1500, 4, spread=3.0)
    noise_NL = np.random.default_rng(1).normal(size=logits_NL.shape)
    good, same, bad = (answers_of(logits_NL + factor * noise_NL, true_N) for factor in (0.0, 0.05, 3.0))
    worse = compare_answers(good, bad, first="good", second="bad")
    assert worse.better == "good"
    assert worse.p_value < 0.001
    assert worse.accuracy.difference == pytest.approx(good.correct_N.mean() - bad.correct_N.mean())
    assert worse.nll.difference < 0 < worse.macro_f1.difference
    equal = compare_answers(good, same, first="good", second="same")
    assert equal.better is None
    assert equal.agreement > 0.95


def test_the_order_of_labels_does_not_matter() -> None:
    logits_NL, true_N = drawn_logits(200, 3)
    a = answers_of(logits_NL, true_N, labels=("a", "b", "c"))
    b = answers_of(logits_NL[:, [2, 0, 1]], (true_N + 1) % 3, labels=("c", "a", "b"))
    same = compare_answers(a, b, first="a", second="b")
    assert (same.agreement, same.nll.difference) == (1.0, pytest.approx(0.0, abs=1e-12))
    assert same.only_first == same.only_second == 0
    assert same.p_value == 1.0


def test_an_interval_covers_the_true_difference_in_about_95_percent_of_tables() -> None:
    generator = np.random.default_rng(0)
    covered = []
    for _ in range(60):
        first_N = (generator.random(300) < 0.9).astype(float)
        second_N = np.where(generator.random(300) < 0.8, first_N, generator.random(300) < 0.7)
        low, high = paired_difference(first_N, second_N).interval
        covered.append(low <= 0.2 * (0.9 - 0.7) <= high)
    assert np.mean(covered) >= 0.85


def test_mcnemar_looks_at_rows_that_just_one_has_right() -> None:
    first_N = np.array([True] * 12 + [False] * 3 + [True] * 50)
    second_N = np.array([False] * 12 + [True] * 3 + [True] * 50)
    assert mcnemar(first_N, second_N) == pytest.approx(stats.binomtest(12, 15).pvalue)


def test_the_command_compares_two_directories_and_refuses_other_questions(tmp_path: Path) -> None:
    first = make_telling_directory(tmp_path / "first", content={"task": "free"})
    rows = write_honest_rows(tmp_path / "rows.csv", first, temperature=0.5, number=200)
    training.calibrate(first, rows, out=tmp_path / "second", method="none", priors={"sport": 0.9})
    shown = CliRunner().invoke(cli, ["compare", str(first), str(tmp_path / "second"), str(rows)])
    assert f"{first} is better" in shown.output
    done = CliRunner().invoke(cli, ["compare", str(first), str(first), str(rows), "--json"])
    assert json.loads(done.stdout)["better"] is None
    other = make_telling_directory(tmp_path / "other", content={"task": "free"}, labels=("sport", "business"))
    with pytest.raises(ConfigError, match="'politics' is one of only one of them"):
        training.compare(first, other, rows)


def test_four_rows_against_none_are_no_winner() -> None:
    truth_NL = np.tile([True, False], (1000, 1))
    other_NL = truth_NL.copy()
    other_NL[:4] = [False, True]
    accuracy, _, p_value = compare_predictions(truth_NL, truth_NL, other_NL)
    assert accuracy.decided, "by the bootstrap alone"
    assert not is_decided(accuracy, p_value)
    other_NL[:8] = [False, True]
    accuracy, _, p_value = compare_predictions(truth_NL, truth_NL, other_NL)
    assert is_decided(accuracy, p_value)


def test_brier_of_several_labels_is_that_of_an_evaluation() -> None:
    generator = np.random.default_rng(0)
    a = answers_of(generator.normal(size=(200, 3)), generator.random((200, 3)) < 0.5)
    assert compare_answers(a, a, first="a", second="b").brier.first == pytest.approx(evaluate_answers(a, task="").brier)
