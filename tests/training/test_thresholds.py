"""Thresholds keep what they promise on rows never seen, and say what the rows cannot give."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import training
from stream_classifier import Classifier
from stream_classifier.errors import ConfigError
from stream_classifier.model.manifest import read_json_object
from tests.plugins.answers import answers_of, drawn_logits
from tests.plugins.tables import make_telling_directory, random_texts, write_honest_rows
from training import Costs, Goal
from training.answers import Answers
from training.cli import cli
from training.threshold_outcome import Outcome
from training.threshold_search import ThresholdSet, decisions_of, search


def answers(number: int, *, seed: int = 0, spread: float = 6.0) -> Answers:
    logits_NL, true_N = drawn_logits(number, 5, seed=seed, spread=spread)
    return answers_of(logits_NL, true_N)


def found(goal: Goal, a: Answers, positive_index: int | None = None) -> ThresholdSet:
    decisions = decisions_of(a, np.ones(len(a), np.bool_))
    return search(goal, decisions, positive_index=positive_index, multi_label=a.multi_label)


def test_a_precision_by_its_bound_is_kept_on_new_rows_in_19_of_20_cases() -> None:
    unseen = answers(20000, seed=10**6)
    kept = []
    for seed in range(60):
        threshold = found(Goal(precision=0.95), answers(800, seed=seed)).default
        assert threshold is not None
        kept.append(bool(unseen.p_NL.max(axis=1)[unseen.scores_N >= threshold].mean() >= 0.95))
    assert np.mean(kept) >= 0.9


def test_a_point_estimate_promises_less_and_accepts_more() -> None:
    a = answers(800)
    bound, seen = found(Goal(precision=0.95), a).default, found(Goal(precision=0.95, point_estimate=True), a).default
    assert bound is not None
    assert seen is not None
    assert seen < bound
    accepted_N = a.scores_N >= seen
    assert a.correct_N[accepted_N].mean() >= 0.95


def test_99_percent_take_299_rows_without_an_error() -> None:
    true_N = np.arange(299) % 5
    logits_NL = 4 * np.eye(5)[true_N] + np.linspace(0, 1, 299)[:, None] * np.eye(5)[true_N]
    assert found(Goal(precision=0.99), answers_of(logits_NL, true_N)).default is not None
    with pytest.raises(ConfigError, match=r"these 298 rows show is 98\.9.*it takes 299 accepted rows"):
        found(Goal(precision=0.99), answers_of(logits_NL[:298], true_N[:298]))


def test_a_coverage_is_reached_with_the_highest_threshold() -> None:
    a = answers(1000)
    threshold = found(Goal(coverage=0.8), a).default
    assert threshold is not None
    assert (a.scores_N >= threshold).mean() == pytest.approx(0.8, abs=0.002)
    assert (a.scores_N >= threshold).mean() >= 0.8


def test_equal_scores_are_accepted_together() -> None:
    logits_NL = np.log(np.array([[0.9, 0.1]] * 100))
    true_N = np.array([0] * 95 + [1] * 5)
    with pytest.raises(ConfigError, match="no threshold gives"):
        found(Goal(precision=0.96, point_estimate=True), answers_of(logits_NL, true_N))
    assert found(Goal(precision=0.95, point_estimate=True), answers_of(logits_NL, true_N)).default == pytest.approx(0.9)


def test_labels_with_too_few_rows_share_the_pooled_threshold_and_hopeless_ones_accept_nothing() -> None:
    generator = np.random.default_rng(0)
    given_N = np.repeat([0, 1, 2], [600, 600, 20])
    right_N = np.concatenate([np.ones(600), generator.random(600) < 0.5, np.ones(20)]).astype(bool)
    logits_NL = generator.uniform(2, 4, size=(1220, 1)) * np.eye(3)[given_N]
    true_N = np.where(right_N, given_N, (given_N + 1) % 3)
    chosen = found(Goal(precision=0.95, per_label=True), answers_of(logits_NL, true_N))
    sure, hopeless, rare = (chosen.labels[i] for i in range(3))
    assert sure.cut is not None
    assert sure.cut.accepted == 600
    assert (hopeless.reached, chosen.thresholds_L(3)[1]) == (False, 1.0)
    assert (rare.cut, rare.rows, rare.needed) == (None, 20, 59)
    assert chosen.thresholds_L(3)[2] == chosen.default


@pytest.mark.parametrize(
    ("rows", "wrong", "reached"),
    [
        (20, 1, True),  # too few to say that they are below 95 %
        (40, 8, False),  # too few for a threshold, and enough to say so
        (60, 2, False),  # enough for a threshold of their own, and there is none
    ],
)
def test_labels_with_few_rows_borrow_the_threshold_of_all_unless_their_own_refute_the_goal(
    rows: int, wrong: int, reached: bool
) -> None:
    """Two rare labels share what is left; of the rare rows `wrong` are so, whatever their probability."""
    given_N = np.concatenate([np.zeros(3000, np.intp), np.arange(rows) % 2 + 1])
    right_N = np.ones(len(given_N), np.bool_)
    right_N[3000 + np.arange(wrong) * (rows // wrong)] = False
    strength_N = np.concatenate([np.linspace(2, 4, 3000), np.full(rows, 3.0)])
    true_N = np.where(right_N, given_N, (given_N + 1) % 3)
    chosen = found(Goal(precision=0.95, per_label=True), answers_of(strength_N[:, None] * np.eye(3)[given_N], true_N))
    assert [chosen.labels[i].cut is None for i in range(3)] == [False, True, True]
    assert chosen.default_reached == reached
    assert (chosen.default == 1.0) == (not reached)


def test_costs_with_two_labels_move_the_label_and_the_thresholds() -> None:
    a = answers_of(np.zeros((4, 2)), np.array([0, 1, 0, 1]))
    chosen = found(Goal(costs=Costs(20, 1, 0.2)), a, positive_index=1)
    assert chosen.operating_point == pytest.approx(20 / 21)
    assert chosen.thresholds_L(2) == pytest.approx([0.8, 0.99])
    alone = found(Goal(costs=Costs(20, 1)), a, positive_index=1)
    assert (alone.thresholds_L(2).tolist(), alone.labels) == ([0.0, 0.0], {})


def test_the_least_cost_is_the_least_on_rows_of_an_honest_model() -> None:
    logits_NL, true_N = drawn_logits(6000, 2, seed=3)
    a = answers_of(logits_NL, true_N)
    costs = Costs(5.0, 1.0)
    point = found(Goal(costs=costs), a, positive_index=1).operating_point
    assert point is not None

    def cost(at: float) -> float:
        positive_N = a.p_NL[:, 1] >= at
        return float(5 * (positive_N & (true_N == 0)).mean() + (~positive_N & (true_N == 1)).mean())

    assert cost(point) <= min(map(cost, np.linspace(0.05, 0.95, 19))) + 0.01


def test_more_than_two_labels_weigh_an_error_against_a_review() -> None:
    a = answers(50)
    assert found(Goal(costs=Costs(10, review=1)), a).default == pytest.approx(0.9)
    assert found(Goal(costs=Costs(1, review=2)), a).default == 0.0, "a review that costs more than an error never pays"


def test_f1_of_several_labels_is_the_best_that_a_threshold_gives() -> None:
    generator = np.random.default_rng(1)
    logits_NL = generator.normal(scale=2, size=(500, 3)) - 2
    true_NL = generator.random((500, 3)) < 1 / (1 + np.exp(-logits_NL))
    a = answers_of(logits_NL, true_NL)
    thresholds_L = found(Goal(f1=True, per_label=True), a).thresholds_L(3)

    def f1(label: int, at: float) -> float:
        given_N = a.p_NL[:, label] >= at
        return float(2 * (given_N & true_NL[:, label]).sum() / (given_N.sum() + true_NL[:, label].sum()))

    for i in range(3):
        assert f1(i, thresholds_L[i]) >= max(f1(i, at) for at in np.linspace(0.01, 0.99, 99))


@pytest.mark.parametrize(
    ("goal", "labels", "problem"),
    [
        ({"costs": Costs(5)}, 2, "alone determines nothing"),
        ({"costs": Costs(5, 1)}, 5, "--review-cost"),
        ({"f1": True}, 5, "several labels a text"),
        ({}, 5, "just one goal"),
        ({"precision": 0.9, "coverage": 0.5}, 5, "just one goal"),
        ({"precision": 99.0}, 5, "write 0.99 for 99 %"),
        ({"coverage": 0.5, "point_estimate": True}, 5, "--point-estimate"),
        ({"costs": Costs(5, 1)}, 2, "which of the two labels"),
    ],
)
def test_goals_that_determine_nothing_are_refused(goal: dict[str, object], labels: int, problem: str) -> None:
    logits_NL, true_N = drawn_logits(20, labels)
    with pytest.raises(ConfigError, match=problem):
        found(Goal(**goal), answers_of(logits_NL, true_N))  # type: ignore[arg-type]  # a table of arguments


@pytest.mark.parametrize("cost", [0.0, -1.0, float("nan"), float("inf")])
def test_costs_are_positive_numbers(cost: float) -> None:
    with pytest.raises(ConfigError, match="--review-cost"):
        Costs(1.0, review=cost)


REJECTION = {"score": "energy", "threshold": -50.0}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_telling_directory(
        tmp_path_factory.mktemp("model") / "model",
        content={"task": "free", "thresholds": {"labels": {"sport": 0.3}, "rejection": REJECTION}},
    )


@pytest.fixture(scope="module")
def rows(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_honest_rows(tmp_path_factory.mktemp("rows") / "rows.csv", model, temperature=0.6)


def test_what_is_expected_is_what_the_served_model_does(model: Path, rows: Path, tmp_path: Path) -> None:
    goal = Goal(precision=0.85)
    result = training.thresholds(model, rows, goal, out=tmp_path / "out", dtype="float32")
    e = training.evaluate(tmp_path / "out", rows, dtype="float32")
    assert (e.coverage, e.precision_at_threshold) == (result.on_rows.coverage, result.on_rows.precision)
    assert result.on_rows.precision_bound is not None
    assert result.on_rows.precision_bound >= 0.85
    assert result.on_rows.review_per_1000 == pytest.approx(1000 * (1 - e.coverage))
    stored = read_json_object(tmp_path / "out" / "classifier.json")["thresholds"]
    assert stored["rejection"] == REJECTION, "it is about other texts, and stays"
    assert (stored["default"], "labels" in stored) == (result.default, False), "the thresholds before are gone"
    assert stored["tuned_for"]["goal"] == str(goal)
    assert stored["tuned_for"]["n"] == 600
    assert Classifier.load(tmp_path / "out").digest == result.digest
    assert "Tuned for a precision of 85.00 %" in (tmp_path / "out" / "README.md").read_text("utf-8")


def test_a_goal_out_of_reach_writes_nothing(model: Path, rows: Path) -> None:
    before = (model / "classifier.json").read_bytes()
    with pytest.raises(ConfigError, match="no threshold gives a precision of 99"):
        training.thresholds(model, rows, Goal(precision=0.999))
    assert (model / "classifier.json").read_bytes() == before


def test_the_review_load_is_given_for_a_stream_with_other_shares(model: Path, rows: Path, tmp_path: Path) -> None:
    result = training.thresholds(model, rows, Goal(coverage=0.7), priors={"sport": 0.01}, out=tmp_path / "out")
    same = training.thresholds(model, rows, Goal(coverage=0.7), out=tmp_path / "same")
    assert same.at_priors is None
    assert result.at_priors is not None
    assert result.default == same.default
    table = Path(rows).read_text("utf-8")
    assert result.at_priors.coverage != pytest.approx(result.on_rows.coverage, abs=1e-6), table[:60]


def test_costs_store_an_operating_point_that_serves(tmp_path: Path) -> None:
    model = make_telling_directory(tmp_path / "model", content={"task": "spam"}, labels=("ham", "spam"))
    rows = write_honest_rows(tmp_path / "rows.csv", model, temperature=1.0)
    goal = Goal(costs=Costs(10, 1, 0.5))
    with pytest.raises(ConfigError, match="positive"):
        training.thresholds(model, rows, goal)
    result = training.thresholds(model, rows, goal, positive_label="spam", dtype="float32")
    served = training.evaluate(model, rows, dtype="float32")
    assert served.coverage == result.on_rows.coverage
    assert served.answers.scores_N[served.answers.predicted_NL[:, 1]].min() >= result.operating_point
    assert result.on_rows.cost_per_1000 is not None
    assert result.before.cost_per_1000 is not None
    assert result.on_rows.cost_per_1000 < result.before.cost_per_1000
    assert read_json_object(model / "classifier.json")["positive_label"] == "spam"


def test_several_labels_a_text_get_thresholds_of_their_own(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    a = answers_of(generator.normal(loc=[2, 0, -2], size=(300, 3)), generator.random((300, 3)) < 0.5)
    chosen = found(Goal(coverage=0.5, per_label=True), a)
    given_NL = a.p_NL >= chosen.thresholds_L(3)
    assert given_NL.mean(axis=0) == pytest.approx([0.5, 0.5, 0.5], abs=0.01)


def test_a_multi_label_model_is_calibrated_and_tuned_from_a_table(tmp_path: Path) -> None:
    labels = ("joy", "anger", "fear")
    model = make_telling_directory(
        tmp_path / "model", content={"task": "free"}, labels=labels, problem_type="multi_label_classification"
    )
    texts = random_texts(500, seed=2)
    p_NL = 1 / (1 + np.exp(-0.5 * Classifier.load(model, dtype="float32").logits(texts)))
    drawn_NL = np.random.default_rng(0).random(p_NL.shape) < p_NL
    lines = [
        json.dumps({"text": text, "labels": [label for label, is_true in zip(labels, row, strict=True) if is_true]})
        for text, row in zip(texts, drawn_NL.tolist(), strict=True)
    ]
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(lines), "utf-8")
    calibrated = training.calibrate(model, rows, method="temperature", dtype="float32")
    assert calibrated.scale == pytest.approx(0.5, rel=0.3)
    before = training.evaluate(model, rows, dtype="float32")
    result = training.thresholds(model, rows, Goal(f1=True, per_label=True), dtype="float32")
    after = training.evaluate(model, rows, dtype="float32")
    assert after.macro_f1 >= before.macro_f1
    assert (after.coverage, after.precision_at_threshold) == (result.on_rows.coverage, result.on_rows.precision)
    assert all(item.own for item in result.labels.values())
    precise = training.thresholds(model, rows, Goal(precision=0.7), out=tmp_path / "out", dtype="float32")
    assert precise.on_rows.precision_bound is not None
    assert precise.on_rows.precision_bound >= 0.7
    shown = CliRunner().invoke(cli, ["thresholds", str(model), str(rows), "--precision", "0.7"])
    assert "the bound counts each pair of text and label as independent" in shown.output
    assert "these rows chose the threshold too, which flatters the bound" in shown.output
    with pytest.raises(ConfigError, match="one label a text"):
        training.thresholds(model, rows, Goal(precision=0.7), priors={"joy": 0.1})


def test_rows_the_rejection_rule_refuses_are_not_accepted_whatever_the_threshold() -> None:
    a = answers(400)
    eligible_N = np.arange(400) % 2 == 0
    decisions = decisions_of(a, eligible_N)
    with pytest.raises(ConfigError, match=r"rejects 50\.0 %"):
        search(Goal(coverage=0.8), decisions, multi_label=False)
    threshold = search(Goal(coverage=0.4), decisions, multi_label=False).default
    assert ((a.scores_N >= threshold) & eligible_N).mean() == pytest.approx(0.4, abs=0.005)


def test_the_command_shows_what_to_expect(model: Path, rows: Path, tmp_path: Path) -> None:
    arguments = ["thresholds", str(model), str(rows), "--precision", "0.85", "--per-label", "--priors", "sport=0.1"]
    shown = CliRunner().invoke(cli, [*arguments, "--out", str(tmp_path / "a")])
    assert shown.exit_code == 0, shown.output
    for words in ("until now", "cross-fitted", "at --priors", "by the one-sided 95 % bound at least"):
        assert words in shown.output
    assert "these rows chose the threshold too, which flatters the bound" in shown.output
    assert "each pair of text and label" not in shown.output
    assert not re.search(r"\d%", shown.output), "per cent has one spelling"
    done = CliRunner().invoke(cli, [*arguments, "--out", str(tmp_path / "b"), "--json"])
    figures = json.loads(done.stdout)
    assert {"coverage", "precision", "review_per_1000"} <= figures["at_priors"].keys()
    assert set(figures["labels"]) == {"sport", "business", "politics"}
    refused = CliRunner().invoke(cli, ["thresholds", str(model), str(rows), "--review-cost", "1"])
    assert "--false-positive-cost" in str(refused.exception)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("--precision 0.9 --positive-label sport", "--positive-label sport is about costs; give them, or leave it out"),
        ("--coverage 0.9 --positive-label sport", "--positive-label sport is about costs"),
        ("--false-positive-cost 2 --review-cost 1 --per-label", "--per-label is about --precision, --coverage or --f1"),
        (
            "--false-positive-cost 2 --review-cost 1 --positive-label sport",
            "--positive-label sport is for two labels, and the model has 3 labels; leave it out",
        ),
        ("--keep-in-scope 0.9 --positive-label sport", "--keep-in-scope is a goal of its own"),
    ],
)
def test_options_that_the_goal_has_no_use_for_are_refused(
    options: str, problem: str, model: Path, rows: Path, tmp_path: Path
) -> None:
    arguments = ["thresholds", str(model), str(rows), *options.split(), "--out", str(tmp_path / "out")]
    ran = CliRunner().invoke(cli, arguments)
    assert isinstance(ran.exception, ConfigError)
    assert problem in str(ran.exception)
    assert not (tmp_path / "out").exists()


def test_a_coverage_of_several_labels_a_text_is_refused() -> None:
    generator = np.random.default_rng(0)
    a = answers_of(generator.normal(size=(300, 3)), generator.random((300, 3)) < 0.5)
    with pytest.raises(ConfigError, match="--coverage counts texts, and a text has several labels here"):
        found(Goal(coverage=0.8), a)


def test_an_interval_at_priors_is_not_sure_of_errors_that_were_never_seen() -> None:
    """600 rows, half of each label, for a stream where one of them is 2 %: of it ham is nearly all, seen 300 times."""
    covered = []
    for seed in range(60):
        generator = np.random.default_rng(seed)
        true_N = np.arange(600) % 2
        wrong_N = (true_N == 0) & (generator.random(600) < 0.003)
        said_N = np.where(wrong_N, 1, true_N)
        logits_NL = np.where(np.arange(2) == said_N[:, None], 3.0, -3.0)
        outcome = Outcome.of(answers_of(logits_NL, true_N))
        at_priors = outcome.expected(None, None, np.where(true_N == 1, 0.04, 1.96))
        assert at_priors.precision_interval is not None
        low, high = at_priors.precision_interval
        assert high - low > 0.005
        covered.append(low <= 0.98 * (1 - 0.003) + 0.02 <= high)
    assert np.mean(covered) >= 0.9


def test_labels_that_borrow_a_threshold_below_the_goal_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = make_telling_directory(tmp_path / "model", content={})
    rows = write_honest_rows(tmp_path / "rows.csv", model, temperature=1.0)
    training.thresholds(model, rows, Goal(precision=0.75, per_label=True), out=tmp_path / "plain", dtype="float32")
    assert "all labels together reach" not in caplog.text

    def pooled(goal: Goal, decisions: object, **_: object) -> ThresholdSet:
        return ThresholdSet(default=0.0, labels={})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.threshold_tuning.search", pooled)
        training.thresholds(model, rows, Goal(precision=0.99, per_label=True), out=tmp_path / "out", dtype="float32")
    assert "less than the goal: labels with few rows take the threshold of all rows" in caplog.text


def test_figures_that_an_operating_point_changes_leave_the_card(tmp_path: Path) -> None:
    figures = {"n": 100, "accuracy": 0.825, "macro_f1": 0.824, "nll": 0.4, "ece": 0.02, "ece_noise_floor": 0.01}
    content = {"training": {"figures": figures, "measured_on": "test"}, "calibration": {"method": "temperature"}}
    model = make_telling_directory(tmp_path / "model", content=content, labels=("ham", "spam"))
    rows = write_honest_rows(tmp_path / "rows.csv", model, temperature=1.0)
    training.thresholds(model, rows, Goal(coverage=0.8), dtype="float32")
    assert "82.50 %" in (model / "README.md").read_text("utf-8")
    costs = Costs(false_positive=20, false_negative=1, review=0.5)
    training.thresholds(model, rows, Goal(costs=costs), positive_label="spam", dtype="float32")
    card = (model / "README.md").read_text("utf-8")
    assert "82.50 %" not in card
    assert "0.400" in card, "its probabilities are as they were"
    assert "What calibration or thresholds changed since is not shown" in card


def test_a_rejection_score_without_its_rule_is_refused(tmp_path: Path) -> None:
    command = ["thresholds", "model", "rows.csv", "--precision", "0.9", "--rejection-score", "energy"]
    with pytest.raises(ConfigError, match=r"give --keep-in-scope 0\.95 too"):
        CliRunner().invoke(cli, command, catch_exceptions=False)
