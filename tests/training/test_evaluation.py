"""The figures of an evaluation: equal to scikit-learn's where it has them, to hand-made ones where it has not."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats
from sklearn import metrics as sklearn_metrics

from stream_classifier import Classifier
from stream_classifier.errors import ConfigError
from tests.plugins.answers import answers_of, drawn_logits
from tests.plugins.models import make_directory
from training.answers import Answers, answer_table
from training.baseline import measure_baseline
from training.cli import cli
from training.cli.show import show_evaluation
from training.curves import Curves
from training.data import Table
from training.evaluation import Evaluation, evaluate, evaluate_answers, evaluate_table
from training.intervals import one_sided_lower, rows_to_certify, wilson
from training.metrics import ece_noise, expected_calibration_error, risks_at_coverage


def evaluated(answers: Answers) -> Evaluation:
    return evaluate_answers(answers, task="free")


@pytest.fixture(scope="module")
def single() -> Answers:
    logits_NL, true_N = drawn_logits(500, 5, seed=1)
    logits_NL[:, 4] = -30.0  # one label is never given
    return answers_of(logits_NL, true_N, threshold=0.6)


@pytest.fixture(scope="module")
def multi() -> Answers:
    generator = np.random.default_rng(2)
    logits_NL = generator.normal(scale=2, size=(400, 4))
    return answers_of(logits_NL, generator.random((400, 4)) < 1 / (1 + np.exp(-logits_NL)))


def test_single_label_figures_are_those_of_scikit_learn(single: Answers) -> None:
    e, true_N, given_N = evaluated(single), single.true_N, single.predicted_N
    every = list(range(5))
    assert e.accuracy == pytest.approx(sklearn_metrics.accuracy_score(true_N, given_N))
    assert e.macro_f1 == pytest.approx(sklearn_metrics.f1_score(true_N, given_N, average="macro", zero_division=0))
    weighted = sklearn_metrics.f1_score(true_N, given_N, average="weighted", zero_division=0)
    assert e.weighted_f1 == pytest.approx(weighted)
    assert e.nll == pytest.approx(sklearn_metrics.log_loss(true_N, single.p_NL, labels=every))
    assert e.brier == pytest.approx(sklearn_metrics.brier_score_loss(true_N, single.p_NL, labels=every))
    assert e.confusion == sklearn_metrics.confusion_matrix(true_N, given_N, labels=every).tolist()
    precision, recall, f1, support = sklearn_metrics.precision_recall_fscore_support(
        true_N, given_N, labels=every, zero_division=np.nan
    )
    for i, scores in enumerate(e.per_label.values()):
        assert scores.support == support[i]
        assert scores.recall == pytest.approx(recall[i])
        assert scores.precision == (None if np.isnan(precision[i]) else pytest.approx(precision[i]))
        assert scores.f1 == pytest.approx(f1[i])


def test_multi_label_figures_are_those_of_scikit_learn(multi: Answers) -> None:
    e, true_NL, given_NL = evaluated(multi), multi.true_NL, multi.predicted_NL
    assert e.multi_label is not None
    assert e.confusion is None
    assert e.accuracy == pytest.approx(sklearn_metrics.accuracy_score(true_NL, given_NL))
    assert e.macro_f1 == pytest.approx(sklearn_metrics.f1_score(true_NL, given_NL, average="macro"))
    assert e.weighted_f1 == pytest.approx(sklearn_metrics.f1_score(true_NL, given_NL, average="weighted"))
    assert e.multi_label.micro_f1 == pytest.approx(sklearn_metrics.f1_score(true_NL, given_NL, average="micro"))
    average = sklearn_metrics.average_precision_score(true_NL, multi.p_NL, average="macro")
    assert e.multi_label.mean_average_precision == pytest.approx(average)
    assert e.nll == pytest.approx(sklearn_metrics.log_loss(true_NL.ravel(), multi.p_NL.ravel()))
    assert e.precision_at_threshold == pytest.approx(
        sklearn_metrics.precision_score(true_NL, given_NL, average="micro")
    )
    assert e.ece < e.ece_noise_95, "the labels were drawn from the probabilities themselves"


def test_the_intervals_are_those_of_scipy() -> None:
    for hits, total in ((0, 7), (3, 7), (7, 7), (298, 300)):
        expected = stats.binomtest(hits, total).proportion_ci(method="wilson")
        assert wilson(hits, total) == pytest.approx((expected.low, expected.high))
        exact = stats.binomtest(hits, total, alternative="greater").proportion_ci(method="exact")
        assert one_sided_lower(hits, total) == pytest.approx(exact.low)
    assert wilson(0, 0) is None
    assert one_sided_lower(299, 299) >= 0.99 > one_sided_lower(298, 298)
    assert rows_to_certify(0.99) == 299


def test_calibration_error_is_told_apart_from_chance() -> None:
    logits_NL, true_N = drawn_logits(800, 4, seed=3)
    honest, boastful = evaluated(answers_of(logits_NL, true_N)), evaluated(answers_of(3 * logits_NL, true_N))
    assert honest.ece < honest.ece_noise_95
    assert boastful.ece > 2 * boastful.ece_noise_95
    assert honest.accuracy == boastful.accuracy


def test_the_95_percent_point_is_exceeded_by_one_honest_model_in_twenty() -> None:
    generator = np.random.default_rng(5)
    confidence_N = generator.uniform(0.5, 1.0, size=300)
    _, limit = ece_noise(confidence_N)
    exceeded = [
        expected_calibration_error(confidence_N, generator.random(300) < confidence_N) > limit for _ in range(400)
    ]
    assert 0.01 < np.mean(exceeded) < 0.1


def test_risk_is_that_of_the_surest_texts_whatever_the_order_of_equals() -> None:
    confidence_N, correct_N = np.array([0.9, 0.8, 0.8, 0.7]), np.array([True, True, False, False])
    expected = [0.0, 0.25, 1 / 3, 0.5]
    assert risks_at_coverage(confidence_N, correct_N) == pytest.approx(expected)
    swapped = [0, 2, 1, 3]
    assert risks_at_coverage(confidence_N[swapped], correct_N[swapped]) == pytest.approx(expected)


def test_a_curve_says_what_the_threshold_would_do(single: Answers) -> None:
    curve = Curves(single).threshold_coverage
    assert curve is not None
    assert curve.threshold == sorted(curve.threshold)
    for threshold, coverage, precision in list(zip(curve.threshold, curve.coverage, curve.precision, strict=True))[
        ::40
    ]:
        accepted_N = single.scores_N >= threshold
        assert coverage == pytest.approx(accepted_N.mean())
        assert precision == pytest.approx(single.correct_N[accepted_N].mean())


def test_curves_are_plain_finite_numbers_even_for_few_rows(single: Answers, multi: Answers) -> None:
    few = answers_of(np.array([[2.0, 1.0]]), np.array([0]))
    for answers in (single, multi, few):
        written = json.dumps(evaluated(answers).as_dict(curves=True), allow_nan=False)
        curves = json.loads(written)["curves"]
        assert sum(b["n"] for b in curves["reliability"]) == len(answers) * (4 if answers.multi_label else 1)
        assert sum(b["n"] for b in curves["by_length"]["bins"]) == len(answers)


def test_the_most_confused_pair_comes_first() -> None:
    true_N, given_N = np.array([0, 0, 0, 1, 1, 2]), np.array([1, 1, 0, 0, 1, 2])
    e = evaluated(answers_of(5 * np.eye(3)[given_N], true_N))
    first = e.confused[0]
    assert (first.true, first.predicted, first.n, first.share) == ("label 0", "label 1", 2, pytest.approx(2 / 3))
    assert len(e.confused) == 2


def test_a_baseline_that_sees_the_answer_beats_a_model_that_guesses() -> None:
    texts = [f"{'goal' if i % 2 else 'bank'} number {i}" for i in range(120)]
    table = Table("rows", texts, [("sport" if i % 2 else "money",) for i in range(120)])
    generator = np.random.default_rng(0)
    answers = answers_of(
        generator.normal(size=(120, 2)), np.array([i % 2 for i in range(120)]), labels=("money", "sport")
    )
    found = measure_baseline(table, texts, answers)
    assert found.accuracy.second == 1.0
    assert found.accuracy.interval[1] < 0
    assert found.accuracy.decided
    assert found.p_value < 0.001
    assert found.macro_f1.first == pytest.approx(evaluated(answers).macro_f1)


def test_served_and_measured_labels_are_the_same(tiny_bert_dir: Path, tmp_path: Path) -> None:
    classifier = Classifier.load(tiny_bert_dir)
    texts = ["the match ended", "shares fell", "parliament votes", "a", "the film " * 40]
    served = [prediction.label for prediction in classifier(texts)]
    e = evaluate_table(classifier, Table("rows", texts, [(label,) for label in served]))
    assert e.accuracy == 1.0
    assert e.truncated == pytest.approx(1 / 5)
    assert e.answers.length_unit == "tokens"


def test_texts_between_two_labels_are_counted_as_near_ties(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    p_NL = np.array([[0.5005, 0.4995, 0.0], [0.51, 0.49, 0.0], [0.0, 0.3333, 0.3334], [0.9, 0.05, 0.05]])
    answers = answers_of(np.log(p_NL + 1e-12), np.array([0, 0, 2, 0]))
    assert [answers.near_ties(margin) for margin in (2e-3, 2.5e-2)] == [2, 3]
    monkeypatch.setattr("training.evaluation.answer_table", lambda *_, **__: answers)
    classifier = Classifier.load(make_directory(tmp_path / "model", content={"task": "free"}), dtype="bfloat16")
    evaluation = evaluate_table(classifier, Table("rows", list("abcd"), [("x",)] * 4))
    assert (evaluation.near_ties, evaluation.near_tie_margin) == (3, 2e-2), "bfloat16 rounds by a hundredth"
    show_evaluation(evaluation, "given")
    assert (
        "near-ties: 3 rows that get another label when a probability moves by 0.01; rounding" in capsys.readouterr().out
    )
    assert evaluation.as_dict()["near_ties"] == 3


def test_near_an_operating_point_is_a_near_tie_and_near_one_half_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    p_N = np.array([0.501, 0.499, 0.901, 0.899, 0.8])
    answers = answers_of(np.log(np.stack([1 - p_N, p_N], axis=1)), np.array([0, 0, 1, 1, 0]))
    monkeypatch.setattr("training.evaluation.answer_table", lambda *_, **__: answers)
    labels, rows = answers.labels, Table("rows", list("abcde"), [("x",)] * 5)
    found = []
    for point in (None, 0.9, 0.7):
        content = {"task": "free", "positive_label": labels[1], "thresholds": {"operating_point": point}}
        model = make_directory(tmp_path / str(point), labels=labels, content=content)
        found.append(evaluate_table(Classifier.load(model, dtype="bfloat16"), rows).near_ties)
    assert found == [2, 2, 0]


def test_labels_the_model_lacks_and_folders_without_a_test_file_are_refused(
    tiny_bert_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "test.csv").write_text("text,label\nhello,weather\n")
    with pytest.raises(ConfigError, match="weather"):
        evaluate(tiny_bert_dir, tmp_path)
    with pytest.raises(ConfigError, match="train file"):
        evaluate(tiny_bert_dir, tmp_path, baseline=tmp_path)
    with pytest.raises(ConfigError, match="no such file"):
        evaluate(tiny_bert_dir, tmp_path / "other.csv")


def test_the_documented_keys_stay_and_come_first(single: Answers) -> None:
    documented = ["task", "problem_type", "n", "accuracy", "macro_f1", "weighted_f1", "nll", "brier", "ece"]
    documented += ["ece_noise_floor", "per_label", "confusion", "coverage", "precision_at_threshold"]
    figures = evaluated(single).as_dict()
    assert list(figures)[: len(documented)] == documented
    unknown = evaluated(dataclasses.replace(single, accepted_N=np.zeros(len(single), np.bool_)))
    assert (unknown.coverage, unknown.precision_at_threshold) == (0.0, None)


def test_a_multi_label_model_is_measured_through_the_code_that_serves(tmp_path: Path) -> None:
    model = make_directory(
        tmp_path / "model", labels=("joy", "anger"), problem_type="multi_label_classification", content={"task": "free"}
    )
    classifier = Classifier.load(model)
    texts = ["the match ended", "shares fell", "parliament votes", "a"]
    served = [tuple(score.label for score in prediction.labels or ()) for prediction in classifier(texts)]
    e = evaluate_table(classifier, Table("rows", texts, served, multi_label=True))
    assert e.accuracy == 1.0
    assert e.multi_label is not None
    assert json.loads(json.dumps(e.as_dict(curves=True), allow_nan=False))["confusion"]["matrix"] is None


def test_rows_with_several_labels_are_refused_by_a_model_that_gives_one(tiny_bert_dir: Path) -> None:
    table = Table("rows.csv", ["a text"], [("sport", "business")], multi_label=True)
    with pytest.raises(ConfigError, match=r"rows\.csv has several labels"):
        evaluate_table(Classifier.load(tiny_bert_dir), table)


def test_many_texts_are_answered_in_parts_with_a_bar(tiny_bert_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = Classifier.load(tiny_bert_dir, device="cpu", dtype="float32")
    table = Table("rows", [f"the match {i}" for i in range(25)], [("sport",)] * 25)
    whole = answer_table(classifier, table)
    updates: list[int] = []

    class Bar:
        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None: ...

        def update(self, number: int) -> None:
            updates.append(number)

    monkeypatch.setattr("training.answers._CHUNK", 10)
    monkeypatch.setattr("training.answers.bar", lambda *_, **__: Bar())
    parts = answer_table(classifier, table)
    assert updates == [10, 10, 5]
    np.testing.assert_allclose(parts.logits_NL, whole.logits_NL, atol=1e-5)


def test_curves_without_json_are_refused() -> None:
    with pytest.raises(ConfigError, match="give --json too"):
        CliRunner().invoke(cli, ["evaluate", "model", "rows.csv", "--curves"], catch_exceptions=False)
