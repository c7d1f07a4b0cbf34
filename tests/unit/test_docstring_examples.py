"""The examples in docstrings are true."""

from __future__ import annotations

import doctest
import importlib

import pytest

MODULES = [
    "stream_classifier.errors",
    "stream_classifier.json_pointer",
    "stream_classifier.model.backends.null",
    "stream_classifier.model.calibration",
    "stream_classifier.model.packing",
    "stream_classifier.model.predictions",
    "stream_classifier.model.thresholds",
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_give_what_they_show(name):
    failed, attempted = doctest.testmod(importlib.import_module(name))
    assert failed == 0
    assert attempted > 0
