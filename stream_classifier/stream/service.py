"""The running side of one app's classifiers: models, topics, producer and pipelines, from start to stop.

A mode Service that the app starts after its web server and before its consumer, and stops after it. Every background
task is owned here; what any of them raises stops the worker.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import monotonic
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupAuthorizationFailedError, KafkaError
from mode import Service

from stream_classifier.config import ClassifierSettings, ModelSettings
from stream_classifier.errors import ConfigError, DeliveryError, ModelDirectoryError, ModelError
from stream_classifier.model.classifier import Classifier
from stream_classifier.model.protocols import TextModel, TokenBatch
from stream_classifier.observe.health import Health
from stream_classifier.observe.metrics import Metrics
from stream_classifier.stream.batcher import Batcher, Limits, TextList
from stream_classifier.stream.broker_watch import BrokerWatch
from stream_classifier.stream.delivery import Delivery, Placement
from stream_classifier.stream.guarantee import AtLeastOnce, Guarantee
from stream_classifier.stream.pipeline import Pipeline, Threads
from stream_classifier.stream.producer import BatchProducer, TransactionalProducer
from stream_classifier.stream.record_batch import RecordBatch
from stream_classifier.stream.recovery import Recovery
from stream_classifier.stream.reporting import MicroBatchMetrics
from stream_classifier.stream.sources import Loaded, Sourced, check_routes, readings
from stream_classifier.stream.topics import connect, prepare_topics
from stream_classifier.stream.transactions import TransactionAborted, Transactions, transactional_id
from stream_classifier.stream.transport import BatchConsumer

__all__ = ["ClassifierService", "Loaded", "ServiceSettings"]

logger = logging.getLogger(__name__)

_WARM_UP_TEXT = "warm-up"
_PING_S = 5.0


@dataclass(frozen=True)
class ServiceSettings:
    """What holds for all classifiers of an app; the same names and defaults as the `app` table of the configuration."""

    create_topics: bool = True
    connect_timeout_s: float = 60.0
    delivery_timeout_s: float = 120.0
    transaction_timeout_s: float = 60.0
    drain_timeout_s: float = 8.0
    liveness_timeout_s: float = 60.0


class ClassifierService(Service):
    """Owns what runs for an app's classifiers.

    Args:
        classifiers: settings and model (a name to load, or an object) of each.
        consumer: the app's consumer, once it exists.
        kafka: gives bootstrap servers and security for aiokafka's clients.
        on_hang: called when a forward pass hangs: a thread cannot be ended, only the process.
    """

    mundane_level = "debug"

    def __init__(
        self,
        classifiers: Sequence[tuple[ModelSettings, str | TextModel]],
        *,
        settings: ServiceSettings,
        metrics: Metrics,
        consumer: Callable[[], BatchConsumer],
        kafka: Callable[[], Mapping[str, Any]],
        on_hang: Callable[[], None],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._classifiers = classifiers
        self._settings = settings
        self._metrics = metrics
        self._get_consumer = consumer
        self._kafka = kafka
        self._on_hang = on_hang
        self._admin: AIOKafkaAdminClient | None = None
        self._producer: BatchProducer | None = None
        self._app_id = ""
        self.transactions: Transactions | None = None
        self._broker: BrokerWatch | None = None
        self._loaded: dict[str, Loaded] = {}
        self._pipelines: dict[str, Pipeline] = {}
        self.threads = Threads(
            inference=ThreadPoolExecutor(1, thread_name_prefix="inference"),
            text=ThreadPoolExecutor(1, thread_name_prefix="text"),
        )
        self.health = Health(
            pending=self._pending,
            broker_answers=lambda: self._broker is None or self._broker.answers,
            liveness_timeout_s=settings.liveness_timeout_s,
        )
        self.failure: BaseException | None = None

    # Start ----------------------------------------------------------------------------------------------------------

    async def on_start(self) -> None:
        """Load and warm the models, then find or make the topics, then connect the producer."""
        for settings, model in self._classifiers:
            self._loaded[settings.name] = await self._load(settings, model)
        _tune_interpreter()
        self.health.warm()
        sources = self._by_source()
        if not sources:
            return
        kafka = self._kafka()
        self._admin = await connect(kafka, timeout_s=self._settings.connect_timeout_s)
        outputs = {
            source: sorted({topic for item in sourced for topic in item.route.topics})
            for source, sourced in sources.items()
        }
        partitions = await prepare_topics(
            self._admin,
            outputs,
            create=self._settings.create_topics,
            timeout_s=self._settings.connect_timeout_s,
        )
        guarantee = await self._start_guarantee(kafka)
        for source, sourced in sources.items():
            placement = Placement(source, partitions[source], {topic: partitions[topic] for topic in outputs[source]})
            self._pipelines[source] = Pipeline(
                readings(sourced),
                placement=placement,
                delivery=Delivery(placement),
                guarantee=guarantee,
                threads=self.threads,
                on_finished=lambda batch: self._get_consumer().finish(batch),
                on_delivered=self.health.delivered,
                on_aborted=self._aborted,
                metrics=self._metrics,
            )
            self._own(self._pipelines[source].run())
        self._metrics.watch(in_flight=self._in_flight, lag=self._lag, oldest_undelivered_s=self._oldest_s)
        self._own(self._watch_broker(self._admin))

    def use_transactions(self, app_id: str) -> Transactions:
        """Deliver exactly once. Before the start; the consumer has to know these transactions."""
        self._app_id = app_id
        self.transactions = Transactions(
            lambda partition: self._transactional_producer(transactional_id(app_id, partition)), app_id
        )
        return self.transactions

    def _transactional_producer(self, name: str) -> TransactionalProducer:
        return TransactionalProducer(
            self._kafka(),
            transactional_id=name,
            transaction_timeout_s=self._settings.transaction_timeout_s,
            delivery_timeout_s=self._settings.delivery_timeout_s,
        )

    async def _start_guarantee(self, kafka: Mapping[str, Any]) -> Guarantee:
        if self.transactions is not None:
            await self._require_transactions()
            return self.transactions
        self._producer = BatchProducer(kafka, delivery_timeout_s=self._settings.delivery_timeout_s)
        await self._producer.start()
        return AtLeastOnce(self._producer)

    async def _require_transactions(self) -> None:
        """Refuse a broker, or an ACL, that would only fail once partitions are assigned."""
        producer = self._transactional_producer(f"{self._app_id}-start")
        try:
            await asyncio.wait_for(producer.start(), self._settings.connect_timeout_s)
        except (KafkaError, asyncio.TimeoutError) as error:
            raise ConfigError(
                f'exactly_once: the broker starts no transactions with id "{producer.transactional_id}" and a time-out '
                f'of {self._settings.transaction_timeout_s:g} s: {error!r}; allow it, or set delivery = "at_least_once"'
            ) from error
        finally:
            await producer.close()

    async def _load(self, settings: ModelSettings, model: str | TextModel) -> Loaded:
        loop = asyncio.get_running_loop()
        try:
            classifier = await loop.run_in_executor(self.threads.inference, load_classifier, settings, model)
            check_routes(settings, classifier.labels)
        except BaseException as error:
            self._metrics.model_load(settings.name, success=False)
            if isinstance(error, ConfigError) and not isinstance(error, ModelDirectoryError):
                raise ConfigError(f"classifier {settings.name}: {error}") from error
            raise
        self._metrics.model_load(settings.name, success=True)
        self._metrics.model_info(
            settings.name,
            name=classifier.name,
            digest=classifier.digest,
            backend=classifier.backend,
            device=classifier.device,
            dtype=classifier.dtype,
        )
        batcher = self._batcher(settings, classifier)
        self._own(batcher.run())
        self._own(batcher.watch())
        logger.info(
            "classifier %s: model %s on %s (%s, %s), %d labels",
            settings.name,
            classifier.name,
            classifier.device,
            classifier.backend,
            classifier.dtype,
            len(classifier.labels),
        )
        return Loaded(settings, classifier, batcher)

    def _batcher(self, settings: ModelSettings, classifier: Classifier) -> Batcher[Any]:
        batch = settings.batch
        limits = Limits(
            max_tokens=classifier.batch_tokens if batch.max_tokens == "auto" else batch.max_tokens,
            max_records=batch.max_records,
            max_wait_s=batch.max_wait_ms / 1000.0,
            timeout_s=settings.inference_timeout_s,
        )
        probe = (classifier.probe_texts or (_WARM_UP_TEXT,))[:1]
        recovery: Recovery[Any]
        concatenate: Callable[[Sequence[Any]], Any]
        if classifier.tokenizer_key is None:
            recovery = self._recovery(classifier, classifier.answer, TextList(probe))
            concatenate = TextList.concatenate
        else:
            recovery = self._recovery(classifier, classifier.forward, classifier.encode(probe))
            concatenate = TokenBatch.concatenate
        observer = MicroBatchMetrics(self._metrics, settings.name)
        return Batcher(
            recovery,
            concatenate,
            thread=self.threads.inference,
            limits=limits,
            observer=observer,
            on_hang=self._on_hang,
        )

    def _recovery(self, classifier: Classifier, call: Callable[[Any], Any], probe: Any) -> Recovery[Any]:
        return Recovery(call, num_labels=len(classifier.labels), probe=probe, on_retry=self._metrics.retry)

    def _by_source(self) -> dict[str, list[Sourced]]:
        sources: dict[str, list[Sourced]] = {}
        for loaded in self._loaded.values():
            if isinstance(loaded.settings, ClassifierSettings):
                sources.setdefault(loaded.settings.source, []).append(Sourced(loaded.settings, loaded))
        return sources

    # Running --------------------------------------------------------------------------------------------------------

    def loaded(self, name: str) -> Loaded:
        """The classifier of that name, once the service has started."""
        return self._loaded[name]

    def submit(self, batch: RecordBatch) -> None:
        """Take a record batch that was read from one of our sources."""
        if self.failure is None:
            self._pipelines[batch.topic].submit(batch)

    def _aborted(self, error: TransactionAborted) -> None:
        if not error.released and self.failure is None:
            self._get_consumer().read_again(error.partition, error)

    def _own(self, work: Coroutine[Any, Any, None]) -> None:
        self.add_future(self._guarded(work))

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, records would be lost by going on
            if self.should_stop:
                logger.warning("%r while stopping: what is not committed is read again", error)
            else:
                await self.fail(error)

    async def fail(self, error: BaseException) -> None:
        """Stop the worker: what is in flight is given up here, and read again after a restart."""
        if self.failure is None:
            self.failure = error
            if self._pipelines:
                self._get_consumer().abandon()
            await self.crash(error)

    async def _watch_broker(self, admin: AIOKafkaAdminClient) -> None:
        """Keep an eye on the broker, so that /livez blames the right one; and judge liveness between probes, too."""
        self._broker = BrokerWatch(lambda: admin.describe_topics([]))
        while True:
            await self._broker.look()
            await self._check_group()
            self.health.livez()
            await asyncio.sleep(min(_PING_S, self._settings.liveness_timeout_s / 4))

    async def _check_group(self) -> None:
        try:
            await self._get_consumer().check_group()
        except GroupAuthorizationFailedError as error:
            message = f"the broker does not let us into the group {error.args[0]}; allow READ on it"
            raise DeliveryError(message) from error

    # Watching -------------------------------------------------------------------------------------------------------

    def _pending(self) -> bool:
        uncommitted = self.transactions is not None and self.transactions.is_pending
        return bool(self._pipelines) and (uncommitted or self._get_consumer().watermark.pending)

    def _in_flight(self) -> tuple[int, int]:
        budget = self._get_consumer().intake.budget
        return budget.records, budget.bytes

    def _lag(self) -> dict[tuple[str, int], int]:
        return self._get_consumer().lag()

    def _oldest_s(self) -> float | None:
        oldest = self._get_consumer().watermark.oldest_started_at()
        return None if oldest is None else monotonic() - oldest

    # Stop -----------------------------------------------------------------------------------------------------------

    async def on_stop(self) -> None:
        """The consumer has drained and committed: let go of the broker and the threads."""
        if self._producer is not None:
            await self._producer.stop(self._settings.drain_timeout_s)
        if self.transactions is not None:
            await self.transactions.close(self._settings.drain_timeout_s)
        if self._admin is not None:
            await self._admin.close()
        for executor in (self.threads.text, self.threads.inference):
            executor.shutdown(wait=False, cancel_futures=True)


def load_classifier(settings: ModelSettings, model: str | TextModel) -> Classifier:
    """Load and warm the model of these settings. Blocks: for the inference thread, or a command without a stream."""
    classifier = Classifier.load(
        model,
        device=settings.device,
        dtype=settings.dtype,
        backend=settings.backend,
        task=settings.task,
        positive_label=settings.positive_label,
        threshold=settings.threshold,
        thresholds=settings.thresholds,
        top_k=settings.top_k,
        labels=settings.labels,
        max_text_chars=settings.max_text_chars,
    )
    classifier.warm_up()
    if classifier.tokenizer_key is None:
        try:
            classifier.answer([_WARM_UP_TEXT])
        except Exception as error:
            raise ModelError(f"the model of classifier {settings.name!r} fails on its first text: {error!r}") from error
    return classifier


def _tune_interpreter() -> None:
    """Settings of the whole process that the stream's speed depends on."""
    # A busy event loop takes the GIL from the inference thread for a whole interval: 0.2 ms instead of Python's 5 ms.
    sys.setswitchinterval(min(sys.getswitchinterval(), 2e-4))
    # Records in flight are many objects and no cycles: the collector's defaults search them for a third of the time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(max(gc.get_threshold()[0], 100_000), 20, 20)
