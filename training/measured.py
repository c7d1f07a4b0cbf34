"""What a model directory keeps of the rows it was measured on: logits and truth, and what is known of the data.

Report and card are made from it, and made anew when calibration or thresholds change, without running the model again.
No text is in it, and loading a model does not read it.

    N texts, L labels.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from stream_classifier.errors import ConfigError
from stream_classifier.model.decision import Decider
from stream_classifier.model.directory import ModelDirectory
from stream_classifier.model.publish import file_aside
from training.answers import Answers, one_hot
from training.baseline import Baseline
from training.comparison import Difference
from training.rejection import Outside

if TYPE_CHECKING:
    from training.parts import Parts

__all__ = ["MEASURED_NAME", "DataSummary", "Measured", "PartSummary", "decide_again", "map_logits", "read_measured"]

MEASURED_NAME = "measured.npz"
_SCHEMA = 1
_ARRAYS = ("logits_NL", "true_NL", "lengths_N", "truncated_N")


@dataclass(frozen=True, slots=True)
class PartSummary:
    """Rows of one kind: how many, how many of each label, and how many of the file were left out."""

    n: int
    labels: Mapping[str, int]
    num_skipped: int = 0


@dataclass(frozen=True, slots=True)
class DataSummary:
    """The data of a fit.

    Attributes:
        parts: by "train", "validation" and "test", as divided; whichever are known.
        tokens: of the training texts: "median", "p95", "max", "share_over", "unknown_share", "max_length"; maybe empty.
        findings: of the data check, the gravest first: objects of `data check --json`.
    """

    parts: Mapping[str, PartSummary] = field(default_factory=dict)
    tokens: Mapping[str, Any] = field(default_factory=dict)
    findings: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def of(cls, parts: Parts) -> DataSummary:
        """What the rows of a fit are, after they were divided, and what was found in their files."""
        found = parts.inspection.as_dict()
        divided = {"train": parts.train, "validation": parts.validation, "test": parts.test}
        return cls(
            {
                name: PartSummary(len(table), dict(table.label_counts()), found["skipped"].get(name, 0))
                for name, table in divided.items()
                if table is not None
            },
            found["tokens"],
            tuple(found["findings"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The rows of the figures.

    Attributes:
        answers: the model's; after reading them back undecided, see `decide_again`.
        measured_on: "test", "validation", or the name of a file.
        data: what the model was made from; empty where it is not known.
        baseline: a tf-idf model on the same rows, where there is one.
        outside: the answers to those of the rows that have the out-of-scope label, where there are any; undecided too.
    """

    answers: Answers
    measured_on: str
    data: DataSummary = field(default_factory=DataSummary)
    baseline: Baseline | None = None
    outside: Outside | None = None

    def write(self, directory: Path) -> None:
        """Writes measured.npz; a reader never sees half of it."""
        a = self.answers
        about = {
            "schema": _SCHEMA,
            "labels": list(a.labels),
            "problem_type": a.problem_type,
            "length_unit": a.length_unit,
            "measured_on": self.measured_on,
            "parts": {name: [part.n, dict(part.labels), part.num_skipped] for name, part in self.data.parts.items()},
            "tokens": dict(self.data.tokens),
            "findings": [dict(finding) for finding in self.data.findings],
            "baseline": None if self.baseline is None else _baseline_as_json(self.baseline),
        }
        arrays = {name: getattr(a, name) for name in _ARRAYS}
        if self.outside is not None:
            about["out_of_scope_label"] = self.outside.label
            arrays |= {f"outside_{name}": getattr(self.outside.answers, name) for name in _ARRAYS}
        stored = np.frombuffer(json.dumps(about, allow_nan=False).encode(), np.uint8)
        with file_aside(directory / MEASURED_NAME) as aside:
            np.savez_compressed(aside, about=stored, **arrays)


def read_measured(directory: Path) -> Measured | None:
    """The measured rows of a model directory, None where there are none.

    Raises:
        ConfigError: the file cannot be read.
    """
    path = directory / MEASURED_NAME
    if not path.is_file():
        return None
    try:
        # Opened here: numpy leaves a file that is no archive open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            about = json.loads(stored["about"].tobytes())
            outside_label = about.get("out_of_scope_label")
            prefixes = [""] if outside_label is None else ["", "outside_"]
            arrays = [{name: stored[f"{prefix}{name}"] for name in _ARRAYS} for prefix in prefixes]
        if about["schema"] != _SCHEMA:
            raise ValueError(f"schema is {about['schema']!r}, this version reads {_SCHEMA}")
        answers, *outside = (_undecided(about, found) for found in arrays)
        return Measured(
            answers=answers,
            outside=Outside(outside_label, outside[0]) if outside else None,
            measured_on=about["measured_on"],
            data=DataSummary(
                {name: PartSummary(*part) for name, part in about["parts"].items()},
                about["tokens"],
                tuple(about["findings"]),
            ),
            baseline=None if about["baseline"] is None else _baseline_from_json(about["baseline"]),
        )
    except (OSError, ValueError, KeyError, TypeError, BadZipFile) as error:
        fix = "remove it, and give stream-training report the labelled rows"
        raise ConfigError(f"{path}: it cannot be read ({error}); {fix}") from error


def map_logits(directory: Path, change: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> None:
    """Replaces the logits `[N, L]` of the measured rows of a directory, where there are any, by what `change` makes."""
    measured = read_measured(directory)
    if measured is None:
        return
    answers, outside = measured.answers, measured.outside
    answers = replace(answers, logits_NL=change(answers.logits_NL))
    if outside is not None:
        outside = replace(outside, answers=replace(outside.answers, logits_NL=change(outside.answers.logits_NL)))
    replace(measured, answers=answers, outside=outside).write(directory)


def _undecided(about: Mapping[str, Any], arrays: Mapping[str, Any]) -> Answers:
    num_texts, shape = len(arrays["lengths_N"]), arrays["logits_NL"].shape
    if not num_texts or shape != (num_texts, len(about["labels"])) or shape != arrays["true_NL"].shape:
        raise ValueError(f"its arrays do not belong together: {shape}, {arrays['true_NL'].shape}")
    return Answers(
        labels=tuple(about["labels"]),
        problem_type=about["problem_type"],
        length_unit=about["length_unit"],
        p_NL=np.zeros(shape),
        predicted_NL=np.zeros(shape, np.bool_),
        scores_N=np.zeros(num_texts),
        accepted_N=np.zeros(num_texts, np.bool_),
        **arrays,
    )


def decide_again(measured: Measured, model: ModelDirectory) -> Measured:
    """The same logits under the calibration and thresholds that the directory has now.

    The baseline is left out when labels differ from those it was compared with: it cannot be compared again.

    Raises:
        ConfigError: the directory has other labels.
    """
    a = measured.answers
    if (a.labels, a.problem_type) != (model.labels, model.problem_type):
        raise ConfigError(
            f"{model.path / MEASURED_NAME}: it is of a model with other labels; remove it, and give stream-training "
            "report the labelled rows"
        )
    thresholds = None if model.manifest is None else model.manifest.thresholds
    decider = Decider(
        model.labels,
        model.problem_type,
        positive_label=None if model.manifest is None else model.manifest.positive_label,
        operating_point=None if thresholds is None else thresholds.operating_point,
        model_threshold=None if thresholds is None else thresholds.default,
        model_thresholds=None if thresholds is None else thresholds.labels,
        rejection=None if thresholds is None or thresholds.rejection is None else thresholds.rejection.model_dump(),
    )
    answers = _decided(a, decider, model)
    baseline, outside = measured.baseline, measured.outside
    if baseline is not None and abs(baseline.accuracy.first - float(answers.correct_N.mean())) > 1e-9:
        baseline = None
    if outside is not None:
        outside = replace(outside, answers=_decided(outside.answers, decider, model))
    return replace(measured, answers=answers, baseline=baseline, outside=outside)


def _decided(a: Answers, decider: Decider, model: ModelDirectory) -> Answers:
    decided = decider.decide(model.calibration.probabilities(a.logits_NL), a.truncated_N, a.logits_NL)
    predicted_NL = decided.passing_NL
    if predicted_NL is None:
        predicted_NL = one_hot(decided.label_indices_N, len(model.labels))
    return replace(
        a,
        p_NL=decided.probabilities_NL,
        predicted_NL=predicted_NL,
        scores_N=decided.scores_N,
        accepted_N=decided.accepted_N,
    )


def _baseline_as_json(baseline: Baseline) -> dict[str, Any]:
    return {
        "trained_on": baseline.trained_on,
        "num_train": baseline.num_train,
        "accuracy": baseline.accuracy.as_dict(),
        "macro_f1": baseline.macro_f1.as_dict(),
        "p_value": baseline.p_value,
    }


def _baseline_from_json(stored: Mapping[str, Any]) -> Baseline:
    accuracy, macro_f1 = (
        Difference(d["first"], d["second"], d["difference"], (d["interval"][0], d["interval"][1]))
        for d in (stored["accuracy"], stored["macro_f1"])
    )
    return Baseline(stored["trained_on"], stored["num_train"], accuracy, macro_f1, stored["p_value"])
