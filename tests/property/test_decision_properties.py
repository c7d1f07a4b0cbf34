"""Decisions of a batch are those of its texts one at a time, read word by word from the contract."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stream_classifier.model.calibration import MULTI_LABEL, SINGLE_LABEL
from stream_classifier.model.decision import Decider

# Few values, so that ties and scores equal to a threshold are common.
probability = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), st.floats(0.0, 1.0))


@st.composite
def deciders(draw) -> tuple[Decider, dict]:
    num_labels = draw(st.just(2) | st.integers(3, 30))
    labels = [f"l{i}" for i in range(num_labels)]
    problem_type = draw(st.sampled_from([SINGLE_LABEL, MULTI_LABEL]))
    task = draw(st.sampled_from(["free", "intent", "sentiment"]))
    settings = {
        "task": task,
        "top_k": draw(st.integers(-1, 32)),
        "positive_label": draw(st.sampled_from(labels)) if task == "sentiment" else "l1",
        "thresholds": draw(st.dictionaries(st.sampled_from(labels), probability)),
        "threshold": draw(st.none() | probability),
        "rejection": draw(st.none() | st.builds(lambda p: {"score": "max_prob", "threshold": p}, probability)),
    }
    if num_labels == 2 and problem_type == SINGLE_LABEL:
        settings["operating_point"] = draw(st.none() | probability)
    return Decider(labels, problem_type, **settings), {"labels": labels, "problem_type": problem_type, **settings}


def by_the_contract(row: list[float], truncated: bool, rules: dict) -> dict:
    """The documented rules for one text, in the plainest Python."""
    if not all(map(math.isfinite, row)):
        return {}
    labels = rules["labels"]
    multi_label = rules["problem_type"] == MULTI_LABEL
    default = rules["threshold"] if rules["threshold"] is not None else 0.5 if multi_label else 0.0
    threshold = {label: rules["thresholds"].get(label, default) for label in labels}
    ranked = sorted(zip(labels, row, strict=True), key=lambda entry: -entry[1])
    scores = [{"label": label, "score": score} for label, score in ranked]
    label, score = ranked[0]
    if rules.get("operating_point") is not None:
        positive = labels.index(rules["positive_label"])
        index = positive if row[positive] >= rules["operating_point"] else 1 - positive
        label, score = labels[index], row[index]
    passing = [entry for entry in scores if entry["score"] >= threshold[entry["label"]]]
    accepted = bool(passing) if multi_label else score >= threshold[label]
    if rules["rejection"] is not None:
        accepted = accepted and max(row) >= rules["rejection"]["threshold"]
    shown = scores if rules["top_k"] == -1 else scores[: rules["top_k"]]
    result = {"label": label, "score": score, "decision": "accepted" if accepted else "uncertain", "scores": shown}
    if multi_label:
        result["labels"] = passing
    if rules["task"] == "intent":
        result["requires_clarification"] = not accepted
    if rules["task"] == "sentiment":
        result["sentiment_score"] = row[labels.index(rules["positive_label"])]
    if truncated:
        result["truncated"] = True
    return result


@given(st.data())
def test_a_batch_is_decided_as_its_texts_one_by_one(data):
    decider, rules = data.draw(deciders())
    value = st.one_of(probability, st.just(math.nan)) if data.draw(st.booleans()) else probability
    num_labels = len(rules["labels"])
    rows = data.draw(st.lists(st.lists(value, min_size=num_labels, max_size=num_labels), max_size=6))
    truncated = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    predictions = decider.decide(np.array(rows).reshape(len(rows), num_labels), truncated)

    expected = [by_the_contract(row, cut, rules) for row, cut in zip(rows, truncated, strict=True)]
    dicts = predictions.as_dicts()
    assert dicts == expected
    assert [list(row) for row in dicts] == [list(row) for row in expected]  # the order of the keys
    valid = predictions.take(~predictions.invalid_N)
    assert [prediction.as_dict() for prediction in valid] == [row for row in expected if row]
    assert [valid[i] for i in range(len(valid))] == list(valid)
