"""All metrics of the worker: one table, and the object that the stream counts into.

METRICS is the only place where a metric is named: the collectors, the exposition and docs/reference/metrics.md are made
from it. This is the only module that knows prometheus_client; series.py does the counting, web.py serves `render()`.

"Delivered" means acknowledged by the broker, under exactly-once committed. Nothing is labelled by text, key or offset.

Shapes: N records of a batch, L labels of a model.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from stream_classifier.errors import ConfigError
from stream_classifier.observe.series import (
    Counter,
    Distribution,
    Histogram,
    Key,
    LabelledScores,
    PolledGauges,
)
from stream_classifier.records import ACCEPTED, UNCERTAIN

__all__ = ["DEAD_LETTER", "METRICS", "OUTCOMES", "STAGES", "Metric", "Metrics", "reference_table", "registry_of"]

PREFIX = "stream_classifier_"

DEAD_LETTER = "dead_letter"
OUTCOMES = (ACCEPTED, UNCERTAIN, DEAD_LETTER)
STAGES = ("queue", "tokenize", "infer", "deliver")

UNITS = ("seconds", "bytes", "records", "tokens", "ratio")

MAX_SCORE_LABELS = 50
# Error classes come from models and brokers: not ours to choose, so their number is bounded here.
MAX_ERRORS = 200


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the table.

    Attributes:
        name: as it is exposed, less the prefix; counters end in `_total`.
        type: its Prometheus type.
        help: one sentence.
        labels: names of its labels, in the order of the keys it is counted by.
        buckets: histograms: upper bounds without +Inf.
    """

    name: str
    type: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def full_name(self) -> str:
        """The name in the exposition."""
        return PREFIX + self.name

    @property
    def unit(self) -> str:
        """Its base unit, which the name ends with, or "" for a count of something else."""
        last = self.name.removesuffix("_total").rpartition("_")[2]
        return last if last in UNITS else ""


_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0)
_STAGE_SECONDS = (0.0001, 0.0002, 0.0005, *_SECONDS)
_SCORES = tuple(step / 20 for step in range(1, 21))
_RECORDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
_TOKENS = tuple(float(2**power) for power in range(4, 18))
_RATIOS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

METRICS = (
    Metric("records_total", "counter", "Records delivered (classifier empty: undecodable).", ("classifier", "outcome")),
    Metric("labels_total", "counter", "Results delivered, by their (best) label.", ("classifier", "label", "decision")),
    Metric("score", "histogram", "Probability of the label (up to 50, else empty).", ("classifier", "label"), _SCORES),
    Metric("record_latency_seconds", "histogram", "Record timestamp to delivered.", ("classifier",), _SECONDS),
    Metric("stage_seconds", "histogram", "Time of a batch in a stage.", ("classifier", "stage"), _STAGE_SECONDS),
    Metric("batch_records", "histogram", "Records of a micro-batch.", ("classifier",), _RECORDS),
    Metric("batch_tokens", "histogram", "Tokens of a micro-batch, padding excluded.", ("classifier",), _TOKENS),
    Metric("padding_ratio", "histogram", "Share of padding in a micro-batch, 0 to 1.", ("classifier",), _RATIOS),
    Metric("tokens_total", "counter", "Tokens classified, padding excluded.", ("classifier",)),
    Metric("in_flight_records", "gauge", "Records taken in and not yet delivered."),
    Metric("in_flight_bytes", "gauge", "Bytes of the records taken in and not yet delivered."),
    Metric("lag_records", "gauge", "Last stable offset - position + in flight.", ("topic", "partition")),
    Metric("oldest_undelivered_seconds", "gauge", "Age of the oldest record in flight; 0: none."),
    Metric("retries_total", "counter", "Calls made again after an error, by its class.", ("reason",)),
    Metric("records_skipped_total", "counter", "Records that retention removed before they were read.", ("topic",)),
    Metric("dead_letters_total", "counter", "Records without result, by cause.", ("classifier", "stage", "error")),
    Metric("model_info", "gauge", "Model in use: 1.", ("classifier", "name", "digest", "backend", "device", "dtype")),
    Metric("model_loads_total", "counter", "Attempts to load a model: success, failure.", ("classifier", "result")),
)

_BY_NAME = {metric.name: metric for metric in METRICS}


class Metrics:
    """What the stream counts into. Safe from every thread; all calls are per batch and take microseconds.

    Several Metrics are independent of each other, as long as each has a registry of its own.

    Args:
        registry: where the collectors are registered; default: one of our own.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._samples: dict[str, Callable[[], Iterable[tuple[Key, Any]]]] = {}
        self._records = self._counter("records_total")
        self._tokens = self._counter("tokens_total")
        self._retries = self._counter("retries_total", max_keys=MAX_ERRORS)
        self._skipped = self._counter("records_skipped_total")
        self._dead_letters = self._counter("dead_letters_total", max_keys=MAX_ERRORS)
        self._model_loads = self._counter("model_loads_total")
        self._latencies = self._histogram("record_latency_seconds")
        self._stages = self._histogram("stage_seconds")
        self._batch_records = self._histogram("batch_records")
        self._batch_tokens = self._histogram("batch_tokens")
        self._padding = self._histogram("padding_ratio")
        self._gauges = PolledGauges()
        self._samples["labels_total"] = self._label_counts
        self._samples["score"] = self._score_counts
        self._samples["in_flight_records"] = lambda: [((), self._gauges.in_flight()[0])]
        self._samples["in_flight_bytes"] = lambda: [((), self._gauges.in_flight()[1])]
        self._samples["lag_records"] = self._gauges.lag
        self._samples["oldest_undelivered_seconds"] = lambda: [((), self._gauges.oldest_undelivered_s())]
        self._samples["model_info"] = lambda: [(key, 1) for key in list(self._models.values())]

        self._labelled: dict[str, LabelledScores] = {}
        self._models: dict[str, Key] = {}

        self._collector = _TableCollector(self._samples)
        self._registry = CollectorRegistry() if registry is None else registry
        self.join(self._registry)

    # What the stream calls.

    def records(self, classifier: str, outcome: str, n: int = 1) -> None:
        """`n` records delivered with one of OUTCOMES; classifier "" for those that could not be decoded."""
        if outcome not in OUTCOMES:
            raise ValueError(f"outcome {outcome!r} is none of {', '.join(OUTCOMES)}")
        self._records.add((classifier, outcome), n)

    def labels(
        self,
        classifier: str,
        label_indices_N: NDArray[Any],
        accepted_N: NDArray[np.bool_],
        labels: Sequence[str],
        scores_N: NDArray[Any],
    ) -> None:
        """N results delivered: indices into the model's `labels` (best passed as one tuple), decisions, probabilities.

        Rows whose score is not finite are left out: they have no result.

        Raises:
            ValueError: an index is outside `labels`; nothing was counted.
        """
        finite_N = np.isfinite(scores_N)
        if not finite_N.all():
            label_indices_N, accepted_N, scores_N = label_indices_N[finite_N], accepted_N[finite_N], scores_N[finite_N]
        if not len(scores_N):
            return
        labelled = self._labelled.get(classifier)
        if labelled is None:  # setdefault: another thread may have made it meanwhile
            labelled = self._labelled.setdefault(classifier, LabelledScores(_SCORES, MAX_SCORE_LABELS))
        labelled.add(labels, label_indices_N, accepted_N, scores_N)

    def latencies(self, classifier: str, seconds_N: NDArray[Any]) -> None:
        """Record timestamp to delivery of N records. NaN (no timestamp) is left out, negative (a clock ahead) is 0."""
        seconds_N = np.maximum(seconds_N, 0.0)
        finite_N = np.isfinite(seconds_N)
        if not finite_N.all():
            seconds_N = seconds_N[finite_N]
        if len(seconds_N):
            self._latencies.observe_many((classifier,), seconds_N)

    def stage(self, classifier: str, stage: str, seconds: float) -> None:
        """A batch spent `seconds` in one of STAGES."""
        if stage not in STAGES:
            raise ValueError(f"stage {stage!r} is none of {', '.join(STAGES)}")
        self._stages.observe((classifier, stage), seconds)

    def batch(self, classifier: str, records: int, tokens: int | None = None, padded_tokens: int | None = None) -> None:
        """A micro-batch of so many records and tokens, `padded_tokens` with padding; None for models without tokens.

        It does not count into `tokens_total`: a batch that is split and run again is two batches, its tokens are
        classified once.
        """
        self._batch_records.observe((classifier,), records)
        if tokens is not None:
            self._batch_tokens.observe((classifier,), tokens)
            if padded_tokens:
                self._padding.observe((classifier,), 1.0 - tokens / padded_tokens)

    def tokens(self, classifier: str, n: int) -> None:
        """`n` tokens classified, padding excluded."""
        self._tokens.add((classifier,), n)

    def dead_letter(self, classifier: str, stage: str, error: str, n: int = 1) -> None:
        """`n` records became dead letters at `stage` with an error of class `error`."""
        self._dead_letters.add((classifier, stage, error), n)

    def retry(self, reason: str, n: int = 1) -> None:
        """A call is made again; `reason`: the class of the error."""
        self._retries.add((reason,), n)

    def skipped(self, topic: str, n: int) -> None:
        """`n` records of a source were gone before they were read."""
        self._skipped.add((topic,), n)

    def model_info(
        self, classifier: str, *, name: str, digest: str | None, backend: str, device: str, dtype: str
    ) -> None:
        """The model that answers from now on, in the place of the classifier's last one."""
        self._models[classifier] = (classifier, name, digest or "", backend, device, dtype)
        for outcome in OUTCOMES:  # visible at 0, so that rate() sees the first step
            self._records.add((classifier, outcome), 0)

    def model_load(self, classifier: str, *, success: bool) -> None:
        """An attempt to load a model ended."""
        self._model_loads.add((classifier, "success" if success else "failure"))

    def watch(
        self,
        *,
        in_flight: Callable[[], tuple[int, int]] | None = None,
        lag: Callable[[], Mapping[tuple[str, int], int]] | None = None,
        oldest_undelivered_s: Callable[[], float | None] | None = None,
    ) -> None:
        """Gauges, asked for at each scrape, on the web server's thread; of several callers the sum, union, maximum.

        Args:
            in_flight: (records, bytes) taken in and not delivered.
            lag: records to be delivered by (topic, partition). A fresh mapping, or one that nobody changes.
            oldest_undelivered_s: seconds since the oldest undelivered record was taken in; None when there is none.
        """
        self._gauges.add(in_flight, lag, oldest_undelivered_s)

    # What is read.

    def join(self, registry: CollectorRegistry) -> None:
        """Expose these metrics through `registry` too.

        Raises:
            ConfigError: another Metrics is registered there; Prometheus allows a name only once.
        """
        try:
            registry.register(self._collector)
        except ValueError as error:
            raise ConfigError(
                f"the Prometheus registry already has metrics named {PREFIX}*, of another app in this process; "
                "give each app a registry of its own: setup_prometheus_sensors(app, registry=CollectorRegistry())"
            ) from error

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The exposition and its content type: Prometheus text 0.0.4, or OpenMetrics when the Accept header asks."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def _counter(self, name: str, max_keys: int | None = None) -> Counter:
        counter = Counter(max_keys)
        self._samples[name] = counter.items
        return counter

    def _histogram(self, name: str) -> Histogram:
        histogram = Histogram(_BY_NAME[name].buckets)
        self._samples[name] = histogram.items
        return histogram

    def _label_counts(self) -> Iterator[tuple[Key, int]]:
        for classifier, labelled in list(self._labelled.items()):
            for label, accepted, uncertain in labelled.decisions():
                yield (classifier, label, ACCEPTED), accepted
                yield (classifier, label, UNCERTAIN), uncertain

    def _score_counts(self) -> Iterator[tuple[Key, Distribution]]:
        for classifier, labelled in list(self._labelled.items()):
            for label, distribution in labelled.scores():
                yield (classifier, label), distribution


def registry_of(handler: Callable[..., object] | None) -> CollectorRegistry:
    """The registry that somebody else's /metrics handler renders.

    It is the one the handler closes over, as that of Faust's `setup_prometheus_sensors(app, registry=…)` does, else the
    client's default one.
    """
    function = getattr(handler, "__func__", handler)
    if inspect.isfunction(function):
        for value in inspect.getclosurevars(function).nonlocals.values():
            if isinstance(value, CollectorRegistry):
                return value
    return REGISTRY


def reference_table() -> str:
    """The metrics as a Markdown table, as docs/reference/metrics.md has it."""
    lines = ["| metric | type | labels | unit | meaning |", "|---|---|---|---|---|"]
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        buckets = f" Buckets: {', '.join(map(floatToGoString, metric.buckets))}." if metric.buckets else ""
        lines.append(f"| `{metric.full_name}` | {metric.type} | {labels} | {metric.unit} | {metric.help}{buckets} |")
    return "\n".join(lines) + "\n"


_Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


class _TableCollector(Collector):
    """The table as metric families, for a Prometheus registry.

    Args:
        samples: for each metric of the table what it counted, (key, count or Distribution).
    """

    def __init__(self, samples: Mapping[str, Callable[[], Iterable[tuple[Key, Any]]]]) -> None:
        self._samples = samples

    def describe(self) -> Iterator[_Family]:
        """Names alone: registering must not run the gauges' callbacks."""
        for metric in METRICS:
            yield _family(metric)

    def collect(self) -> Iterator[_Family]:
        for metric in METRICS:
            family = _family(metric)
            for key, value in self._samples[metric.name]():
                if isinstance(family, HistogramMetricFamily):
                    cumulated = np.cumsum(value.counts_B).tolist()
                    bounds = [*map(floatToGoString, metric.buckets), "+Inf"]
                    family.add_metric(key, list(zip(bounds, cumulated, strict=True)), value.sum)
                else:
                    family.add_metric(key, value)
            yield family


def _family(metric: Metric) -> _Family:
    families: dict[str, type[_Family]] = {
        "counter": CounterMetricFamily,
        "gauge": GaugeMetricFamily,
        "histogram": HistogramMetricFamily,
    }
    return families[metric.type](metric.full_name, metric.help, labels=metric.labels, unit=metric.unit)
