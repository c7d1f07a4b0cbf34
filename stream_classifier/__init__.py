"""Text classification on Kafka topics, as a plugin for Faust.

The public names are loaded on first use: importing this package pulls in neither torch nor Faust.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stream_classifier.errors import (
        ConfigError,
        DeliveryError,
        ModelDirectoryError,
        ModelError,
        RecordError,
        StreamClassifierError,
        TransientError,
    )
    from stream_classifier.model.classifier import Classifier
    from stream_classifier.model.protocols import TextModel
    from stream_classifier.records import Prediction
    from stream_classifier.stream.plugin import StreamClassifier

__version__ = "0.1.0"

__all__ = [
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

_HOMES = {
    "Classifier": "stream_classifier.model.classifier",
    "Prediction": "stream_classifier.records",
    "StreamClassifier": "stream_classifier.stream.plugin",
    "TextModel": "stream_classifier.model.protocols",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = importlib.import_module(_HOMES.get(name, "stream_classifier.errors"))
    value = getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
