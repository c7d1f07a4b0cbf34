"""A scikit-learn pipeline as a model: the same topics, thresholds and delivery, without a BERT.

python examples/sklearn_model.py
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from stream_classifier import Classifier


class SklearnModel:
    """A fitted pipeline whose last step knows `predict_proba`."""

    problem_type = "single_label_classification"

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self.labels = tuple(map(str, pipeline.classes_))

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Taken as they are: without softmax and calibration."""
        return self._pipeline.predict_proba(list(texts))

    def logits(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """What softmax turns into `probabilities` again."""
        return np.log(np.maximum(self.probabilities(texts), 1e-300))


TEXTS = ["my card is gone", "I lost my card", "card stolen on the train"]
TEXTS += ["send money to Lisbon", "how long does a transfer take", "the transfer failed"]


def fitted() -> SklearnModel:
    """A tiny example; a real one is fitted elsewhere and read from a file you trust."""
    pipeline = make_pipeline(TfidfVectorizer(), LogisticRegression())
    return SklearnModel(pipeline.fit(TEXTS, ["card_lost"] * 3 + ["transfer"] * 3))


if __name__ == "__main__":
    classifier = Classifier.load(fitted(), name="intent", threshold=0.6)
    for prediction in classifier(["where is my card", "what does it cost"]):
        print(prediction.label, round(prediction.score, 3), prediction.decision)
