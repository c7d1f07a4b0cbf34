"""The public names are a promise: adding or removing one is a decision, and shows up here."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path

import pytest

import stream_classifier
import training


def test_stream_classifier_exports_these_names() -> None:
    assert stream_classifier.__all__ == [
        "Classifier",
        "ConfigError",
        "DeliveryError",
        "ModelDirectoryError",
        "ModelError",
        "Prediction",
        "RecordError",
        "StreamClassifier",
        "StreamClassifierError",
        "TextModel",
        "TransientError",
    ]


@pytest.mark.parametrize("package", [stream_classifier, training])
def test_exported_names_are_sorted_and_without_repeats(package) -> None:
    assert package.__all__ == sorted(set(package.__all__))


@pytest.mark.parametrize(
    ("package", "name"), [(package, name) for package in (stream_classifier, training) for name in package.__all__]
)
def test_every_exported_name_can_be_imported_and_says_what_it_is(package, name: str) -> None:
    assert getattr(package, name).__doc__
    assert name in dir(package)


def test_no_module_takes_the_place_of_a_public_name_when_it_is_imported() -> None:
    modules = {
        module.name for package in (stream_classifier, training) for module in pkgutil.iter_modules(package.__path__)
    }
    assert not modules & {*stream_classifier.__all__, *training.__all__}


@pytest.mark.parametrize("name", training.__all__)
def test_the_reference_names_all_that_training_gives(name: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "python.md").read_text("utf-8")
    assert re.search(rf"\b{name}\b", page.partition("## training")[2])


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Clasifier'"):
        _ = stream_classifier.Clasifier


def test_version_is_the_distributions() -> None:
    from importlib.metadata import version

    assert stream_classifier.__version__ == version("stream-classifier")
