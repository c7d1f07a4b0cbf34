"""`reference` of classifier.json: what the finished model says of rows, and nothing that it does not say any more."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import training
from stream_classifier import Classifier
from stream_classifier.model.calibration import MULTI_LABEL, SINGLE_LABEL
from stream_classifier.model.manifest import read_json_object
from stream_classifier.model.protocols import TokenBatch
from tests.plugins.answers import answers_of
from tests.plugins.models import make_directory
from tests.plugins.tables import make_telling_directory, random_texts, write_honest_rows, write_rows
from training import Costs, Goal
from training.reference import reference_of, without_stale_answers

UNKNOWN = 7
PRECISE = Goal(precision=0.6)


def reference(model: Path) -> Any:
    return read_json_object(model / "classifier.json")["reference"]


def test_values_are_counted_up_to_each_bound() -> None:
    logits_N2 = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    answers = answers_of(logits_N2, np.array([0, 0, 1, 1, 0]))
    answers = replace(answers, scores_N=np.array([0.95, 0.951, 0.5, 0.8, 1.0]))
    tokens = TokenBatch.from_lists(
        [[1, 2], [1, UNKNOWN, 5, 2], [1, 5, 5, UNKNOWN, 2], [1, *[5] * 14, 2], [1] * 9000],
        [False, False, True, False, False],
    )
    found = reference_of(answers, tokens, unknown_id=UNKNOWN, rows="here")
    assert (found["rows"], found["n"]) == ("here", 5)
    assert found["labels"] == {answers.labels[0]: 0.8, answers.labels[1]: 0.2}
    # 0.5 is in (0.45, 0.5], 0.8 in (0.75, 0.8], 0.95 in (0.9, 0.95]; two are above
    assert found["scores"] == [0] * 9 + [1] + [0] * 5 + [1] + [0, 0] + [1, 2]
    assert found["lengths"] == {
        "bounds": [4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192],
        "counts": [2, 1, 1, *[0] * 9, 1],
        "truncated": 0.2,
    }
    assert found["unknown_tokens"] == 2 / (2 + 4 + 5 + 16 + 9000)
    assert reference_of(answers, tokens, unknown_id=None, rows="here")["unknown_tokens"] == 0


def test_the_scores_are_those_of_numpys_histogram() -> None:
    logits_NL = np.random.default_rng(0).normal(scale=3, size=(500, 3))
    answers = answers_of(logits_NL, np.zeros(500, dtype=np.intp))
    tokens = TokenBatch.from_lists([[1, 2]] * 500, [False] * 500)
    counts, _ = np.histogram(answers.scores_N, bins=20, range=(0, 1))
    assert reference_of(answers, tokens, unknown_id=None, rows="")["scores"] == counts.tolist()


def check(found: Any, model: Path, texts: list[str]) -> None:
    """That it is what the served model says of the texts."""
    classifier = Classifier.load(model)
    tokens, predictions = classifier.encode(texts), classifier(texts)
    counts, _ = np.histogram([p.score for p in predictions], bins=20, range=(0, 1))
    assert found["n"] == len(texts) == sum(found["scores"]) == sum(found["lengths"]["counts"])
    assert found["scores"] == counts.tolist()
    for label, share in found["labels"].items():
        given = [p.label == label if p.labels is None else label in dict(p.labels) for p in predictions]
        assert share == pytest.approx(np.mean(given))
    assert found["lengths"]["truncated"] == pytest.approx(tokens.truncated_N.mean())


def test_a_fit_writes_what_the_model_it_made_says_of_the_validation_rows(tmp_path: Path) -> None:
    texts = [*random_texts(119, seed=3), "shares fell " * 40]
    rows = {name: write_rows(tmp_path / f"{name}.csv", texts[part], [("x", "y")[len(t) % 2] for t in texts[part]])
            for name, part in (("train", slice(0, 60)), ("v", slice(60, 120)), ("test", slice(0, 20)))}  # fmt: skip
    base = make_directory(tmp_path / "base", labels=("x", "y"))
    settings = training.FitSettings(base=str(base), epochs=1, max_length=32, dtype="float32", golden_texts=("a match",))
    found = []
    for name, test in (("one", None), ("two", rows["test"])):
        fitted = training.fit(rows["train"], tmp_path / name, settings=settings, validation=rows["v"], test=test)
        found.append(reference(fitted.path))
        check(found[-1], fitted.path, texts[60:])
    assert found[0] == found[1], "whatever the figures are measured on"
    assert found[0]["rows"] == "validation"
    assert found[0]["lengths"]["truncated"] == pytest.approx(1 / 60)
    assert 0 < found[0]["unknown_tokens"] < 0.5, "the numbers at their ends are not in the vocabulary"
    stored = json.dumps(found[0])
    assert not any(text in stored for text in texts)


def test_another_calibration_brings_its_own(tmp_path: Path) -> None:
    old = {"rows": "validation", "n": 3, "scores": [3] + [0] * 19}
    model = make_telling_directory(tmp_path / "model", content={"reference": old})
    rows = write_honest_rows(tmp_path / "rows.csv", model, temperature=2.5)
    training.calibrate(model, rows, method="temperature")
    first = reference(model)
    assert first["rows"] == "rows.csv"
    check(first, model, random_texts(600, seed=1))
    training.calibrate(model, rows, method="none", priors={"sport": 0.9})
    assert reference(model)["scores"] != first["scores"]
    check(reference(model), model, random_texts(600, seed=1))

    before = reference(model)
    training.thresholds(model, rows, PRECISE)
    training.export(model, tmp_path / "copy", fold_calibration=True)
    assert reference(model) == reference(tmp_path / "copy") == before, "the answers are the same"


def test_several_labels_a_text_are_counted_each(tmp_path: Path) -> None:
    labels, texts = ("joy", "anger", "fear"), random_texts(300, seed=2)
    model = make_telling_directory(tmp_path / "model", content={}, labels=labels, problem_type=MULTI_LABEL)
    drawn_NL = np.random.default_rng(0).random((300, 3)) < 0.4
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(
        json.dumps({"text": text, "labels": [label for label, is_true in zip(labels, row, strict=True) if is_true]})
        for text, row in zip(texts, drawn_NL.tolist(), strict=True)))  # fmt: skip
    training.calibrate(model, rows, method="temperature")
    before = reference(model)
    check(before, model, texts)
    training.thresholds(model, rows, Goal(f1=True, per_label=True))
    assert reference(model) == {key: value for key, value in before.items() if key != "labels"}


def test_an_operating_point_leaves_nothing_of_the_labels_before(tmp_path: Path) -> None:
    model = make_telling_directory(tmp_path / "model", content={}, labels=("ham", "spam"))
    rows = write_honest_rows(tmp_path / "rows.csv", model, temperature=1.5)
    training.calibrate(model, rows, method="temperature")
    before = reference(model)
    training.thresholds(model, rows, Goal(costs=Costs(10, 1, 0.5)), positive_label="spam")
    assert reference(model) == {key: before[key] for key in ("rows", "n", "lengths", "unknown_tokens")}
    training.calibrate(model, rows, method="temperature")
    assert reference(model) == before


def point(at: float, label: str = "spam") -> dict[str, Any]:
    return {"positive_label": label, "thresholds": {"operating_point": at}}


@pytest.mark.parametrize(
    ("problem_type", "before", "after", "left"),
    [
        (SINGLE_LABEL, {}, {"thresholds": {"default": 0.7, "labels": {"a": 0.8}}}, "labels scores lengths"),
        (SINGLE_LABEL, point(0.3), point(0.3), "labels scores lengths"),
        (SINGLE_LABEL, point(0.3), point(0.4), "lengths"),
        (SINGLE_LABEL, point(0.3), point(0.3, "ham"), "lengths"),
        (SINGLE_LABEL, point(0.3), {"thresholds": {"default": 0.5}}, "lengths"),
        (MULTI_LABEL, {"thresholds": None}, {"thresholds": {"default": 0.7}}, "scores lengths"),
        (MULTI_LABEL, {}, {"thresholds": {"labels": {"a": 0.8}}}, "scores lengths"),
        (MULTI_LABEL, {"thresholds": {"labels": {}}}, {"thresholds": {"tuned_for": 1}}, "labels scores lengths"),
    ],
)
def test_what_other_thresholds_make_untrue_goes(
    problem_type: str, before: dict[str, Any], after: dict[str, Any], left: str
) -> None:
    kept: dict[str, Any] = {"reference": {"labels": {}, "scores": [], "lengths": {}}}
    new = without_stale_answers({**after, **kept}, {**before, **kept}, problem_type=problem_type)
    assert " ".join(new["reference"]) == left
    assert {**new, **kept} == {**after, **kept}, "nothing else is touched"
    assert without_stale_answers(after, before, problem_type=problem_type) == after, "nor anything where there is none"
