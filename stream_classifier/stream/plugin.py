"""StreamClassifier: classifiers in a Faust app.

    app = faust.App("support", broker="kafka://localhost:9092")
    intents = StreamClassifier(app, model="models/intent", source="support.messages", sink="support.intents")

Constructing one registers it; everything else happens when the app starts: the batch transport replaces Faust's own,
one agent for each source hands its record batches to the service, and the service starts between the web server and the
consumer. Agents, tables and timers of the user's own go on as they are, on topics of their own.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import faust
from faust.app.base import BootStrategy
from faust.serializers.schemas import Schema
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth, server_list
from faust.types import EventT
from faust.types.enums import ProcessingGuarantee
from faust.web.base import Web
from mode import ServiceT

from stream_classifier.config import ClassifierSettings, ModelSettings, classifier_from_arguments, model_from_arguments
from stream_classifier.config.rules import is_loopback
from stream_classifier.errors import ConfigError, DeliveryError, RecordError
from stream_classifier.model.protocols import TextModel
from stream_classifier.observe.metrics import Metrics
from stream_classifier.observe.web import mount
from stream_classifier.records import Prediction
from stream_classifier.stream.inline import EventStream, answer_texts, classify_events
from stream_classifier.stream.intake import Intake
from stream_classifier.stream.service import ClassifierService, ServiceSettings
from stream_classifier.stream.transport import BatchConsumer, BatchTransport

__all__ = ["AppClassifiers", "StreamClassifier"]

logger = logging.getLogger(__name__)


class StreamClassifier:
    """A classifier in a Faust app.

    With `source` and `sink` it consumes the source topic itself: results, routed copies and dead letters as documented
    in docs/reference/records.md. The source then belongs to the app's classifiers; an agent of the user's on it is
    refused at start. Without them it answers inside agents of the user's own, through `classify()`.

    Args:
        app: the Faust app; it must not have started.
        model: a model directory, a Hub name, "null", the name of an entry point, or a TextModel object.
        source, sink: topics; both or neither.
        name: unique in the app; names the classifier in results and metrics. Default: the model's.

    The other arguments are the keys of `[[classifier]]` in docs/reference/configuration.md, with the same defaults.

    Raises:
        ConfigError: a setting is wrong; the message names it and the fix.
    """

    def __init__(
        self,
        app: faust.App,
        *,
        model: str | os.PathLike[str] | TextModel,
        source: str | None = None,
        sink: str | None = None,
        name: str | None = None,
        dead_letter: str | None = None,
        codec: str | None = None,
        text: str | Sequence[str] | None = None,
        passthrough: Mapping[str, str] | None = None,
        task: str | None = None,
        positive_label: str | None = None,
        threshold: float | None = None,
        thresholds: Mapping[str, float] | None = None,
        top_k: int | None = None,
        route: Mapping[str, Any] | None = None,
        labels: Sequence[str] | None = None,
        device: str | None = None,
        dtype: str | None = None,
        backend: str | None = None,
        batch: Mapping[str, Any] | None = None,
        max_text_chars: int | None = None,
        inference_timeout_s: float | None = None,
    ) -> None:
        arguments = {
            "model": model,
            "name": name,
            "task": task,
            "positive_label": positive_label,
            "threshold": threshold,
            "thresholds": thresholds,
            "top_k": top_k,
            "labels": labels,
            "device": device,
            "dtype": dtype,
            "backend": backend,
            "batch": batch,
            "max_text_chars": max_text_chars,
            "inference_timeout_s": inference_timeout_s,
        }
        stream_arguments = {
            "source": source,
            "sink": sink,
            "dead_letter": dead_letter,
            "codec": codec,
            "text": text,
            "passthrough": passthrough,
            "route": route,
        }
        self.settings: ModelSettings
        if any(value is not None for value in stream_arguments.values()):
            self.settings = classifier_from_arguments({**arguments, **stream_arguments})
        else:
            self.settings = model_from_arguments(arguments)
        self._classifiers = AppClassifiers.of(app)
        self._classifiers.add(self.settings, os.fspath(model) if isinstance(model, os.PathLike) else model)

    async def classify(
        self, stream: EventStream, *, text: Callable[[Any], str], max_records: int | None = None
    ) -> AsyncIterator[list[tuple[EventT[Any], Prediction | RecordError]]]:
        """Answer the events of a stream, in batches, inside an agent.

        The events of a batch are acknowledged when the body asks for the next one; a body that raises leaves them
        unacknowledged, and they are read again after a restart.

        Args:
            stream: the agent's stream.
            text: an event's value to its text. What it raises becomes the RecordError of that event alone.
            max_records: events in a batch at most; default `batch.max_records`.

        Yields:
            (event, prediction) in the order of the stream; a RecordError stands where an event has no prediction.
        """
        batches = classify_events(
            stream, self._answer, text=text, max_records=max_records or self.settings.batch.max_records
        )
        try:
            async for batch in batches:
                yield batch
        finally:
            await cast("Any", batches).aclose()

    async def _answer(self, texts: Sequence[str]) -> list[Prediction | RecordError]:
        service = self._classifiers.service
        loaded = service.loaded(self.settings.name)
        return await answer_texts(loaded.classifier, loaded.batcher, service.threads.text, texts)


class AppClassifiers:
    """All classifiers of one app: the first of them makes it through `of(app)`, with the defaults.

    Args:
        app: the Faust app.
        settings: time-outs and topic creation; `run` sets them from its file.
        intake: limits of what is read.
        token: of the web server, as `observe.web.mount` takes it.
        stop_at_gap: stop the worker when retention has overtaken records that were not read.
        exactly_once: deliver exactly once, whatever the app's `processing_guarantee`, which is for Faust's own agents.
    """

    def __init__(
        self,
        app: faust.App,
        *,
        settings: ServiceSettings | None = None,
        intake: Intake | None = None,
        token: str | None = None,
        stop_at_gap: bool = False,
        exactly_once: bool = False,
    ) -> None:
        self.app = app
        app.__dict__["stream_classifiers"] = self
        self.metrics = Metrics()
        self.intake = intake or Intake()
        self.intake.on_skipped = self._skipped
        self.intake.on_failed = self._failed
        self._stop_at_gap = stop_at_gap
        self._exactly_once = exactly_once
        self._registered: list[tuple[ModelSettings, str | TextModel]] = []
        self.service = ClassifierService(
            self._registered,
            settings=settings or ServiceSettings(),
            metrics=self.metrics,
            consumer=lambda: cast("BatchConsumer", app.consumer),
            kafka=lambda: _kafka_settings(app),
            on_hang=_end_process,
        )
        app.boot_strategy = _Boot(app.boot_strategy, self)
        app.on_partitions_assigned.connect(self._on_assigned, weak=False)
        self._guarded = token is not None
        mount(app, self.metrics, self.service.health, token=token)

    @classmethod
    def of(cls, app: faust.App) -> AppClassifiers:
        """The app's classifiers."""
        known = app.__dict__.get("stream_classifiers")
        if known is None:
            known = cls(app)
        return cast("AppClassifiers", known)

    def add(self, settings: ModelSettings, model: str | TextModel) -> None:
        """Register a classifier, and an agent for its source if that is a new one."""
        if self.app.started:
            raise ConfigError(f"classifier {settings.name!r} comes too late: make it before the app starts")
        if any(known.name == settings.name for known, _ in self._registered):
            raise ConfigError(f"two classifiers are named {settings.name!r}; give each its own name=")
        self._registered.append((settings, model))
        if isinstance(settings, ClassifierSettings) and settings.source not in self.intake.topics:
            self.intake.topics.add(settings.source)
            self._add_agent(settings.source)

    def _add_agent(self, source: str) -> None:
        topic = self.app.topic(source, schema=_BatchSchema(), value_serializer="raw")

        async def classify(stream: Any) -> None:
            consumer = cast("BatchConsumer", self.app.consumer)
            async for event in stream.noack().events():
                self.service.submit(consumer.hand_on(event.message))

        self.app.agent(topic, name=f"stream-classifier.{source}", concurrency=1)(classify)

    def check(self) -> None:
        """Refuse what would lose records, before anything starts.

        Raises:
            ConfigError: an agent of the user's consumes a topic of ours.
        """
        ours = {f"stream-classifier.{source}" for source in self.intake.topics}
        for name, agent in self.app.agents.items():
            taken = self.intake.topics.intersection(getattr(agent.channel, "topics", ()))
            if taken and name not in ours:
                topic = min(taken)
                raise ConfigError(
                    f"agent {name} consumes {topic!r}, which belongs to the classifiers that have it as source; "
                    "read their sink instead, or leave out source= and sink= and call classify(stream, text=…) "
                    "inside the agent"
                )

    def install_transport(self) -> None:
        """Replace Faust's transport. At the start of the app, because reading app.conf fixes the user's settings."""
        conf = self.app.conf
        faust_guarantee: Any = conf.processing_guarantee
        if self._exactly_once or faust_guarantee is ProcessingGuarantee.EXACTLY_ONCE:
            self.intake.transactions = self.service.use_transactions(conf.id)
        self.app.transport = BatchTransport(conf.broker_consumer, self.app, intake=self.intake)

    def warn_when_open(self) -> None:
        """The web settings are the user's, and Faust's default is all interfaces: say so once, at start."""
        conf = self.app.conf
        if conf.web_enabled and not self._guarded and not is_loopback(conf.web_bind):
            logger.warning(
                "the app's web server on %s:%s shows /metrics to whoever reaches it; "
                'faust.App(…, web_bind="127.0.0.1") keeps it to this machine',
                conf.web_bind,
                conf.web_port,
            )

    async def _on_assigned(self, *args: Any, **kwargs: Any) -> None:
        self.service.health.assigned()

    def _skipped(self, topic: str, number: int) -> None:
        self.metrics.skipped(topic, number)
        if self._stop_at_gap:
            error = DeliveryError(
                f"{topic}: {number} records were gone before they were read, and offset_gap is 'stop'"
            )
            self._failed(error)

    def _failed(self, error: DeliveryError) -> None:
        self.app.add_future(self.service.fail(error))


class _BatchSchema(Schema[Any, Any]):
    """An event's value is its record batch: nothing is decoded on the event loop."""

    def compile(self, app: Any, **kwargs: Any) -> Any:
        async def decode(message: Any, *, propagate: bool = False) -> Any:
            return app.create_event(None, message.value, None, message)

        return decode


class _Boot(BootStrategy):
    """The app's own boot, with the web server first and our service before anything of Kafka."""

    def __init__(self, inner: Any, classifiers: AppClassifiers) -> None:
        super().__init__(classifiers.app)
        self._inner = inner
        self._classifiers = classifiers

    def server(self) -> Iterable[ServiceT]:
        self._classifiers.check()
        self._classifiers.install_transport()
        self._classifiers.warn_when_open()
        app = self._classifiers.app
        services = list(self._inner.server())
        early = [*app.sensors, *(service for service in services if isinstance(service, Web) or service is app.cache)]
        service = self._classifiers.service
        service.beacon.reattach(app.beacon)
        return [*early, service, *(other for other in services if other not in early)]

    def client_only(self) -> Iterable[ServiceT]:
        return cast("Iterable[ServiceT]", self._inner.client_only())

    def producer_only(self) -> Iterable[ServiceT]:
        return cast("Iterable[ServiceT]", self._inner.producer_only())


def _kafka_settings(app: faust.App) -> dict[str, Any]:
    """Bootstrap servers and security of the app, for aiokafka's own clients."""
    conf = app.conf
    return {
        "bootstrap_servers": server_list(conf.broker_producer, 9092),
        "client_id": conf.broker_client_id,
        **credentials_to_aiokafka_auth(conf.broker_credentials, conf.ssl_context),
    }


def _end_process() -> None:
    logger.critical("a forward pass hangs: ending the process; what is not committed is read again after a restart")
    logging.shutdown()
    os._exit(1)
