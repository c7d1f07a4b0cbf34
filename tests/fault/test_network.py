"""A network that breaks, between the worker and Apache Kafka: connections cut to the byte, answers that never come."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psutil
import pytest

from tests.fault.test_exactly_once import PARTITIONS
from tests.fault.traffic import Traffic
from tests.integration.test_worker import null
from tests.plugins.brokers import Record, kafka_script
from tests.plugins.network import (
    ADD_OFFSETS,
    ADD_PARTITIONS,
    CREATE_TOPICS,
    DESCRIBE_CONFIGS,
    END_TRANSACTION,
    FETCH,
    FIND_COORDINATOR,
    HEARTBEAT,
    INIT_PRODUCER_ID,
    METADATA,
    OFFSET_COMMIT,
    PRODUCE,
    TRANSACTION_OFFSETS,
    Fault,
    ProxiedKafka,
)
from tests.plugins.workers import Worker

pytestmark = pytest.mark.kafka

CUTS: tuple[Fault, ...] = ("cut request", "cut answer")
GUARANTEES = pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
MAX_RSS_BYTES = 176 << 20
OF_THE_GROUP = [FETCH, METADATA, HEARTBEAT]
OF_DELIVERY = {
    "at_least_once": [PRODUCE, OFFSET_COMMIT],
    "exactly_once": [PRODUCE, ADD_PARTITIONS, ADD_OFFSETS, TRANSACTION_OFFSETS, END_TRANSACTION],
}


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxiedKafka]:
    with ProxiedKafka(kafka_script(), tmp_path_factory.mktemp("kafka")) as proxied:
        yield proxied


@pytest.fixture
def traffic(
    kafka: ProxiedKafka, start_worker: Callable[..., Worker], unique_name: Callable[[str], str]
) -> Iterator[Traffic]:
    with Traffic(kafka.broker, start_worker, unique_name("source"), kafka.address) as scene:
        yield scene
    kafka.proxy.silence()


@GUARANTEES
def test_a_connection_cut_within_a_request_or_its_answer_loses_and_repeats_nothing(
    kafka: ProxiedKafka, traffic: Traffic, delivery: str
) -> None:
    worker = traffic.start(delivery=delivery)
    lookups = [kafka.proxy.strike(fault, FIND_COORDINATOR) for fault in CUTS]
    for request in [*OF_THE_GROUP, *OF_DELIVERY[delivery]]:
        for fault in CUTS:
            struck = kafka.proxy.strike(fault, request)
            worker.wait_for(struck.is_set, 60, f"met by: {fault} of {request}")
    worker.wait_for(lambda: all(struck.is_set() for struck in lookups), 60, "looking for its coordinator")
    traffic.finish(worker)


@GUARANTEES
def test_connections_cut_while_it_starts_are_made_anew(kafka: ProxiedKafka, traffic: Traffic, delivery: str) -> None:
    requests = [
        METADATA,
        DESCRIBE_CONFIGS,
        CREATE_TOPICS,
        FIND_COORDINATOR,
        *([INIT_PRODUCER_ID] if delivery == "exactly_once" else []),
    ]
    cuts = [kafka.proxy.strike(fault, request) for request in requests for fault in CUTS]
    worker = traffic.start(delivery=delivery)
    assert all(struck.is_set() for struck in cuts)
    traffic.finish(worker)


@GUARANTEES
def test_requests_whose_answers_never_come_are_sent_again(kafka: ProxiedKafka, traffic: Traffic, delivery: str) -> None:
    """Their outcome is unknown: the broker did what they asked for."""
    worker = traffic.start(delivery=delivery, delivery_timeout_s=8.0)
    for request in OF_DELIVERY[delivery]:
        if request != OFFSET_COMMIT:
            struck = kafka.proxy.strike("swallow answer", request)
            worker.wait_for(struck.is_set, 60, f"without an answer to {request}")
    traffic.finish(worker)


@GUARANTEES
def test_without_any_answer_the_worker_stops_loudly_and_a_restart_finishes(
    kafka: ProxiedKafka, traffic: Traffic, delivery: str
) -> None:
    worker = traffic.start(delivery=delivery, delivery_timeout_s=4.0)
    worker.wait_for(lambda: worker.metric("records_total") > 0, 60, "at work")
    kafka.proxy.silence(PRODUCE)
    assert worker.wait(60) == 1
    assert f"{traffic.source}.results" in worker.log.strip().splitlines()[-1]
    kafka.proxy.silence()
    traffic.finish(traffic.start(delivery=delivery))


def test_a_sink_that_does_not_answer_fills_no_memory_and_makes_no_healthy_worker(
    kafka: ProxiedKafka, start_worker: Callable[..., Worker], unique_name: Callable[[str], str]
) -> None:
    """The broker answers all else. 96 MiB wait in the source, a twelfth of that may be in flight."""
    source = unique_name("source")
    kafka.broker.create_topic(source, partitions=PARTITIONS)
    kafka.broker.produce(source, [Record(b"x" * 8192, partition=i % PARTITIONS) for i in range(12_288)])
    kafka.proxy.silence(PRODUCE)
    limits = {"max_in_flight_bytes": 8 << 20, "delivery_timeout_s": 20.0, "transaction_timeout_s": 120.0}
    workers = {
        delivery: start_worker(
            kafka.address,
            classifiers=[null(source, sink=f"{source}.{delivery}")],
            app={"id": f"{source}.{delivery}", "delivery": delivery, **limits},
            web={"liveness_timeout_s": 5.0},
        )
        for delivery in OF_DELIVERY
    }
    for worker in workers.values():
        worker.wait_for(lambda w=worker: w.get("/livez")[0] == 503, 60, "said to be stalled")
        assert "nothing was delivered" in worker.get("/livez")[1]
        assert 0 < worker.metric("in_flight_bytes") < 2 * limits["max_in_flight_bytes"]
        assert psutil.Process(worker.process.pid).memory_info().rss < MAX_RSS_BYTES
    kafka.proxy.silence()
    for delivery, worker in workers.items():
        group = f"{source}.{delivery}"
        worker.wait_for(
            lambda g=group: sum(kafka.broker.committed(g, source).values()) == 12_288, 120, "done after all"
        )
        assert worker.get("/livez")[0] == 200
        assert worker.stop() == 0
