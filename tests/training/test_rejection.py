"""Texts out of scope: kept out of the labels, rejected by a rule that is served, measured apart."""

from __future__ import annotations

import csv
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
from tests.plugins.answers import answers_of
from tests.plugins.models import make_directory
from tests.plugins.tables import make_telling_directory, random_texts, write_honest_rows, write_rows
from training.answers import Answers
from training.cli import cli
from training.data import Table
from training.reading import read_table
from training.rejection import _lower_quantile, fit_rejection, measure_out_of_scope, set_apart
from training.report.markup import share


def answers(offset: float, number: int, *, seed: int, in_scope: bool = True) -> Answers:
    """One logit of three is high by `offset`, more or less; nothing is true of texts out of scope."""
    generator = np.random.default_rng(seed)
    true_N = generator.integers(3, size=number)
    logits_NL = generator.normal(size=(number, 3)) + offset * np.eye(3)[true_N]
    a = answers_of(logits_NL, true_N)
    return a if in_scope else answers_of_nothing(a)


def answers_of_nothing(a: Answers) -> Answers:
    a.true_NL[:] = False
    return a


@pytest.mark.parametrize("keep", [0.8, 0.9, 0.95, 0.99])
def test_of_a_hundred_rows_just_so_many_are_kept(keep: float) -> None:
    scores_N = np.random.default_rng(0).permutation(100) / 100
    assert int((scores_N >= _lower_quantile(scores_N, 1 - keep)).sum()) == round(100 * keep)


def test_the_rule_keeps_the_share_it_was_asked_to_keep_and_finds_the_others() -> None:
    inside, outside = answers(6, 1000, seed=0), answers(1, 300, seed=1, in_scope=False)
    for keep in (0.9, 0.95, 0.99):
        rule = fit_rejection(inside, outside, keep=keep)
        assert keep <= rule.kept < keep + 0.005
        assert rule.recalls[rule.score] == max(rule.recalls.values())
        assert rule.recalls[rule.score] > 0.6


def test_the_better_score_is_chosen_by_the_rows_out_of_scope() -> None:
    inside = answers(6, 1000, seed=0)
    # As sure as texts in scope, but all logits are low: only the energy tells.
    low = answers_of_nothing(answers_of(inside.logits_NL.astype(np.float64) - 9, inside.true_N))
    assert fit_rejection(inside, low).score == "energy"
    # As high, but two labels share it: only the best probability tells.
    shared = answers_of_nothing(answers_of(np.array([[7.0, 7.0, 0.0]] * 50), np.zeros(50, np.intp)))
    assert fit_rejection(inside, shared).score == "max_prob"
    assert fit_rejection(inside, None).score == "energy"


def test_equal_scores_are_kept_together() -> None:
    same = answers_of(np.array([[3.0, 0.0, 0.0]] * 100), np.zeros(100, np.intp))
    assert fit_rejection(same, None).kept == 1.0


def test_what_is_measured_tells_rejection_from_the_labels() -> None:
    inside = answers_of(np.array([[5.0, 0.0]] * 8 + [[0.3, 0.0]] * 2), np.array([0] * 7 + [1] * 3), threshold=0.9)
    outside = answers_of_nothing(answers_of(np.array([[0.1, 0.0]] * 3 + [[5.0, 0.0]]), np.zeros(4, int), threshold=0.9))
    measured = measure_out_of_scope("oos", inside, outside)
    assert (measured.n, measured.recall, measured.kept) == (4, 0.75, 0.8)
    assert measured.accepted_and_right == 0.7
    assert measured.precision == pytest.approx(7 / 9)
    assert measured.auroc["max_prob"] == pytest.approx(0.8 * 0.75 + 0.2 * 0.75 + 0.8 * 0.25 / 2)


def test_rows_are_set_apart() -> None:
    table = Table("rows.csv", ["a", "b", "c"], [("x",), ("oos",), ("y",)])
    inside, outside = set_apart(table, "oos")
    assert inside.texts == ["a", "c"]
    assert outside is not None
    assert outside.texts == ["b"]
    assert set_apart(inside, "oos") == (inside, None)
    with pytest.raises(ConfigError, match=r"all 1 rows"):
        set_apart(outside, "oos")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_telling_directory(
        tmp_path_factory.mktemp("model") / "model", content={"task": "intent", "thresholds": {"default": 0.2}}
    )


@pytest.fixture(scope="module")
def rows(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_honest_rows(tmp_path_factory.mktemp("rows") / "rows.csv", model, temperature=1.0, number=300)
    with path.open("a", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([f"{text} at all", "oos"] for text in random_texts(60, seed=8))
    return path


def test_a_finished_model_gets_a_rule_that_serves_and_keeps_its_thresholds(
    model: Path, rows: Path, tmp_path: Path
) -> None:
    for score in ("max_prob", "energy"):
        result = training.reject(model, rows, score=score, keep=0.9, out=tmp_path / score, dtype="float32")
        content = read_json_object(tmp_path / score / "classifier.json")
        assert content["thresholds"]["default"] == 0.2
        assert content["thresholds"]["rejection"]["tuned_for"]["out_of_scope_label"] == "oos"
        served = Classifier.load(tmp_path / score, dtype="float32", threshold=0.0)
        assert served.digest == result.digest
        inside, _ = set_apart(read_table(rows), "oos")
        accepted = [prediction.decision == "accepted" for prediction in served(inside.texts)]
        assert np.mean(accepted) == pytest.approx(0.9, abs=0.005)
        e = training.evaluate(tmp_path / score, rows, dtype="float32")
        assert (e.n, e.out_of_scope and e.out_of_scope.n) == (300, 60)
        assert e.out_of_scope is not None
        assert e.out_of_scope.kept == pytest.approx(result.rule.kept, abs=0.005)
        assert e.out_of_scope.recall == pytest.approx(result.rule.recalls[score], abs=0.03)


def test_other_commands_know_the_label_of_the_rule(model: Path, rows: Path, tmp_path: Path) -> None:
    training.reject(model, rows, score="max_prob", out=tmp_path / "model")
    goal = training.Goal(coverage=0.5)
    result = training.thresholds(tmp_path / "model", rows, goal, priors={"sport": 0.1})
    assert result.n == 360, "rows out of scope count: accepting them is an error"
    calibrated = training.calibrate(tmp_path / "model", rows)
    assert (calibrated.n, calibrated.thresholds_removed) == (300, True)
    assert read_json_object(tmp_path / "model" / "classifier.json")["thresholds"] == {}


def test_a_model_that_loses_its_rule_by_calibration_still_knows_the_label(
    model: Path, rows: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "model"
    training.reject(model, rows, score="max_prob", out=path)
    training.calibrate(path, rows)
    assert "stream-training thresholds MODEL ROWS --keep-in-scope 0.95 fits another" in caplog.text
    assert "out_of_scope_label | oos" in (path / "README.md").read_text("utf-8")
    assert training.calibrate(path, rows).n == 300
    result = training.thresholds(path, rows, training.Goal(coverage=0.5))
    assert result.n == 360
    assert training.evaluate(path, rows).out_of_scope is not None
    assert training.reject(path, rows).label == "oos"


def test_a_model_that_never_knew_the_label_is_told_it_or_refuses_with_the_option(
    model: Path, rows: Path, tmp_path: Path
) -> None:
    arguments = ["thresholds", str(model), str(rows), "--coverage", "0.5", "--out", str(tmp_path / "model")]
    refused = CliRunner().invoke(cli, arguments)
    assert "1 label is not among those of" in str(refused.exception)
    assert str(refused.exception).endswith("thresholds MODEL DATA --keep-in-scope 0.95 --out-of-scope-label oos")
    done = CliRunner().invoke(cli, [*arguments, "--out-of-scope-label", "oos", "--json"])
    assert json.loads(done.stdout)["n"] == 360


@pytest.mark.parametrize(("parts", "n"), [(("rows",), 200), (("train", "validation"), 300)])
def test_a_model_is_compressed_with_the_rows_it_was_made_with(
    model: Path, rows: Path, tmp_path: Path, parts: tuple[str, ...], n: int
) -> None:
    training.reject(model, rows, out=tmp_path / "model")
    for part in parts:
        (tmp_path / f"{part}.csv").write_bytes(rows.read_bytes())
    data = tmp_path if len(parts) > 1 else tmp_path / "rows.csv"
    result = training.quantize(
        tmp_path / "model",
        data,
        dtype="bfloat16",
        out=tmp_path / "half",
        num_calibration_texts=100,
        limits=training.ParityLimits(0, 1, 1, 1, min_speedup=0),
    )
    assert result.parity.n == n, "the 60 rows out of scope are not among them"
    assert "rejection" in read_json_object(tmp_path / "half" / "classifier.json")["thresholds"]


def test_the_report_tells_of_texts_out_of_scope_by_the_rule_of_now(model: Path, rows: Path, tmp_path: Path) -> None:
    path = tmp_path / "model"
    result = training.reject(model, rows, score="max_prob", keep=0.9, out=path)
    training.write_report(path, rows)
    measured = training.evaluate(path, rows).out_of_scope
    assert measured is not None
    shown = (path / "report.html").read_text("utf-8").replace("\u00a0", " ")
    assert f"below {result.rule.threshold:.3f} are taken to be out of scope" in shown
    assert f"Of 60 rows with oos {share(measured.recall)} are uncertain" in shown
    assert f"{share(measured.kept)} are accepted" in shown
    training.calibrate(path, rows)  # which takes the rule away
    shown = (path / "report.html").read_text("utf-8").replace("\u00a0", " ")
    assert "There is no rule that rejects texts out of scope" in shown
    assert "Of 60 rows with oos 0.0 % are uncertain; of the others 100.0 % are accepted" in shown


def test_without_the_label_named_its_rows_are_refused(model: Path, rows: Path) -> None:
    with pytest.raises(ConfigError, match="oos"):
        training.evaluate(model, rows)
    assert training.evaluate(model, rows, out_of_scope_label="oos").out_of_scope is not None


def test_fit_keeps_the_label_out_of_the_head_and_stores_the_rule(tmp_path: Path) -> None:
    base = make_directory(tmp_path / "base", labels=("x", "y"))
    generator = np.random.default_rng(0)
    words = {"sport": ["match", "ended", "won"], "money": ["bank", "shares", "fell"], "oos": ["fox", "dog", "brown"]}
    labels = [("sport", "money", "oos")[i % 3] for i in range(240)]
    texts = [f"{' '.join(generator.choice(words[label], size=5))} {i}" for i, label in enumerate(labels)]
    data, test = write_rows(tmp_path / "train.csv", texts[:180], labels[:180]), write_rows(
        tmp_path / "test.csv", texts[180:], labels[180:]
    )  # fmt: skip
    settings = training.FitSettings(
        base=str(base), epochs=2, learning_rate=2e-3, max_length=32, out_of_scope_label="oos", keep_in_scope=0.8
    )
    result = training.fit(data, tmp_path / "model", settings=settings, test=test)
    assert Classifier.load(tmp_path / "model").labels == ("money", "sport")
    rejection = read_json_object(tmp_path / "model" / "classifier.json")["thresholds"]["rejection"]
    assert rejection["tuned_for"]["kept_in_scope"] >= 0.8
    assert rejection["tuned_for"]["num_out_of_scope"] == 60
    assert result.evaluation.n == 40
    assert result.evaluation.out_of_scope is not None
    assert result.evaluation.out_of_scope.n == 20
    assert result.evaluation.out_of_scope.kept < 1


def test_the_command_fits_a_rule(model: Path, rows: Path, tmp_path: Path) -> None:
    arguments = ["thresholds", str(model), str(rows), "--keep-in-scope", "0.9", "--out-of-scope-label", "oos"]
    done = CliRunner().invoke(cli, [*arguments, "--json", "--out", str(tmp_path / "a")])
    assert set(json.loads(done.stdout)["recalls"]) == {"max_prob", "energy"}
    shown = CliRunner().invoke(cli, [*arguments, "--out", str(tmp_path / "b")])
    assert "% of 60 with oos" in shown.output
    measured = CliRunner().invoke(cli, ["evaluate", str(tmp_path / "b"), str(rows)])
    assert "of 60 rows with oos are uncertain" in measured.output
    assert not re.search(r"\d%", shown.output + measured.output), "per cent has one spelling"
    for wrong, problem in (("1.5", "above 0 and below 1"), ("nan", "above 0 and below 1")):
        refused = CliRunner().invoke(cli, [*arguments[:4], wrong])
        assert problem in str(refused.exception)
