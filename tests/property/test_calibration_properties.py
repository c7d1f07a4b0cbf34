"""Calibration: probabilities are probabilities, rows are alone, and a temperature never changes the label."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stream_classifier.model.calibration import MULTI_LABEL, SINGLE_LABEL, Calibration

shapes = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=6)
finite = hnp.arrays(np.float32, shapes, elements=st.floats(-(2.0**100), 2.0**100, width=32))
any_logits = hnp.arrays(np.float32, shapes, elements=st.floats(width=32))
scales = st.floats(1e-3, 1e3)
biases = st.floats(-1e3, 1e3)
problem_types = st.sampled_from([SINGLE_LABEL, MULTI_LABEL])


@given(finite, problem_types, scales, biases)
def test_finite_logits_give_probabilities(logits, problem_type, scale, bias):
    probabilities = Calibration(problem_type, scale=scale, bias=bias).probabilities(logits)
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    if problem_type == SINGLE_LABEL:
        np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-12)


@given(any_logits, problem_types, scales)
def test_rows_are_all_finite_or_all_nan_and_each_alone(logits, problem_type, scale):
    calibration = Calibration(problem_type, scale=scale)
    probabilities = calibration.probabilities(logits)
    expected_finite = np.isfinite(logits).all(axis=1)
    assert (np.isfinite(probabilities).all(axis=1) == expected_finite).all()
    assert (np.isnan(probabilities).all(axis=1) == ~expected_finite).all()
    alone = np.concatenate([calibration.probabilities(row[None]) for row in logits])
    np.testing.assert_array_equal(probabilities, alone)


@given(finite, problem_types, scales, biases)
def test_a_temperature_keeps_the_order_of_the_labels(logits, problem_type, scale, bias):
    probabilities = Calibration(problem_type, scale=scale, bias=bias).probabilities(logits)
    # Rounding may make unequal logits equally probable, never turn them around.
    by_logit = np.take_along_axis(probabilities, np.argsort(logits, axis=1, kind="stable"), axis=1)
    assert (np.diff(by_logit, axis=1) >= 0).all()


@given(hnp.arrays(np.float64, shapes, elements=st.floats(-50, 50)), problem_types)
def test_the_result_is_the_textbook_formula(logits, problem_type):
    probabilities = Calibration(problem_type).probabilities(logits)
    powers = np.exp(logits)
    expected = powers / (1 + powers) if problem_type == MULTI_LABEL else powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-9)
