"""Result records as JSON, column by column.

What `Prediction.as_dict` and orjson do one record at a time, in 3 µs each, takes 1 µs here: each field is written once
for the whole batch (orjson writes an array of numbers in one call), and a record is the join of its fields. The layout
is that of docs/reference/records.md; a property test holds it equal to the records made one at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from stream_classifier.model.predictions import Predictions, best_first
from stream_classifier.records import ACCEPTED, UNCERTAIN

__all__ = ["write_results"]

Column = Iterable[bytes]

# N: records, K: labels shown of each


def write_results(
    predictions: Predictions,
    *,
    classifier: str,
    task: str,
    model: Mapping[str, Any],
    topic: str,
    partition: int,
    offsets_N: Sequence[int],
    timestamps_N: Sequence[int | None],
    passthrough_N: Sequence[Mapping[str, Any]] | None = None,
) -> list[bytes]:
    """One JSON object for each prediction, none of them invalid; keys in the documented order."""
    if not len(predictions):
        return []
    source = orjson.dumps({"topic": topic, "partition": partition})[:-1]
    columns: list[Column] = [
        repeat(orjson.dumps({"classifier": classifier, "task": task})[:-1] + b","),
        *_prediction(predictions),
        repeat(b',"passthrough":'),
        repeat(b"{}") if passthrough_N is None else map(orjson.dumps, passthrough_N),
        repeat(b',"model":' + orjson.dumps(model) + b',"source":' + source + b',"offset":'),
        _items(offsets_N),
        repeat(b',"timestamp":'),
        _items(timestamps_N),
        repeat(b"}}"),
    ]
    return list(map(b"".join, zip(*columns, strict=False)))


def _prediction(predictions: Predictions) -> list[Column]:
    names = [orjson.dumps(label) for label in predictions.labels]
    accepted = predictions.accepted_N.tolist()
    decisions = {True: f'"{ACCEPTED}"'.encode(), False: f'"{UNCERTAIN}"'.encode()}
    columns: list[Column] = [
        repeat(b'"label":'),
        [names[index] for index in predictions.label_indices_N.tolist()],
        repeat(b',"score":'),
        _floats(predictions.scores_N),
        repeat(b',"decision":'),
        [decisions[item] for item in accepted],
        repeat(b',"scores":['),
        *_scores(predictions, names),
        repeat(b"]"),
    ]
    if predictions.passing_NL is not None:
        columns += [repeat(b',"labels":['), _passing(predictions, predictions.passing_NL, names), repeat(b"]")]
    if predictions.task == "intent":
        columns.append([b',"requires_clarification":' + (b"false" if item else b"true") for item in accepted])
    if predictions.positive_index is not None:
        positive_N = predictions.probabilities_NL[:, predictions.positive_index]
        columns += [repeat(b',"sentiment_score":'), _floats(positive_N)]
    if predictions.truncated_N.any():
        columns.append([b',"truncated":true' if item else b"" for item in predictions.truncated_N.tolist()])
    return columns


def _scores(predictions: Predictions, names: Sequence[bytes]) -> Iterator[Column]:
    """The best `top_k` labels of each record, a few columns a rank."""
    order_NK = best_first(predictions.probabilities_NL, len(names) if predictions.top_k < 0 else predictions.top_k)
    scores_NK = np.take_along_axis(predictions.probabilities_NL, order_NK, axis=1)
    for rank in range(order_NK.shape[1]):
        yield repeat(b',{"label":' if rank else b'{"label":')
        yield [names[index] for index in order_NK[:, rank].tolist()]
        yield repeat(b',"score":')
        yield _floats(scores_NK[:, rank])
        yield repeat(b"}")


def _passing(predictions: Predictions, passing_NL: NDArray[np.bool_], names: Sequence[bytes]) -> Column:
    """The labels of each record that reach their threshold, best first."""
    order_NL = best_first(predictions.probabilities_NL, len(names))
    rows, ranks = np.nonzero(np.take_along_axis(passing_NL, order_NL, axis=1))
    indices = order_NL[rows, ranks]
    scores = _floats(predictions.probabilities_NL[rows, indices])
    labels = [names[index] for index in indices.tolist()]
    entries = [b'{"label":%b,"score":%b}' % entry for entry in zip(labels, scores, strict=True)]
    ends = np.cumsum(passing_NL.sum(axis=1)).tolist()
    return [b",".join(entries[start:end]) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _floats(values_N: NDArray[np.float64]) -> list[bytes]:
    if not len(values_N):
        return []
    return orjson.dumps(np.ascontiguousarray(values_N), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")


def _items(values_N: Sequence[int | None]) -> list[bytes]:
    return orjson.dumps(values_N)[1:-1].split(b",")
