"""Is BERT worth it? What words and letters alone tell: tf-idf with a linear model, trained in seconds."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline, make_pipeline, make_union
from sklearn.svm import LinearSVC

from stream_classifier.errors import ConfigError
from training.answers import Answers, one_hot, truth
from training.comparison import Difference, compare_predictions, is_decided
from training.data import Table, labels_of

__all__ = ["Baseline", "baseline_pipeline", "cross_validate_baseline", "has_words", "measure_baseline"]

logger = logging.getLogger(__name__)

_MANY_ROWS = 1000


@dataclass(frozen=True, slots=True)
class Baseline:
    """The baseline on the rows of an evaluation.

    Attributes:
        trained_on: where its training rows are from.
        num_train: how many there are.
        accuracy, macro_f1: the model's (first) against the baseline's (second), in shares.
        p_value: of McNemar's test, whether they are equally accurate.
    """

    trained_on: str
    num_train: int
    accuracy: Difference
    macro_f1: Difference
    p_value: float

    @property
    def decided(self) -> bool:
        """Whether one of the two is the more accurate one."""
        return is_decided(self.accuracy, self.p_value)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the baseline's own figures, and the differences."""
        return {
            "name": "tf-idf + linear SVM",
            "trained_on": self.trained_on,
            "num_train": self.num_train,
            "accuracy": self.accuracy.second,
            "macro_f1": self.macro_f1.second,
            "accuracy_difference": self.accuracy.difference,
            "accuracy_difference_interval": list(self.accuracy.interval),
            "macro_f1_difference": self.macro_f1.difference,
            "macro_f1_difference_interval": list(self.macro_f1.interval),
            "mcnemar_p": self.p_value,
        }


def baseline_pipeline(num_rows: int, *, multi_label: bool = False) -> Pipeline:
    """Words and pairs of words, and 2 to 5 letters within words, by tf-idf; a linear support vector machine a label."""
    rare = 2 if num_rows >= _MANY_ROWS else 1
    features = make_union(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b", dtype=np.float32),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, min_df=rare, dtype=np.float32),
    )
    linear = LinearSVC(random_state=0)
    return make_pipeline(features, OneVsRestClassifier(linear) if multi_label else linear)


def has_words(train: Table) -> bool:
    """Whether there is anything that the baseline could learn from."""
    return any(re.search(r"\w", text) for text in train.texts)


def measure_baseline(train: Table, texts: list[str], answers: Answers) -> Baseline:
    """Trains the baseline on `train` and holds it against `answers`, a model's to `texts`. Blocks for seconds.

    Raises:
        ConfigError: rows to train on that have a label the model lacks, only one label, or no word in them.
    """
    logger.info("the tf-idf baseline learns from %d rows", len(train))
    return _compared(train.source, len(train), answers, _predicted(train, texts, answers))


def cross_validate_baseline(table: Table, fold_N: NDArray[np.intp], answers: Answers) -> Baseline:
    """The same out of fold: each row of `table` by a baseline trained on the other folds. Blocks for seconds.

    Args:
        table, fold_N: N rows, and the fold of each.
        answers: a model's, out of the same folds.

    Raises:
        ConfigError: as `measure_baseline`, of a fold.
    """
    num_folds = int(fold_N.max()) + 1
    logger.info("the tf-idf baseline learns from %d folds", num_folds)
    predicted_NL = np.zeros_like(answers.predicted_NL)
    for fold in range(num_folds):
        train, held_out = np.flatnonzero(fold_N != fold).tolist(), np.flatnonzero(fold_N == fold)
        texts = [table.texts[i] for i in held_out]
        predicted_NL[held_out] = _predicted(table.take(train, table.source), texts, answers)
    return _compared(table.source, round(len(table) * (1 - 1 / num_folds)), answers, predicted_NL)


def _predicted(train: Table, texts: list[str], answers: Answers) -> NDArray[np.bool_]:
    labels_of(train)
    true_NL = truth(train, answers.labels)
    pipeline = baseline_pipeline(len(train), multi_label=answers.multi_label)
    try:
        pipeline.fit(train.texts, true_NL if answers.multi_label else true_NL.argmax(axis=1))
    except ValueError as error:
        raise ConfigError(f"{train.source}: the baseline finds no words in its texts ({error}); check it") from error
    given = pipeline.predict(texts)
    return np.asarray(given, np.bool_) if answers.multi_label else one_hot(given, len(answers.labels))


def _compared(source: str, num_train: int, answers: Answers, predicted_NL: NDArray[np.bool_]) -> Baseline:
    accuracy, macro_f1, p_value = compare_predictions(answers.true_NL, answers.predicted_NL, predicted_NL)
    return Baseline(source, num_train, accuracy, macro_f1, p_value)
