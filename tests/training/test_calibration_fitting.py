"""Calibrations recover a miscalibration that was put in on purpose, and take no more parameters than the rows bear."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

import training
from stream_classifier import Classifier
from stream_classifier.errors import ConfigError
from stream_classifier.model.calibration import MULTI_LABEL, SINGLE_LABEL, Calibration
from stream_classifier.model.directory import read
from stream_classifier.model.manifest import read_json_object
from stream_classifier.model.publish import finish_directory
from tests.plugins.answers import drawn_logits
from tests.plugins.tables import make_telling_directory, random_texts, write_honest_rows, write_rows
from training.answers import one_hot
from training.calibration import fit_calibration, fit_temperature, folds_of, prior_shift
from training.cli import cli
from training.metrics import ece_noise, expected_calibration_error

LABELS = ("a", "b", "c", "d")


def honest(number: int = 3000, *, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    logits_NL, true_N = drawn_logits(number, len(LABELS), seed=seed)
    return logits_NL, one_hot(true_N, len(LABELS))


def test_a_temperature_that_was_put_in_is_found() -> None:
    logits_NL, true_NL = honest()
    for factor in (0.4, 1.0, 3.0):
        found = fit_temperature((factor * logits_NL).astype(np.float32), true_NL, problem_type=SINGLE_LABEL)
        assert found == pytest.approx(1 / factor, rel=0.06)


def test_several_labels_a_text_are_calibrated_with_the_sigmoid() -> None:
    generator = np.random.default_rng(4)
    logits_NL = generator.normal(scale=2, size=(3000, 3))
    true_NL = generator.random((3000, 3)) < 1 / (1 + np.exp(-logits_NL))
    shifted_NL = (2 * logits_NL + [0.0, 3.0, -3.0]).astype(np.float32)
    found = fit_calibration(shifted_NL, true_NL, problem_type=MULTI_LABEL)
    assert found.calibration.method == "bias"
    assert np.asarray(found.calibration.scale) == pytest.approx(0.5, rel=0.06)
    assert np.asarray(found.calibration.bias) == pytest.approx([0.0, -1.5, 1.5], abs=0.15)


def test_an_honest_model_gets_a_temperature_of_one_and_nothing_else() -> None:
    logits_NL, true_NL = honest(seed=7)
    found = fit_calibration(logits_NL.astype(np.float32), true_NL, problem_type=SINGLE_LABEL)
    assert found.calibration.method == "temperature"
    assert found.calibration.scale == pytest.approx(1.0, rel=0.06)
    assert [trial.method for trial in found.trials] == ["temperature", "bias", "vector"]
    assert not any(trial.helps for trial in found.trials)


def test_a_bias_is_taken_where_labels_were_shifted_and_undoes_the_shift() -> None:
    logits_NL, true_NL = honest()
    shift_L = np.array([1.5, 0.0, 0.0, -1.5])
    found = fit_calibration((logits_NL + shift_L).astype(np.float32), true_NL, problem_type=SINGLE_LABEL)
    assert found.calibration.method == "bias"
    assert np.asarray(found.calibration.bias) == pytest.approx(-shift_L, abs=0.15)
    confidence_N, correct_N = found.p_NL.max(axis=1), found.p_NL.argmax(axis=1) == true_NL.argmax(axis=1)
    assert expected_calibration_error(confidence_N, correct_N) < ece_noise(confidence_N)[1]


def test_scales_of_labels_are_taken_where_labels_differ_in_them() -> None:
    logits_NL, true_NL = honest(6000)
    found = fit_calibration((logits_NL * [3.0, 1.0, 1.0, 0.5]).astype(np.float32), true_NL, problem_type=SINGLE_LABEL)
    assert found.calibration.method == "vector"
    assert np.asarray(found.calibration.scale) == pytest.approx([1 / 3, 1, 1, 2], rel=0.15)


def test_a_label_without_rows_keeps_a_finite_bias() -> None:
    logits_NL, true_NL = honest(400)
    true_NL[:, 3] = False
    true_NL[~true_NL.any(axis=1), 0] = True
    found = fit_calibration(
        logits_NL.astype(np.float32), true_NL, problem_type=SINGLE_LABEL, methods=("vector",)
    ).calibration
    assert np.isfinite(np.asarray(found.bias)).all()
    assert np.isfinite(np.asarray(found.scale)).all()


def test_few_rows_or_no_errors_tell_nothing() -> None:
    logits_NL, true_NL = honest(199)
    assert fit_temperature(logits_NL.astype(np.float32), true_NL, problem_type=SINGLE_LABEL) is None
    perfect = 9 * np.eye(4, dtype=np.float32)[np.arange(500) % 4]
    assert fit_temperature(perfect, one_hot(np.arange(500) % 4, 4), problem_type=SINGLE_LABEL) is None


def test_folds_are_of_equal_size_and_share_every_label() -> None:
    true_NL = one_hot(np.repeat([0, 1, 2], [85, 10, 5]), 3)
    folds_N = folds_of(true_NL)
    assert np.bincount(folds_N).tolist() == [20] * 5
    for label in range(3):
        assert set(folds_N[true_NL[:, label]].tolist()) == set(range(5))


def test_priors_make_probabilities_honest_on_a_stream_with_other_shares() -> None:
    generator = np.random.default_rng(0)

    def draw(spam_share: float, number: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        spam_N = generator.random(number) < spam_share
        evidence_N = generator.normal(loc=np.where(spam_N, 1.0, -1.0))  # log odds at equal shares: 2 * evidence
        return np.stack([np.zeros(number), 2 * evidence_N], axis=1), spam_N

    logits_NL, spam_N = draw(0.02, 20000)
    bias_L, target_L = prior_shift({"spam": 0.02}, np.array([0.5, 0.5]), ("ham", "spam"), problem_type=SINGLE_LABEL)
    assert target_L == pytest.approx([0.98, 0.02])
    for bias, is_honest in ((0.0, False), (bias_L.tolist(), True)):
        p_N = Calibration(SINGLE_LABEL, bias=bias).probabilities(logits_NL)[:, 1]
        assert (expected_calibration_error(p_N, spam_N) < ece_noise(p_N)[1]) == is_honest


@pytest.mark.parametrize(
    ("priors", "problem"),
    [
        ({"a": 0.5, "b": 0.6}, "sum to 1.1"),
        ({"a": 0.1, "b": 0.1, "c": 0.1, "d": 0.1}, "sum to 0.4"),
        ({"a": 1.5}, "above 0 and below 1"),
        ({"e": 0.5}, "no label 'e'"),
    ],
)
def test_shares_that_cannot_be_are_refused(priors: dict[str, float], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        prior_shift(priors, np.full(4, 0.25), LABELS, problem_type=SINGLE_LABEL)


def test_labels_without_rows_have_no_share_to_shift_from() -> None:
    with pytest.raises(ConfigError, match="no row has the label 'd'"):
        prior_shift({"a": 0.5}, np.array([0.5, 0.3, 0.2, 0.0]), LABELS, problem_type=SINGLE_LABEL)


THRESHOLDS = {"default": 0.9, "tuned_for": {"goal": "precision 0.99"}}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_telling_directory(
        tmp_path / "model",
        content={
            "task": "free",
            "thresholds": THRESHOLDS,
            "training": {"base": "tiny", "measured_on": "test", "figures": {"n": 9, "accuracy": 0.5, "nll": 0.7}},
        },
    )


def test_calibrate_writes_what_serves_and_removes_thresholds(model: Path, tmp_path: Path) -> None:
    rows = write_honest_rows(tmp_path / "rows.csv", model, temperature=2.5)
    before = Classifier.load(model)
    result = training.calibrate(model, rows, dtype="float32")
    after = Classifier.load(model)
    assert result.scale == pytest.approx(0.4, rel=0.25)
    assert result.thresholds_removed
    assert result.after.nll < result.before.nll
    assert (result.num_changed, result.digest) == (0, after.digest)
    assert after.digest != before.digest
    texts = ["the match ended", "shares fell"]
    assert [p.label for p in after(texts)] == [p.label for p in before(texts)]
    assert all(a.score < b.score for a, b in zip(after(texts), before(texts), strict=True))
    content = read_json_object(model / "classifier.json")
    assert content["thresholds"] == {}
    figures = content["training"]["figures"]
    assert (figures["accuracy"], figures["nll"]) == (0.5, None), "a temperature changes no label, but the likelihood"
    assert "Method temperature" in (model / "README.md").read_text("utf-8")


def test_golden_cases_that_a_calibration_brings_near_a_tie_go(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With them the model would not load in bfloat16 any more."""
    content = {"task": "free", "calibration": {"method": "temperature", "scale": 0.2}}
    model = make_telling_directory(tmp_path / "model", content=content)
    finish_directory(model, content, golden_texts=random_texts(40, seed=5))
    before = {case.text for case in read(model).golden}
    rows = write_honest_rows(tmp_path / "rows.csv", model, temperature=0.35)
    monkeypatch.chdir(model)
    for out in (tmp_path / "copy", None):
        training.calibrate(".", rows, out=out, dtype="float32")
        after = {case.text for case in read(out or model).golden}
        assert after < before
        assert f"{len(before) - len(after)} of {len(before)} golden texts lie too near a tie now" in caplog.text
        for backend in ("torch", "auto"):
            loaded = Classifier.load(out or model, device="cpu", dtype="bfloat16", backend=backend)
            assert not loaded.check_golden().failed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "model", "rows.csv"]


def test_a_rejection_rule_by_energy_survives_because_it_reads_raw_logits(tmp_path: Path) -> None:
    rejection = {"score": "energy", "threshold": -3.0}
    content = {"task": "free", "thresholds": {**THRESHOLDS, "rejection": rejection}}
    model = make_telling_directory(tmp_path / "model", content=content)
    training.calibrate(model, write_honest_rows(tmp_path / "rows.csv", model, temperature=2.0))
    assert read_json_object(model / "classifier.json")["thresholds"] == {"rejection": rejection}


def test_a_copy_is_written_and_the_model_left_alone(model: Path, tmp_path: Path) -> None:
    rows = write_honest_rows(tmp_path / "rows.csv", model, temperature=2.0)
    before = Classifier.load(model).digest
    result = training.calibrate(model, rows, out=tmp_path / "new" / "copy")
    assert Classifier.load(model).digest == before
    assert Classifier.load(tmp_path / "new" / "copy").digest == result.digest
    assert (tmp_path / "new" / "copy" / "README.md").read_text("utf-8").count("# copy") == 1
    with pytest.raises(ConfigError, match="is there already"):
        training.calibrate(model, rows, out=tmp_path / "new" / "copy")


def test_priors_alone_need_no_errors(model: Path, tmp_path: Path) -> None:
    texts = [f"a text {i}" for i in range(30)]
    rows = write_rows(tmp_path / "rows.csv", texts, ["sport", "business", "politics"] * 10)
    result = training.calibrate(model, rows, method="none", priors={"sport": 0.9})
    assert result.priors == pytest.approx({"sport": 0.9, "business": 0.05, "politics": 0.05})
    assert result.method == "prior shift"
    assert isinstance(result.bias, list)
    assert result.bias[0] - result.bias[1] == pytest.approx(np.log(0.9 / 0.05))
    with pytest.raises(ConfigError, match="30 rows cannot tell"):
        training.calibrate(model, rows, priors={"sport": 0.9})


def test_what_cannot_be_written_or_found_is_refused_with_the_fix(model: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.csv", ["a text", "another"], ["sport", "politics"])
    with pytest.raises(ConfigError, match="--out"):
        training.calibrate("org/model", rows)
    with pytest.raises(ConfigError, match="--method isotonic"):
        training.calibrate(model, rows, method="isotonic")
    done = CliRunner().invoke(cli, ["calibrate", str(model), str(rows), "--priors", "sport:0.5"])
    assert isinstance(done.exception, ConfigError)
    assert "sport=0.5" not in str(done.exception)


def test_the_command_prints_figures_for_people_and_one_object_for_machines(model: Path, tmp_path: Path) -> None:
    rows = write_honest_rows(tmp_path / "rows.csv", model, temperature=2.0)
    shown = CliRunner().invoke(cli, ["calibrate", str(model), str(rows), "--out", str(tmp_path / "out")])
    assert "chance alone" in shown.output
    assert not re.search(r"\d%", shown.output), "per cent has one spelling"
    assert "thresholds" in shown.output
    done = CliRunner().invoke(cli, ["calibrate", str(model), str(rows), "--json"])
    figures = json.loads(done.stdout)
    assert figures["digest"] == Classifier.load(model).digest
    assert figures["method"] in ("temperature", "scale", "bias", "scale and bias")  # one that helps by chance, too
    assert {"nll", "ece", "ece_noise_95"} <= figures["after"].keys()
