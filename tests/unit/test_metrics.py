"""Metrics: what is counted is what is exposed, and it is what prometheus_client itself would have counted."""

import math
import sys
import threading
from collections.abc import Iterable, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY, CollectorRegistry, Histogram
from prometheus_client.core import Metric as Family
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from stream_classifier.errors import ConfigError
from stream_classifier.observe.metrics import MAX_ERRORS, METRICS, Metrics, registry_of

CONTRACT = {  # CONTRACTS: name, type, labels
    "records_total": ("counter", {"classifier", "outcome"}),
    "labels_total": ("counter", {"classifier", "label", "decision"}),
    "score": ("histogram", {"classifier", "label"}),
    "record_latency_seconds": ("histogram", {"classifier"}),
    "stage_seconds": ("histogram", {"classifier", "stage"}),
    "batch_records": ("histogram", {"classifier"}),
    "batch_tokens": ("histogram", {"classifier"}),
    "padding_ratio": ("histogram", {"classifier"}),
    "tokens_total": ("counter", {"classifier"}),
    "in_flight_records": ("gauge", set()),
    "in_flight_bytes": ("gauge", set()),
    "lag_records": ("gauge", {"topic", "partition"}),
    "oldest_undelivered_seconds": ("gauge", set()),
    "retries_total": ("counter", {"reason"}),
    "records_skipped_total": ("counter", {"topic"}),
    "dead_letters_total": ("counter", {"classifier", "stage", "error"}),
    "model_info": ("gauge", {"classifier", "name", "digest", "backend", "device", "dtype"}),
    "model_loads_total": ("counter", {"classifier", "result"}),
}

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def flattened(families: Iterable[Family]) -> Samples:
    samples: Samples = {}
    for family in families:
        for sample in family.samples:
            key = (sample.name.removeprefix("stream_classifier_"), frozenset(sample.labels.items()))
            assert key not in samples, f"exposed twice: {key}"
            samples[key] = sample.value
    return samples


def exposed(metrics: Metrics) -> Samples:
    """Every sample of the exposition, parsed back."""
    return flattened(parse_text(metrics.render()[0].decode()))


def value(metrics: Metrics, name: str, /, **labels: str) -> float | None:
    return exposed(metrics).get((name, frozenset(labels.items())))


def filled() -> Metrics:
    """A Metrics with something in every family."""
    metrics = Metrics()
    metrics.model_info("intent", name="m", digest="sha256:1", backend="torch", device="cpu", dtype="float32")
    metrics.model_load("intent", success=True)
    metrics.records("intent", "accepted", 2)
    metrics.labels("intent", np.array([0, 1, 1]), np.array([True, True, False]), ("a", "b"), np.array([0.9, 0.8, 0.3]))
    metrics.latencies("intent", np.array([0.004, 0.2]))
    metrics.stage("intent", "infer", 0.02)
    metrics.batch("intent", 3, 90, 100)
    metrics.tokens("intent", 90)
    metrics.dead_letter("intent", "infer", "ValueError")
    metrics.retry("KafkaTimeoutError")
    metrics.skipped("support", 5)
    metrics.watch(in_flight=lambda: (7, 700), lag=lambda: {("support", 3): 12}, oldest_undelivered_s=lambda: 1.5)
    return metrics


def test_table_is_the_contract() -> None:
    assert {m.name: (m.type, set(m.labels)) for m in METRICS} == CONTRACT


def test_exposition_has_every_metric_with_its_name_type_and_labels() -> None:
    families = {family.name: family for family in parse_text(filled().render()[0].decode())}
    for name, (type_, labels) in CONTRACT.items():
        family = families.pop(f"stream_classifier_{name}".removesuffix("_total"))
        assert family.type == type_
        assert {frozenset(sample.labels) - {"le"} for sample in family.samples} == {frozenset(labels)}
        if type_ != "histogram":
            assert {sample.name for sample in family.samples} == {f"stream_classifier_{name}"}
    assert not families


def test_exposed_numbers_are_those_counted_by_hand() -> None:
    samples = exposed(filled())

    def at(name: str, /, **labels: str) -> float:
        return samples[name, frozenset(labels.items())]

    assert at("records_total", classifier="intent", outcome="accepted") == 2
    assert at("records_total", classifier="intent", outcome="uncertain") == 0
    assert at("labels_total", classifier="intent", label="a", decision="accepted") == 1
    assert at("labels_total", classifier="intent", label="b", decision="accepted") == 1
    assert at("labels_total", classifier="intent", label="b", decision="uncertain") == 1
    assert at("score_count", classifier="intent", label="b") == 2
    assert at("score_sum", classifier="intent", label="b") == pytest.approx(1.1)
    assert at("score_bucket", classifier="intent", label="b", le="0.3") == 1
    assert at("record_latency_seconds_bucket", classifier="intent", le="0.005") == 1
    assert at("stage_seconds_sum", classifier="intent", stage="infer") == 0.02
    assert at("batch_records_sum", classifier="intent") == 3
    assert at("batch_tokens_sum", classifier="intent") == 90
    assert at("padding_ratio_sum", classifier="intent") == pytest.approx(0.1)
    assert at("tokens_total", classifier="intent") == 90
    assert at("in_flight_records") == 7
    assert at("in_flight_bytes") == 700
    assert at("lag_records", topic="support", partition="3") == 12
    assert at("oldest_undelivered_seconds") == 1.5
    assert at("retries_total", reason="KafkaTimeoutError") == 1
    assert at("records_skipped_total", topic="support") == 5
    assert at("dead_letters_total", classifier="intent", stage="infer", error="ValueError") == 1
    info = {"name": "m", "digest": "sha256:1", "backend": "torch", "device": "cpu", "dtype": "float32"}
    assert at("model_info", classifier="intent", **info) == 1
    assert at("model_loads_total", classifier="intent", result="success") == 1


def test_openmetrics_is_served_when_asked_for_and_says_the_same() -> None:
    metrics = filled()
    body, content_type = metrics.render("application/openmetrics-text; version=1.0.0, text/plain; q=0.5")
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    families = parse_openmetrics(body.decode())  # type: ignore[no-untyped-call]  # the client leaves it untyped
    assert flattened(families) == exposed(metrics)
    assert metrics.render()[1] == "text/plain; version=0.0.4; charset=utf-8"


def test_nothing_counted_exposes_only_gauges() -> None:
    assert exposed(Metrics()) == {
        ("in_flight_records", frozenset()): 0,
        ("in_flight_bytes", frozenset()): 0,
        ("oldest_undelivered_seconds", frozenset()): 0,
    }


BOUNDS = {metric.name: metric.buckets for metric in METRICS if metric.buckets}
near_bounds = st.sampled_from(sorted(BOUNDS["record_latency_seconds"])).flatmap(
    lambda bound: st.sampled_from([math.nextafter(bound, 0), bound, math.nextafter(bound, math.inf)])
)
seconds = near_bounds | st.floats(0, 1e6) | st.just(0.0)


@given(st.lists(st.lists(seconds, max_size=40), max_size=5))
def test_latency_histogram_is_what_the_client_would_count(batches: list[list[float]]) -> None:
    registry = CollectorRegistry()
    name = "stream_classifier_record_latency_seconds"
    oracle = Histogram(name, "h", ["classifier"], registry=registry, buckets=BOUNDS["record_latency_seconds"])
    metrics = Metrics()
    for batch in batches:
        metrics.latencies("c", np.array(batch))
        for observation in batch:
            oracle.labels("c").observe(observation)
    assert_same_histogram(metrics, registry, "record_latency_seconds")


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.floats(0, 1) | st.sampled_from(sorted(BOUNDS["score"])), st.booleans()),
        max_size=60,
    ),
    st.sampled_from([np.float32, np.float64]),
)
def test_score_histogram_and_label_counts_are_what_the_client_would_count(
    rows: list[tuple[int, float, bool]], dtype: type[np.floating]
) -> None:
    registry = CollectorRegistry()
    oracle = Histogram(
        "stream_classifier_score", "h", ["classifier", "label"], registry=registry, buckets=BOUNDS["score"]
    )
    metrics = Metrics()
    labels = ("a", "b", "")
    scores = np.array([score for _, score, _ in rows], dtype=dtype)
    for index, score in zip([index for index, _, _ in rows], scores.tolist(), strict=True):
        oracle.labels("c", labels[index]).observe(score)
    half = len(rows) // 2
    for part in (slice(half), slice(half, None)):
        indices = np.array([index for index, _, _ in rows[part]], dtype=np.int64)
        accepted = np.array([accepted for _, _, accepted in rows[part]], dtype=bool)
        metrics.labels("c", indices, accepted, labels, scores[part])
    assert_same_histogram(metrics, registry, "score")
    samples = exposed(metrics)
    for index, label in enumerate(labels):
        for decision, flag in (("accepted", True), ("uncertain", False)):
            key = ("labels_total", frozenset({"classifier": "c", "label": label, "decision": decision}.items()))
            assert samples.get(key, 0) == sum(row[0] == index and row[2] is flag for row in rows)


@given(st.lists(st.floats(1e-6, 1e3) | near_bounds, min_size=1, max_size=40))
def test_stage_histogram_is_what_the_client_would_count(observations: list[float]) -> None:
    registry = CollectorRegistry()
    name = "stream_classifier_stage_seconds"
    oracle = Histogram(name, "h", ["classifier", "stage"], registry=registry, buckets=BOUNDS["stage_seconds"])
    metrics = Metrics()
    for observation in observations:
        metrics.stage("c", "infer", observation)
        oracle.labels("c", "infer").observe(observation)
    assert_same_histogram(metrics, registry, "stage_seconds")


def assert_same_histogram(metrics: Metrics, oracle: CollectorRegistry, name: str) -> None:
    ours = {key: v for key, v in exposed(metrics).items() if key[0].startswith(name)}
    theirs = {key: v for key, v in flattened(oracle.collect()).items() if not key[0].endswith("_created")}
    assert ours.keys() == theirs.keys()
    for key, theirs_value in theirs.items():
        # Sums are added up in another order; buckets and counts are integers.
        assert ours[key] == (pytest.approx(theirs_value) if key[0].endswith("_sum") else theirs_value)


def test_score_has_no_label_for_models_with_more_than_50_labels() -> None:
    metrics = Metrics()
    for num_labels in (50, 51):
        labels = tuple(f"l{i}" for i in range(num_labels))
        indices = np.arange(num_labels)
        metrics.labels(f"c{num_labels}", indices, indices >= 0, labels, np.full(num_labels, 0.5))
    assert value(metrics, "score_count", classifier="c50", label="l49") == 1
    assert value(metrics, "score_count", classifier="c51", label="l49") is None
    assert value(metrics, "score_count", classifier="c51", label="") == 51
    assert value(metrics, "labels_total", classifier="c51", label="l50", decision="accepted") == 1


def test_model_with_other_labels_goes_on_with_the_counts_by_name() -> None:
    metrics = Metrics()
    yes = np.array([True])
    metrics.labels("c", np.array([0]), yes, ("spam", "ham"), np.array([0.9]))
    metrics.labels("c", np.array([1]), yes, ["ham", "spam"], np.array([0.9]))  # the same labels, in another order
    metrics.labels("c", np.array([2]), yes, ("ham", "spam", "bulk"), np.array([0.9]))
    assert value(metrics, "labels_total", classifier="c", label="spam", decision="accepted") == 2
    assert value(metrics, "labels_total", classifier="c", label="bulk", decision="accepted") == 1
    assert value(metrics, "score_count", classifier="c", label="spam") == 2
    assert value(metrics, "score_count", classifier="c", label="ham") is None
    # Reloads cannot multiply the score's series either: past 50 names the rest has no label.
    many = tuple(f"l{i}" for i in range(48))
    metrics.labels("c", np.array([0]), yes, many, np.array([0.9]))
    assert value(metrics, "score_count", classifier="c", label="") == 1
    assert value(metrics, "score_count", classifier="c", label="spam") == 2


@pytest.mark.parametrize("index", [2, -1])
def test_index_outside_the_labels_is_refused_and_counts_nothing(index: int) -> None:
    metrics = Metrics()
    with pytest.raises(ValueError, match=r"index|negative"):
        metrics.labels("c", np.array([0, index]), np.array([True, True]), ("a", "b"), np.array([0.9, 0.9]))
    assert not any(name.startswith(("labels", "score")) for name, _ in exposed(metrics))


def test_rows_without_a_finite_score_and_latencies_without_timestamp_are_left_out() -> None:
    metrics = Metrics()
    scores = np.array([0.5, np.nan, np.inf, -np.inf])
    metrics.labels("c", np.array([1, -1, -1, -1]), np.ones(4, dtype=bool), ("a", "b"), scores)
    metrics.latencies("c", np.array([0.5, np.nan, -3.0]))
    metrics.latencies("none", np.array([np.nan]))
    metrics.latencies("none", np.array([]))
    assert value(metrics, "score_count", classifier="c", label="b") == 1
    assert value(metrics, "score_sum", classifier="c", label="b") == 0.5
    assert value(metrics, "record_latency_seconds_count", classifier="c") == 2
    assert value(metrics, "record_latency_seconds_sum", classifier="c") == 0.5  # negative counts as 0: sums only rise
    assert value(metrics, "record_latency_seconds_count", classifier="none") is None


def test_decode_failures_have_the_empty_classifier() -> None:
    metrics = Metrics()
    metrics.records("", "dead_letter", 3)
    assert value(metrics, "records_total", classifier="", outcome="dead_letter") == 3


def test_batch_without_tokens_has_no_padding_ratio() -> None:
    metrics = Metrics()
    metrics.batch("c", 12)
    metrics.batch("c", 0, 0, 0)
    assert {name.rsplit("_", 1)[0] for name, labels in exposed(metrics) if labels} == {"batch_records", "batch_tokens"}


def test_new_model_takes_the_place_of_the_old_one() -> None:
    metrics = Metrics()
    for digest in ("sha256:1", None):
        metrics.model_info("c", name="m", digest=digest, backend="null", device="cpu", dtype="float64")
    infos = [dict(labels) for name, labels in exposed(metrics) if name == "model_info"]
    assert [info["digest"] for info in infos] == [""]


def test_error_classes_are_bounded_and_none_is_lost() -> None:
    metrics = Metrics()
    for i in range(MAX_ERRORS + 50):
        metrics.dead_letter("c", "infer", f"Error{i}")
        metrics.retry(f"Error{i}")
    samples = exposed(metrics)
    for name, other in (("dead_letters_total", "error"), ("retries_total", "reason")):
        counts = {dict(labels)[other]: v for (sample, labels), v in samples.items() if sample == name}
        assert len(counts) == MAX_ERRORS + 1
        assert counts["other"] == 50


def test_unknown_outcome_stage_and_negative_counts_are_refused() -> None:
    metrics = Metrics()
    with pytest.raises(ValueError, match=r"'lost'.*accepted"):
        metrics.records("c", "lost")
    with pytest.raises(ValueError, match=r"'think'.*tokenize"):
        metrics.stage("c", "think", 0.1)
    with pytest.raises(ValueError, match="only goes up"):
        metrics.tokens("c", -1)


def test_hostile_label_values_survive_the_exposition() -> None:
    labels = ('quote" back\\slash', "line\nbreak", "ünï\u2028 😀")
    metrics = Metrics()
    metrics.labels("c", np.array([0, 1, 2]), np.ones(3, dtype=bool), labels, np.full(3, 0.5))
    for label in labels:
        assert value(metrics, "labels_total", classifier="c", label=label, decision="accepted") == 1


def test_watched_gauges_of_several_streams_are_added_up() -> None:
    metrics = Metrics()
    metrics.watch(in_flight=lambda: (1, 10), lag=lambda: {("a", 0): 4}, oldest_undelivered_s=lambda: None)
    metrics.watch(in_flight=lambda: (2, 20), lag=lambda: {("b", 0): -1}, oldest_undelivered_s=lambda: 3.0)
    assert value(metrics, "in_flight_records") == 3
    assert value(metrics, "in_flight_bytes") == 30
    assert value(metrics, "lag_records", topic="a", partition="0") == 4
    assert value(metrics, "lag_records", topic="b", partition="0") == 0
    assert value(metrics, "oldest_undelivered_seconds") == 3.0


def test_metrics_are_independent_of_each_other_and_of_the_default_registry() -> None:
    one, other = Metrics(), Metrics()
    one.tokens("c", 5)
    assert value(one, "tokens_total", classifier="c") == 5
    assert value(other, "tokens_total", classifier="c") is None
    assert not [f for f in REGISTRY.collect() if f.name.startswith("stream_classifier_")]


def test_second_metrics_in_one_registry_is_refused_with_the_fix() -> None:
    registry = CollectorRegistry()
    Metrics(registry)
    with pytest.raises(ConfigError, match=r"registry=CollectorRegistry\(\)"):
        Metrics().join(registry)


def test_registry_of_a_handler_is_the_one_it_closes_over_else_the_default() -> None:
    mine = CollectorRegistry()

    def closing() -> object:
        return mine

    def plain() -> None:
        return None

    assert registry_of(closing) is mine
    assert registry_of(plain) is REGISTRY
    assert registry_of(print) is REGISTRY
    assert registry_of(None) is REGISTRY


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    """Threads change at almost every bytecode: a missing lock shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("frequent_switches")
def test_threads_that_count_and_scrape_at_once_lose_nothing() -> None:
    metrics = Metrics()
    labels, rounds, num_threads = ("a", "b"), 100, 4
    indices, accepted, scores = np.array([0, 1] * 8), np.array([True] * 16), np.full(16, 0.75)

    def count() -> None:
        for _ in range(rounds):
            metrics.labels("c", indices, accepted, labels, scores)
            for _ in range(100):
                metrics.latencies("c", scores[:2])
                metrics.records("c", "accepted")
                metrics.stage("c", "infer", 0.5)

    threads = [threading.Thread(target=count) for _ in range(num_threads)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        metrics.render()
    for thread in threads:
        thread.join()
    total = rounds * num_threads
    assert value(metrics, "records_total", classifier="c", outcome="accepted") == total * 100
    assert value(metrics, "labels_total", classifier="c", label="a", decision="accepted") == total * 8
    assert value(metrics, "score_count", classifier="c", label="b") == total * 8
    assert value(metrics, "record_latency_seconds_count", classifier="c") == total * 200
    assert value(metrics, "record_latency_seconds_sum", classifier="c") == total * 150
    assert value(metrics, "stage_seconds_count", classifier="c", stage="infer") == total * 100
    assert value(metrics, "stage_seconds_sum", classifier="c", stage="infer") == total * 50
