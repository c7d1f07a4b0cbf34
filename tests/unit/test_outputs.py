"""What a record batch becomes: results, routed copies and dead letters, each where it belongs and in order."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from stream_classifier.codecs import TextCodec
from stream_classifier.errors import RecordError
from stream_classifier.model.decision import Decider, Predictions
from stream_classifier.stream.delivery import Placement, Shipment
from stream_classifier.stream.outputs import Failures, Route, dead_letters, results
from tests.plugins.records import record

LABELS = ("ham", "spam")
SAME = Placement("texts", 4, {"labels": 4, "unsure": 4, "spam": 4, "texts.dead-letter": 4})
FEWER = Placement("texts", 4, {"labels": 3, "unsure": 3, "spam": 3, "texts.dead-letter": 3})


class PickyCodec(TextCodec):
    """Not JSON: so each result is encoded by itself, and some cannot be."""

    writes_json = False

    def encode(self, result: Mapping[str, Any]) -> bytes:
        if result["source"]["offset"] in (1, 4):
            raise RecordError("deliver", "Picky", "no")
        return super().encode(result)


def route(**options: Any) -> Route:
    given = {"dead_letter": "texts.dead-letter", "codec": TextCodec(), **options}
    return Route("spam-filter", "free", {"name": "m", "digest": None}, "labels", **given)


def predictions(*spam: float, threshold: float = 0.0) -> Predictions:
    """One for each probability of spam."""
    spam_N = np.array(spam)
    decider = Decider(LABELS, "single_label_classification", task="free", threshold=threshold, top_k=2)
    return decider.decide(np.stack([1 - spam_N, spam_N], axis=1).reshape(len(spam), 2), None)


def read(number: int, **options: Any) -> list[Any]:
    return [record(offset, key=b"k%d" % offset, partition=2, **options) for offset in range(number)]


def offsets(shipments: Sequence[Shipment], topic: str) -> list[int]:
    return [source.offset for shipment in shipments if shipment.topic == topic for source in shipment.sources]


def test_a_result_keeps_key_headers_and_timestamp_and_says_where_it_came_from() -> None:
    source = record(7, partition=2, key=b"customer", timestamp=1_700_000_000_123, headers=[("trace", b"1")])
    [shipment], failed = results(route(), SAME, [source], predictions(0.75), None)
    [(key, value, timestamp, headers)] = shipment.records
    assert (key, timestamp, headers) == (b"customer", 1_700_000_000_123, [("trace", b"1")])
    assert json.loads(value or b"") == {
        "classifier": "spam-filter",
        "task": "free",
        "label": "spam",
        "score": 0.75,
        "decision": "accepted",
        "scores": [{"label": "spam", "score": 0.75}, {"label": "ham", "score": 0.25}],
        "passthrough": {},
        "model": {"name": "m", "digest": None},
        "source": {"topic": "texts", "partition": 2, "offset": 7, "timestamp": 1_700_000_000_123},
    }
    assert (shipment.topic, shipment.partition, shipment.dead_letter) == ("labels", 2, "texts.dead-letter")
    assert failed == {}


def test_a_record_without_a_timestamp_gives_a_result_without_one() -> None:
    [shipment], _ = results(route(), SAME, [record(timestamp=-1)], predictions(0.5), None)
    assert shipment.records[0][2] is None
    assert json.loads(shipment.records[0][1] or b"")["source"]["timestamp"] is None


def test_passthrough_is_each_records_own() -> None:
    [shipment], _ = results(route(), SAME, read(3), predictions(0.1, 0.2, 0.3), [{"id": i} for i in range(3)])
    assert [json.loads(value or b"")["passthrough"] for _, value, _, _ in shipment.records] == [
        {"id": 0},
        {"id": 1},
        {"id": 2},
    ]


def test_routes_are_copies_beside_the_sink_and_independent_of_each_other() -> None:
    both = route(uncertain="unsure", labels={"spam": "spam", "no such label": "elsewhere"})
    shipments, _ = results(both, SAME, read(4), predictions(0.9, 0.6, 0.4, 0.1, threshold=0.7), None)
    assert offsets(shipments, "labels") == [0, 1, 2, 3]
    assert offsets(shipments, "unsure") == [1, 2]
    assert offsets(shipments, "spam") == [0, 1], "by label, accepted or not"
    assert {shipment.topic for shipment in shipments} == {"labels", "unsure", "spam"}
    sink = shipments[0].records
    assert [each for shipment in shipments[1:] for each in shipment.records] == [sink[1], sink[2], sink[0], sink[1]]


def test_a_topic_that_two_routes_name_gets_one_copy() -> None:
    both = route(uncertain="spam", labels={"spam": "spam"})
    shipments, _ = results(both, SAME, read(4), predictions(0.9, 0.6, 0.4, 0.1, threshold=0.7), None)
    assert offsets(shipments, "spam") == [0, 1, 2]


def test_a_route_that_nothing_goes_to_is_no_shipment() -> None:
    shipments, _ = results(route(uncertain="unsure", labels={"spam": "spam"}), SAME, read(1), predictions(0.1), None)
    assert [shipment.topic for shipment in shipments] == ["labels"]


def test_keys_choose_the_partition_where_the_counts_differ_and_keep_their_order() -> None:
    sources = read(50)
    shipments, _ = results(route(), FEWER, sources, predictions(*[0.5] * 50), None)
    assert len({shipment.partition for shipment in shipments}) == len(shipments) == 3
    for shipment in shipments:
        placed = [source for source in sources if FEWER.of("labels", source) == shipment.partition]
        assert shipment.sources == placed
        assert [key for key, _, _, _ in shipment.records] == [source.key for source in placed]


@pytest.mark.parametrize("placement", [SAME, FEWER])
def test_a_result_the_codec_cannot_write_is_in_no_topic_and_takes_none_along(placement: Placement) -> None:
    picky = route(codec=PickyCodec(), uncertain="unsure", labels={"spam": "spam"})
    shipments, failed = results(picky, placement, read(6), predictions(*[0.6] * 6, threshold=0.7), None)
    assert {row: error.reason for row, error in failed.items()} == {1: "Picky", 4: "Picky"}
    for topic in ("labels", "unsure", "spam"):
        assert sorted(offsets(shipments, topic)) == [0, 2, 3, 5]
        for shipment in (each for each in shipments if each.topic == topic):
            written = [json.loads(value or b"")["source"]["offset"] for _, value, _, _ in shipment.records]
            assert written == [source.offset for source in shipment.sources]


def test_when_none_can_be_written_nothing_is_shipped() -> None:
    sources = [record(1), record(4)]
    assert results(route(codec=PickyCodec()), SAME, sources, predictions(0.5, 0.5), None)[0] == []


def test_passthrough_that_json_cannot_hold_fails_its_record_alone() -> None:
    given = [{"id": 1}, {"id": {1, 2}}, {"id": 3}]
    shipments, failed = results(route(), SAME, read(3), predictions(0.1, 0.2, 0.3), given)
    assert offsets(shipments, "labels") == [0, 2]
    assert list(failed) == [1]
    assert failed[1].stage == "deliver"


def test_no_records_are_no_shipments() -> None:
    assert results(route(), SAME, [], predictions(), None) == ([], {})


def test_all_topics_of_a_route_are_named() -> None:
    assert route().topics == {"labels", "texts.dead-letter"}
    named = route(uncertain="unsure", labels={"spam": "junk", "ham": "labels"}).topics
    assert named == {"labels", "texts.dead-letter", "unsure", "junk"}


class TestDeadLetters:
    DECODE = RecordError("decode", "InvalidUtf8", "not UTF-8")
    INFER = RecordError("infer", "ValueError", "the model fails")

    def failures(self) -> Failures:
        """The second of two classifiers fails on rows 0 and 2, the first cannot decode row 2, neither row 1."""
        first, second = route(), Route("intent", "intent", {}, "intents", "texts.dead-letter", TextCodec())
        failures = Failures()
        failures.add(2, self.DECODE, first)
        failures.add(1, self.DECODE, first)
        failures.add(1, self.DECODE, second)
        failures.add(2, self.INFER, second)
        failures.add(0, self.INFER, second)
        return failures

    def test_one_a_record_and_stage_names_all_its_classifiers_by_row(self) -> None:
        assert [(row, error.stage, classifiers) for row, _, error, classifiers in self.failures()] == [
            (0, "infer", ["intent"]),
            (1, "decode", ["spam-filter", "intent"]),
            (2, "decode", ["spam-filter"]),
            (2, "infer", ["intent"]),
        ]

    def test_two_dead_letter_topics_are_two_dead_letters(self) -> None:
        failures = Failures()
        failures.add(0, self.DECODE, route())
        failures.add(0, self.DECODE, route(dead_letter="elsewhere"))
        assert [topic for _, topic, _, _ in failures] == ["elsewhere", "texts.dead-letter"]

    def test_none_is_nothing(self) -> None:
        assert not Failures()
        assert self.failures()

    @pytest.mark.parametrize("placement", [SAME, FEWER])
    def test_they_are_shipped_in_the_order_of_their_sources(self, placement: Placement) -> None:
        sources = read(3)
        shipments = dead_letters(self.failures(), sources, placement)
        assert [source.offset for shipment in shipments for source in shipment.sources] == [0, 1, 2, 2]
        for shipment in shipments:
            assert shipment.partition == placement.of("texts.dead-letter", shipment.sources[0])
            assert (shipment.topic, shipment.classifier) == ("texts.dead-letter", None)
            assert shipment.records[0][:2] == (shipment.sources[0].key, shipment.sources[0].value)
