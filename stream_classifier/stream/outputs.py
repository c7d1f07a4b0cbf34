"""What a record batch becomes: results, routed copies and dead letters, as shipments in the order of their sources.

Runs off the event loop, once a batch. The letter of the records is in docs/reference/records.md.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import numpy as np

from stream_classifier.codecs import Codec
from stream_classifier.errors import RecordError
from stream_classifier.model.predictions import Predictions
from stream_classifier.records import Header, OutputRecord, SourceRecord, result_record
from stream_classifier.stream.dead_letter import envelope, source_timestamp
from stream_classifier.stream.delivery import Placement, Shipment
from stream_classifier.stream.json_results import write_results

__all__ = ["Failures", "Route", "dead_letters", "results"]

_NO_HEADERS: list[Header] = []


@dataclass(frozen=True)
class Route:
    """Where one classifier's outputs go, and what is the same in all of its results.

    Attributes:
        classifier, task: names, as in the result.
        model: the result's "model" object.
        sink: the topic of all results.
        uncertain: the topic of copies of uncertain results, if any.
        labels: label → topic of copies of results with that label.
        dead_letter: the topic of records without a result.
        codec: writes the results.
    """

    classifier: str
    task: str
    model: Mapping[str, Any]
    sink: str
    dead_letter: str
    codec: Codec
    uncertain: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def topics(self) -> set[str]:
        """All topics this classifier writes to."""
        return {self.sink, self.dead_letter, *([self.uncertain] if self.uncertain else []), *self.labels.values()}


def results(
    route: Route,
    placement: Placement,
    sources: list[SourceRecord],
    predictions: Predictions,
    passthrough: Sequence[Mapping[str, Any]] | None,
) -> tuple[list[Shipment], dict[int, RecordError]]:
    """Shipments of one classifier's results and their routed copies.

    Args:
        sources: the records that have a prediction, all of one partition, in order.
        predictions: one for each source.
        passthrough: one object for each source, or None.

    Returns:
        The shipments, and row → error of results that the codec could not write; those rows are in no shipment.
    """
    if not sources:
        return [], {}
    values, failed = _encode(route, sources, predictions, passthrough)
    timestamps = [source_timestamp(source) for source in sources]
    headers = [list(source.headers) if source.headers else _NO_HEADERS for source in sources]
    keys = [source.key for source in sources]
    records: list[OutputRecord] = list(zip(keys, values, timestamps, headers, strict=True))
    if failed:
        kept = [row for row in range(len(sources)) if row not in failed]
        sources, records = [sources[row] for row in kept], [records[row] for row in kept]
        predictions = predictions.take(kept)
    if not sources:
        return [], failed
    shipments = _place(route, placement, route.sink, sources, records)
    for topic, rows in _copies(route, predictions).items():
        shipments += _place(route, placement, topic, [sources[i] for i in rows], [records[i] for i in rows])
    return shipments, failed


def _encode(
    route: Route,
    sources: list[SourceRecord],
    predictions: Predictions,
    passthrough: Sequence[Mapping[str, Any]] | None,
) -> tuple[list[bytes], dict[int, RecordError]]:
    """The results' values; b"" where the codec could not write one."""
    topic, partition = sources[0].topic, sources[0].partition
    if route.codec.writes_json:
        with contextlib.suppress(TypeError):  # JSON cannot hold some passthrough: `encode` then says which record's
            return write_results(
                predictions,
                classifier=route.classifier,
                task=route.task,
                model=route.model,
                topic=topic,
                partition=partition,
                offsets_N=[source.offset for source in sources],
                timestamps_N=[source_timestamp(source) for source in sources],
                passthrough_N=passthrough,
            ), {}
    values: list[bytes] = []
    failed: dict[int, RecordError] = {}
    for row, (source, prediction) in enumerate(zip(sources, predictions.as_dicts(), strict=True)):
        result = result_record(
            prediction,
            classifier=route.classifier,
            task=route.task,
            model=route.model,
            source={
                "topic": topic,
                "partition": partition,
                "offset": source.offset,
                "timestamp": source_timestamp(source),
            },
            passthrough=None if passthrough is None else passthrough[row],
        )
        try:
            values.append(route.codec.encode(result))
        except RecordError as error:
            failed[row] = error
            values.append(b"")
    return values, failed


def _copies(route: Route, predictions: Predictions) -> dict[str, list[int]]:
    """Route topic → the rows that get a copy there, in order."""
    copies: dict[str, list[int]] = {}
    if route.uncertain is not None:
        copies[route.uncertain] = np.flatnonzero(~predictions.accepted_N).tolist()
    for label, topic in route.labels.items():
        if label in predictions.labels:
            labelled = np.flatnonzero(predictions.label_indices_N == predictions.labels.index(label)).tolist()
            copies[topic] = sorted({*copies.get(topic, ()), *labelled})
    return {topic: rows for topic, rows in copies.items() if rows}


@dataclass
class Failures:
    """Why records of a batch have no result: one entry a record and stage, with all classifiers it concerns."""

    _entries: dict[tuple[int, str, str], tuple[RecordError, list[str]]] = field(default_factory=dict)

    def add(self, row: int, error: RecordError, route: Route) -> None:
        """The record at `row` of the batch gave this classifier no result."""
        entry = self._entries.setdefault((row, error.stage, route.dead_letter), (error, []))
        entry[1].append(route.classifier)

    def __iter__(self) -> Iterator[tuple[int, str, RecordError, list[str]]]:
        """(row, dead-letter topic, error, classifiers), by row."""
        for (row, _, topic), (error, classifiers) in sorted(self._entries.items(), key=itemgetter(0)):
            yield row, topic, error, classifiers

    def __bool__(self) -> bool:
        return bool(self._entries)


def dead_letters(failures: Failures, sources: Sequence[SourceRecord], placement: Placement) -> list[Shipment]:
    """Shipments of the dead letters of one record batch, in the order of their sources."""
    shipments: list[Shipment] = []
    for row, topic, error, classifiers in failures:
        source = sources[row]
        partition = placement.of(topic, source)
        shipments.append(Shipment(topic, partition, [envelope(source, error, classifiers)], [source], None, topic))
    return shipments


def _place(
    route: Route, placement: Placement, topic: str, sources: list[SourceRecord], records: list[OutputRecord]
) -> list[Shipment]:
    """Records to the partitions of a topic, keeping their order in each."""
    fixed = placement.fixed(topic, sources[0].partition)
    if fixed is not None:
        return [Shipment(topic, fixed, records, sources, route.classifier, route.dead_letter)]
    shipments: dict[int, Shipment] = {}
    for source, record in zip(sources, records, strict=True):
        partition = placement.of(topic, source)
        shipment = shipments.get(partition)
        if shipment is None:
            shipment = Shipment(topic, partition, [], [], route.classifier, route.dead_letter)
            shipments[partition] = shipment
        shipment.records.append(record)
        shipment.sources.append(source)
    return list(shipments.values())
