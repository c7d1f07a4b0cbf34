"""Logits to probabilities: the formulas, the extremes, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stream_classifier.errors import ConfigError
from stream_classifier.model.calibration import MULTI_LABEL, SINGLE_LABEL, Calibration


def test_softmax_of_known_logits():
    probabilities = Calibration(SINGLE_LABEL).probabilities([[math.log(1.0), math.log(3.0)], [5.0, 5.0]])
    assert probabilities == pytest.approx(np.array([[0.25, 0.75], [0.5, 0.5]]))


def test_sigmoid_of_known_logits():
    probabilities = Calibration(MULTI_LABEL).probabilities([[0.0, math.log(3.0), -math.log(3.0)]])
    assert probabilities == pytest.approx(np.array([[0.5, 0.75, 0.25]]))


def test_scale_and_bias_apply_to_the_logits_in_that_order():
    calibrated = Calibration(SINGLE_LABEL, scale=0.5, bias=[1.0, 0.0]).probabilities([[2.0, 4.0]])
    assert calibrated == pytest.approx(Calibration(SINGLE_LABEL).probabilities([[2.0, 2.0]]))


def test_scale_can_be_one_a_label():
    calibrated = Calibration(MULTI_LABEL, scale=[1.0, 2.0], bias=0.5).probabilities([[1.0, 1.0]])
    assert calibrated == pytest.approx(Calibration(MULTI_LABEL).probabilities([[1.5, 2.5]]))


@pytest.mark.parametrize(
    ("scale", "bias", "is_identity"),
    [(1.0, 0.0, True), ([1.0, 1.0], 0.0, True), (1.0, [0.0, 0.0], True), (1.5, 0.0, False), (1.0, [0.0, 0.1], False)],
)
def test_it_says_whether_it_changes_anything(scale, bias, is_identity):
    calibration = Calibration(SINGLE_LABEL, scale=scale, bias=bias)
    assert calibration.is_identity == is_identity


def test_float32_logits_become_float64_probabilities_without_touching_the_logits():
    logits = np.array([[1.0, 2.0]], dtype=np.float32)
    probabilities = Calibration(SINGLE_LABEL, scale=3.0).probabilities(logits)
    assert probabilities.dtype == np.float64
    assert logits.tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("problem_type", [SINGLE_LABEL, MULTI_LABEL])
def test_extreme_logits_give_certain_probabilities(problem_type):
    calibration = Calibration(problem_type, scale=2.0)
    for extreme in (1e30, 1e300, float(np.finfo(np.float32).max)):
        assert calibration.probabilities([[extreme, -extreme]]).tolist() == [[1.0, 0.0]]


def test_softmax_of_extreme_equals_is_even():
    assert Calibration(SINGLE_LABEL).probabilities([[-1e30, -1e30], [1e30, 1e30]]).tolist() == [[0.5, 0.5]] * 2


def test_small_probabilities_keep_their_relative_precision():
    assert Calibration(MULTI_LABEL).probabilities([[-700.0]])[0, 0] == pytest.approx(math.exp(-700.0), rel=1e-12)


@pytest.mark.parametrize("problem_type", [SINGLE_LABEL, MULTI_LABEL])
@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf, 1e308])
def test_a_row_that_is_not_finite_is_nan_throughout_and_alone(problem_type, broken):
    calibration = Calibration(problem_type, scale=10.0)  # 10 times 1e308 overflows
    probabilities = calibration.probabilities([[1.0, 2.0], [broken, 2.0], [1.0, 2.0]])
    assert np.isnan(probabilities[1]).all()
    assert probabilities[[0, 2]] == pytest.approx(np.tile(calibration.probabilities([[1.0, 2.0]]), (2, 1)))


@pytest.mark.parametrize("problem_type", [SINGLE_LABEL, MULTI_LABEL])
def test_no_texts_give_no_rows(problem_type):
    assert Calibration(problem_type).probabilities(np.empty((0, 3), np.float32)).shape == (0, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": 0.0}, "must be positive"),
        ({"scale": -1.0}, "must be positive"),
        ({"scale": [1.0, -1.0]}, "must be positive"),
        ({"scale": math.nan}, "finite"),
        ({"bias": math.inf}, "finite"),
        ({"bias": []}, "finite"),
        ({"bias": [[1.0]]}, "finite"),
        ({"scale": "warm"}, "one number"),
        ({"scale": [1.0, 2.0], "bias": [1.0, 2.0, 3.0]}, "2 values of scale but 3 of bias"),
    ],
)
def test_a_calibration_that_makes_no_sense_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Calibration(SINGLE_LABEL, **settings)


def test_an_unknown_problem_type_is_refused():
    with pytest.raises(ConfigError, match=r"'regression'.*config\.json"):
        Calibration("regression")


def test_a_calibration_for_another_number_of_labels_is_refused():
    Calibration(SINGLE_LABEL, scale=0.5).check_labels(7)
    with pytest.raises(ConfigError, match="bias has 2 values but the model has 3 labels"):
        Calibration(SINGLE_LABEL, bias=[0.0, 1.0]).check_labels(3)
