"""`compare`: whether one model is better than another on the same rows, by paired bootstrap and McNemar's test.

N texts, L labels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from stream_classifier.errors import ConfigError
from stream_classifier.model.classifier import Classifier
from training.answers import Answers, answer_table
from training.data import Columns
from training.intervals import Interval, bootstrap_interval
from training.reading import find_part, read_original_rows
from training.rejection import in_scope

__all__ = [
    "Comparison",
    "Difference",
    "compare",
    "compare_answers",
    "compare_predictions",
    "is_decided",
    "macro_f1_interval",
    "mcnemar",
    "paired_difference",
]

_P_VALUE = 0.05


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure of two models on the same rows.

    Attributes:
        first, second: the figure of each.
        difference: first - second.
        interval: 95 %, by paired bootstrap.
    """

    first: float
    second: float
    difference: float
    interval: Interval

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @property
    def decided(self) -> bool:
        """Whether the interval leaves out 0."""
        return not self.interval[0] <= 0 <= self.interval[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two models on the same rows; every difference is first - second, with a 95 % interval by paired bootstrap.

    Attributes:
        first, second: their names.
        n: rows.
        accuracy, macro_f1: higher is better; shares.
        nll, brier: lower is better.
        coverage: share of texts accepted, by the thresholds in use.
        only_first, only_second: rows that just one of them has right.
        agreement: share of rows with the same labels.
        p_value: McNemar's: how likely a split so uneven is, were they equally accurate.
    """

    first: str
    second: str
    n: int
    accuracy: Difference
    macro_f1: Difference
    nll: Difference
    brier: Difference
    coverage: Difference
    only_first: int
    only_second: int
    agreement: float
    p_value: float

    def as_dict(self) -> dict[str, Any]:
        """The JSON object of `--json`."""
        return {**asdict(self), "better": self.better}

    @property
    def better(self) -> str | None:
        """The more accurate one's name; None where these rows cannot tell."""
        if not is_decided(self.accuracy, self.p_value):
            return None
        return self.first if self.accuracy.difference > 0 else self.second


def is_decided(accuracy: Difference, p_value: float) -> bool:
    """Whether one model is the more accurate one: by the interval and by McNemar's test.

    With few rows that only one has right a bootstrap is too sure: of 4 rows against none every resample has a winner.
    """
    return accuracy.decided and p_value < _P_VALUE


def compare(
    first: str | Path | Classifier,
    second: str | Path | Classifier,
    data: str | Path,
    *,
    columns: Columns | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> Comparison:
    """Measures two models on the same rows. Blocks.

    Args:
        first, second: model directories, Hub names or classifiers; with the same labels, in any order.
        data: a file, or a folder with a test file.
        columns, device, dtype: as for `evaluate`. Rows out of scope are left out.

    Raises:
        ConfigError: models with other labels or of another kind, or data that cannot be used.
    """
    table = read_original_rows(find_part(Path(data), "test"), columns)
    found = [model if isinstance(model, Classifier) else Classifier.load(model, device=device, dtype=dtype)
             for model in (first, second)]  # fmt: skip
    names = [model.name if isinstance(model, Classifier) else str(model) for model in (first, second)]
    if set(found[0].labels) != set(found[1].labels) or found[0].problem_type != found[1].problem_type:
        odd = sorted(set(found[0].labels) ^ set(found[1].labels))
        what = f"the label {odd[0]!r} is one of only one of them" if odd else "one gives several labels a text"
        raise ConfigError(f"{names[0]} and {names[1]} answer different questions: {what}; compare models of one task")
    for model in (first, second):
        if not isinstance(model, Classifier):
            table = in_scope(table, model)
    answers = [answer_table(classifier, table) for classifier in found]
    return compare_answers(answers[0], answers[1], first=names[0], second=names[1])


def compare_answers(a: Answers, b: Answers, *, first: str, second: str) -> Comparison:
    """Two models' answers to the same rows, whatever the order of their labels."""
    b = b.with_labels(a.labels)
    accuracy, macro_f1, p_value = compare_predictions(a.true_NL, a.predicted_NL, b.predicted_NL)
    return Comparison(
        first=first,
        second=second,
        n=len(a),
        accuracy=accuracy,
        macro_f1=macro_f1,
        nll=paired_difference(a.losses_N, b.losses_N),
        brier=paired_difference(a.brier_N, b.brier_N),
        coverage=paired_difference(a.accepted_N.astype(np.float64), b.accepted_N.astype(np.float64)),
        only_first=int((a.correct_N & ~b.correct_N).sum()),
        only_second=int((b.correct_N & ~a.correct_N).sum()),
        agreement=float((a.predicted_NL == b.predicted_NL).all(axis=1).mean()),
        p_value=p_value,
    )


def mcnemar(first_correct_N: NDArray[np.bool_], second_correct_N: NDArray[np.bool_]) -> float:
    """The p-value of McNemar's exact test: how likely so uneven a split of the texts that only one model gets right is,
    were both equally good.

    >>> only_first, only_second = np.array([True] * 9 + [False]), np.array([False] * 9 + [True])
    >>> round(mcnemar(only_first, only_second), 4)
    0.0215
    """
    only_first = int((first_correct_N & ~second_correct_N).sum())
    only_second = int((second_correct_N & ~first_correct_N).sum())
    if not only_first + only_second:
        return 1.0
    return float(stats.binomtest(only_first, only_first + only_second).pvalue)


def paired_difference(first_N: NDArray[np.float64], second_N: NDArray[np.float64]) -> Difference:
    """Of the mean of one value a row: correctness, log-likelihood and the like."""
    delta_N = first_N - second_N
    interval = bootstrap_interval(lambda weights_RN: weights_RN @ delta_N / len(delta_N), len(delta_N))
    return Difference(float(first_N.mean()), float(second_N.mean()), float(delta_N.mean()), interval)


def compare_predictions(
    true_NL: NDArray[np.bool_], first_NL: NDArray[np.bool_], second_NL: NDArray[np.bool_]
) -> tuple[Difference, Difference, float]:
    """Accuracy (of whole rows) and macro-F1 of two models, first against second; and McNemar's p-value."""
    first_correct_N, second_correct_N = (true_NL == first_NL).all(axis=1), (true_NL == second_NL).all(axis=1)
    accuracy = paired_difference(first_correct_N.astype(np.float64), second_correct_N.astype(np.float64))
    every_1N = np.ones((1, len(true_NL)))
    first, second = (float(_macro_f1(true_NL, given_NL, every_1N)[0]) for given_NL in (first_NL, second_NL))
    interval = bootstrap_interval(
        lambda weights_RN: _macro_f1(true_NL, first_NL, weights_RN) - _macro_f1(true_NL, second_NL, weights_RN),
        len(true_NL),
    )
    return accuracy, Difference(first, second, first - second, interval), mcnemar(first_correct_N, second_correct_N)


def macro_f1_interval(true_NL: NDArray[np.bool_], predicted_NL: NDArray[np.bool_]) -> Interval:
    """The 95 % interval of macro-F1, by bootstrap of the texts."""
    return bootstrap_interval(lambda weights_RN: _macro_f1(true_NL, predicted_NL, weights_RN), len(true_NL))


def _macro_f1(
    true_NL: NDArray[np.bool_], predicted_NL: NDArray[np.bool_], weights_RN: NDArray[np.float64]
) -> NDArray[np.float64]:
    """`[R]`, over the labels that are there or predicted."""
    hits_RL = weights_RN @ (true_NL & predicted_NL)
    total_RL = weights_RN @ true_NL + weights_RN @ predicted_NL
    with np.errstate(invalid="ignore"):
        f1_R: NDArray[np.float64] = np.nanmean(2 * hits_RL / total_RL, axis=1)
    return f1_R
