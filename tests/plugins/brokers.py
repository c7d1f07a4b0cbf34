"""The brokers the suite runs on, as fixtures: the embedded one, Apache Kafka, and one fixture over both.

    def test_something(broker, unique_name):                 # runs twice: broker.kind is "embedded", then "kafka"
        topic = unique_name("source")
        broker.create_topic(topic, partitions=4)
        broker.produce(topic, [Record(b"text", key=b"k", headers=[("trace", b"1")], timestamp_ms=1, partition=2)])
        [record] = broker.consume_all(topic, count=1)

The helpers block: in an async test whose worker shares the event loop, call them through `asyncio.to_thread`.
Both brokers live as long as the session and keep all topics, hence `unique_name` for topics, groups and app ids.
A broker that is not there skips its tests locally and fails them where CI is set.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition

from stream_classifier.broker import EmbeddedBroker, broker_answers, spawn_tied
from stream_classifier.errors import ConfigError
from tests.plugins.ports import free_port_pair

MAX_RECORD_BYTES = 16 * 1024 * 1024
PROJECT_KAFKA = Path(__file__).parents[1] / "kafka"


class Record(NamedTuple):
    """A record to produce. Without a partition the key's hash decides, as for any Kafka client."""

    value: bytes | None
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()
    timestamp_ms: int | None = None
    partition: int | None = None


class RawHeaderKey(str):
    """A header key of any bytes, for `produce`: Kafka's clients would only write UTF-8."""

    def __new__(cls, raw: bytes) -> RawHeaderKey:
        return super().__new__(cls, raw.decode(errors="surrogateescape"))

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return super().encode(encoding, "surrogateescape")


class Broker:
    """A running broker: its address, and what a test needs to set a scene and to look at the outcome.

    Each call uses a client of its own: kafka-python's leave sockets open when their broker goes away under them.

    Args:
        replicas: of the topics it makes.
    """

    def __init__(self, bootstrap: str, kind: str, *, replicas: int = 1) -> None:
        self.bootstrap = bootstrap
        self.kind = kind
        self._replicas = replicas

    def admin(self) -> contextlib.closing[Any]:
        """`with broker.admin() as admin:` gives kafka-python's admin client, for what has no helper here."""
        return contextlib.closing(KafkaAdminClient(bootstrap_servers=self.bootstrap))

    def create_topic(self, name: str, *, partitions: int = 1, config: Mapping[str, str] | None = None) -> None:
        """Make a topic and wait until all its partitions have a leader."""
        options = {"num_partitions": partitions, "replication_factor": self._replicas, "configs": dict(config or {})}
        with self.admin() as admin:
            admin.create_topics({name: options}, wait_for_metadata=True)

    def produce(self, topic: str, records: Iterable[Record], *, timeout_s: float = 60.0) -> list[tuple[int, int]]:
        """Produce and wait for all acknowledgements: (partition, offset) of each record, in the order given."""
        producer = KafkaProducer(
            bootstrap_servers=self.bootstrap, acks="all", linger_ms=2, max_request_size=MAX_RECORD_BYTES
        )
        with contextlib.closing(producer):
            sent = [
                producer.send(
                    topic,
                    value=record.value,
                    key=record.key,
                    headers=list(record.headers),
                    partition=record.partition,
                    timestamp_ms=record.timestamp_ms,
                )
                for record in records
            ]
            producer.flush(timeout_s)
            return [(answer.partition, answer.offset) for answer in (future.get(timeout_s) for future in sent)]

    def consume_all(
        self, topic: str, *, count: int = 0, timeout_s: float = 30.0, isolation: str = "read_committed"
    ) -> list[Any]:
        """All records of a topic, by partition and offset: kafka-python's records with topic, partition, offset,
        timestamp, key, value, headers.

        Waits until there are at least `count` and the end of every partition is reached: a duplicate shows up as one
        record too many. Fails after `timeout_s` with the number seen. Reads in no group and commits nothing.
        """
        deadline = time.monotonic() + timeout_s
        records: list[Any] = []
        with contextlib.closing(self._reader(isolation)) as consumer:
            partitions = [
                TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())
            ]
            if not partitions:
                pytest.fail(f"topic {topic} does not exist on {self.bootstrap}")
            consumer.assign(partitions)
            consumer.seek_to_beginning()
            while len(records) < count or not self._at_end(consumer, partitions):
                if time.monotonic() > deadline:
                    pytest.fail(f"{topic}: {len(records)} records after {timeout_s:g} s, {count or 'its end'} expected")
                for batch in consumer.poll(timeout_ms=100).values():
                    records.extend(batch)
        return sorted(records, key=lambda record: (record.partition, record.offset))

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """The committed offset of each partition for which the group has one."""
        with self.admin() as admin:
            offsets = admin.list_group_offsets({group: None})[group]
        return {
            at.partition: offset.offset for at, offset in offsets.items() if at.topic == topic and offset.offset >= 0
        }

    def _reader(self, isolation: str) -> Any:
        return KafkaConsumer(
            bootstrap_servers=self.bootstrap,
            group_id=None,
            enable_auto_commit=False,
            isolation_level=isolation,
            max_partition_fetch_bytes=MAX_RECORD_BYTES,
            fetch_max_bytes=4 * MAX_RECORD_BYTES,
        )

    def _at_end(self, consumer: Any, partitions: list[TopicPartition]) -> bool:
        if self.kind == "embedded":  # its ListOffsets may answer too low an offset: only fetch responses know the end
            ends = {partition: consumer.highwater(partition) for partition in partitions}
        else:
            ends = consumer.end_offsets(partitions)  # read_committed: the last stable offset
        return all(end is not None and consumer.position(at) >= end for at, end in ends.items())


class ApacheKafka:
    """One Apache Kafka node under a test's control: kill() and start() again go on with the same data and port.

    Args:
        script: a start script that takes DATA_DIR PORT [key=value …] and runs the broker in the foreground.
        data_dir: where its data, and its log as broker.log, are kept.
        port: the client port; PORT+1 is the controller's. None takes two free ones.
        settings: further `key=value` lines of its server.properties.
        light: one of several on this machine: less memory, and code that is compiled sooner and runs slower.
    """

    def __init__(
        self,
        script: Path,
        data_dir: Path,
        port: int | None = None,
        settings: Sequence[str] = (),
        *,
        light: bool = False,
    ) -> None:
        self.port = port or free_port_pair()
        self.bootstrap = f"127.0.0.1:{self.port}"
        jvm = ["KAFKA_HEAP=384m", "KAFKA_JIT=1"] if light else []
        self._command = [*jvm, "bash", str(script.resolve()), str(data_dir), str(self.port), *settings]
        self._log_file = data_dir / "broker.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, timeout_s: float = 90.0) -> str:
        """Start, or start again, and return the address once the broker takes part in its cluster."""
        if self._process is not None:
            raise RuntimeError("already started; call stop() or kill() first")
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        with self._log_file.open("ab") as log:
            self._process = spawn_tied(["/usr/bin/env", *self._command], log=log)
        deadline = time.monotonic() + timeout_s
        while not (broker_answers(self.port) and self._has_joined()):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                tail = self._log_file.read_text(errors="replace")[-2000:]
                raise RuntimeError(
                    f"Apache Kafka did not start on {self.bootstrap} within {timeout_s:g} s; its log ends:\n{tail}"
                )
            time.sleep(0.1)
        return self.bootstrap

    def kill(self) -> None:
        """End it as a crash would, with SIGKILL. Does nothing when it is not running."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in order, with SIGTERM. Does nothing when it is not running."""
        self._end(signal.SIGTERM)

    def _end(self, signal_number: int) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal_number)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        finally:
            if process.stdin is not None:
                process.stdin.close()

    def _has_joined(self) -> bool:
        """A broker that answers may still be fenced: it is not listed then, and topics cannot be made."""
        with contextlib.closing(KafkaAdminClient(bootstrap_servers=self.bootstrap)) as admin:
            return self.port in {broker["port"] for broker in admin.describe_cluster()["brokers"]}


def kafka_script() -> Path:
    """The start script for Apache Kafka, or a skipped test (a failed one in CI) that says how to get one."""
    named = os.environ.get("STREAM_CLASSIFIER_KAFKA")
    if named:
        if not Path(named).is_file():
            pytest.fail(f"STREAM_CLASSIFIER_KAFKA names {named}, which is no file; unset it or give a start script")
        return Path(named)
    if not any((PROJECT_KAFKA / "libs").glob("kafka_*.jar")):
        _unavailable("Apache Kafka is not here; run `make kafka` or set STREAM_CLASSIFIER_KAFKA to a start script")
    if shutil.which("java") is None:
        _unavailable("Apache Kafka needs Java 17 or newer on the PATH")
    return PROJECT_KAFKA / "kafka.sh"


@pytest.fixture(scope="session")
def embedded_broker() -> Iterator[Broker]:
    """The embedded broker, empty at the start of the session."""
    embedded = EmbeddedBroker()
    try:
        bootstrap = embedded.start()
    except ConfigError as exc:
        _unavailable(str(exc))
    yield Broker(bootstrap, "embedded")
    embedded.stop()


@pytest.fixture(scope="session")
def apache_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One Apache Kafka node, empty at the start of the session. For restarts use `kafka_nodes`."""
    node = ApacheKafka(kafka_script(), tmp_path_factory.mktemp("kafka"))
    yield Broker(node.start(), "kafka")
    node.kill()


@pytest.fixture
def kafka_nodes(tmp_path: Path) -> Iterator[Callable[..., ApacheKafka]]:
    """Make Apache Kafka nodes of the test's own: `kafka_nodes(settings=[…])`, not started yet, ended with the test."""
    nodes: list[ApacheKafka] = []

    def make(*, settings: Sequence[str] = ()) -> ApacheKafka:
        nodes.append(ApacheKafka(kafka_script(), tmp_path / f"kafka-{len(nodes)}", settings=settings))
        return nodes[-1]

    yield make
    for node in nodes:
        node.kill()


@pytest.fixture(
    params=[pytest.param("embedded", marks=pytest.mark.embedded), pytest.param("kafka", marks=pytest.mark.kafka)]
)
def broker(request: pytest.FixtureRequest) -> Broker:
    """Each of the two brokers in turn."""
    chosen: Broker = request.getfixturevalue({"embedded": "embedded_broker", "kafka": "apache_kafka"}[request.param])
    return chosen


@pytest.fixture
def unique_name() -> Callable[[str], str]:
    """Names for topics, groups and app ids that no other test uses: unique_name("source") → "source-4f1c09ab"."""
    return lambda stem: f"{stem}-{uuid.uuid4().hex[:8]}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that use one broker by name get its marker too, so that `-m "not kafka"` leaves out all that need it."""
    for item in items:
        names = set(getattr(item, "fixturenames", ()))
        if names & {"apache_kafka", "kafka_nodes"}:
            item.add_marker(pytest.mark.kafka)
        if "embedded_broker" in names:
            item.add_marker(pytest.mark.embedded)


def _unavailable(reason: str) -> NoReturn:
    if os.environ.get("CI", "").lower() in {"1", "true"}:
        pytest.fail(reason)
    pytest.skip(reason)
