"""Planned changes of the group under load, on Apache Kafka: nothing is lost, and nothing repeated, either guarantee."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable

import pytest
from kafka.admin import NewPartitions

from tests.fault.test_broker_faults import offsets_seen
from tests.fault.test_exactly_once import PARTITIONS, Scene, delivered
from tests.plugins.brokers import Broker, Record
from tests.plugins.workers import Worker

Start = Callable[..., Worker]
Name = Callable[[str], str]
PATIENT = {"session_timeout_s": 30.0, "rebalance_timeout_s": 30.0, "drain_timeout_s": 15.0}
"""Where nobody dies: time-outs that a stop, or a restart, stays below on a busy machine too."""
GUARANTEES = pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])


@pytest.fixture
def scene(apache_kafka: Broker, start_worker: Start, unique_name: Name) -> Scene:
    source = unique_name("source")
    apache_kafka.create_topic(source, partitions=PARTITIONS)
    return Scene(apache_kafka, start_worker, source)


def assigned(worker: Worker) -> list[str]:
    """What its log says it was given, each time."""
    return [line.split("assigned: ")[1] for line in worker.log.splitlines() if " assigned: " in line]


@GUARANTEES
def test_workers_that_come_and_go_under_load(scene: Scene, delivery: str) -> None:
    """1 → 3 → 1, and two of them restarted one after the other."""
    total = 24_000
    first = scene.start(delivery=delivery, **PATIENT)
    load = scene.fill_meanwhile(total, 0)
    first.wait_for(lambda: delivered(first) > 0, 60, "at work")
    second, third = scene.start(delivery=delivery, **PATIENT), scene.start(delivery=delivery, **PATIENT)
    assert first.stop() == 0  # in the midst of the rebalance for the third
    first = scene.start(delivery=delivery, **PATIENT)
    assert second.stop() == 0
    second = scene.start(delivery=delivery, **PATIENT)
    load.join()
    assert second.stop() == 0
    assert third.stop() == 0
    scene.wait_for_results(total, first)
    assert first.stop() == 0
    scene.assert_one_each(total)


@GUARANTEES
def test_partitions_added_to_the_source_are_read(scene: Scene, delivery: str) -> None:
    broker, source = scene.broker, scene.source
    worker = scene.start(delivery=delivery)
    scene.fill(400)
    scene.wait_for_results(400, worker)
    with broker.admin() as admin:
        admin.create_partitions({source: NewPartitions(total_count=PARTITIONS + 2)})
    records = [Record(b"text %d" % i, partition=PARTITIONS + i % 2) for i in range(400)]
    broker.produce(source, records)
    results = broker.consume_all(f"{source}.results", count=800, timeout_s=60)
    places = [(json.loads(r.value)["source"]["partition"], json.loads(r.value)["source"]["offset"]) for r in results]
    new = [place for place in places if place[0] >= PARTITIONS]
    assert sorted(places) == sorted(
        [(p, offset) for p in range(PARTITIONS) for offset in range(100)]
        + [(PARTITIONS + p, offset) for p in range(2) for offset in range(200)]
    )
    assert {result.partition for result in results} == set(range(PARTITIONS)), "of the sink, which has not grown"
    assert len(new) == 400
    assert f"{source} has grown" in worker.log
    assert worker.stop() == 0


@GUARANTEES
def test_a_spare_worker_takes_over_when_all_others_stop_at_once(scene: Scene, delivery: str) -> None:
    """Under load, it begins where they ended. Each of them learns in the midst of its stop that the group changes."""
    total = 16_000
    workers = [scene.start(delivery=delivery, **PATIENT) for _ in range(PARTITIONS + 1)]
    load = scene.fill_meanwhile(total, 0)

    def spares() -> list[Worker]:
        return [worker for worker in workers if assigned(worker)[-1:] == ["nothing"]]

    workers[-1].wait_for(lambda: len(spares()) == 1, 60, "one of five, of which one has nothing")
    (spare,) = spares()
    others = [worker for worker in workers if worker is not spare]
    begun = time.monotonic()
    for worker in others:
        worker.process.send_signal(signal.SIGTERM)
    assert [worker.wait() for worker in others] == [0] * len(others)
    spare.wait_for(lambda: assigned(spare)[-1].endswith("[0,1,2,3]"), 60, "given all of it")
    assert time.monotonic() - begun < PATIENT["session_timeout_s"], "nobody is waited for until a session has ended"
    load.join()
    scene.wait_for_results(total, spare)
    assert spare.stop() == 0
    scene.assert_one_each(total)


@GUARANTEES
def test_a_group_that_begins_at_the_end_keeps_where_it_began(scene: Scene, delivery: str) -> None:
    """What comes after the first assignment is classified, though the worker died before it had read anything."""
    scene.fill(400)
    worker = scene.start(delivery=delivery, offset_reset="latest")
    begun = dict.fromkeys(range(PARTITIONS), 100)
    worker.wait_for(lambda: scene.broker.committed(scene.group, scene.source) == begun, 60, "given its beginning")
    worker.kill()
    scene.fill(800, start=400)
    worker = scene.start(delivery=delivery, offset_reset="latest")
    scene.wait_for_results(400, worker)
    assert worker.stop() == 0
    places = sorted(offsets_seen(scene.broker, f"{scene.source}.results"))
    assert places == [(partition, offset) for partition in range(PARTITIONS) for offset in range(100, 200)]
    assert scene.broker.committed(scene.group, scene.source) == dict.fromkeys(range(PARTITIONS), 200)


@GUARANTEES
def test_a_static_member_comes_back_to_its_partitions_and_the_others_notice_nothing(
    scene: Scene, delivery: str
) -> None:

    def member(name: str) -> Worker:
        environ = {"STREAM_CLASSIFIER__APP__INSTANCE_ID": name}
        return scene.start(delivery=delivery, environ=environ, **PATIENT)

    first, second = member("one"), member("näxt / 2")
    second.wait_for(lambda: "nothing" not in assigned(second)[-1:], 60, "given partitions")
    first.wait_for(lambda: len(assigned(first)) > 1, 60, "left with half of them")
    before, others = assigned(first)[-1], list(assigned(second))
    load = scene.fill_meanwhile(8000, 0)
    first.wait_for(lambda: delivered(first) > 0, 60, "at work")
    assert first.stop() == 0
    first = member("one")
    load.join()
    scene.wait_for_results(8000, first)
    assert assigned(first) == [before]
    assert assigned(second) == others
    assert first.stop() == 0
    assert second.stop() == 0
    scene.assert_one_each(8000)
