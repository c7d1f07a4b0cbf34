"""Records nobody wants, by the thousand: each has a result or a dead letter, the worker lives, memory is bounded."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.plugins.brokers import Broker
from tests.plugins.poison import KINDS, PARTITIONS, places, poison, produce, unanswered
from tests.plugins.workers import Worker

Start = Callable[..., Worker]
Name = Callable[[str], str]


def test_poison_is_the_same_for_a_seed_and_has_every_kind() -> None:
    first, again = ([record._replace(timestamp_ms=0) for _, record in poison(5, 500)] for _ in range(2))
    assert first == again
    assert {kind for kind, _ in poison(5, 500)} == set(KINDS)
    assert [kind for kind, _ in poison(5, 2_000)].count("huge text") == 1


@pytest.mark.slow
def test_every_poison_record_is_answered_and_the_worker_lives(
    apache_kafka: Broker, start_worker: Start, unique_name: Name, tiny_bert_dir: Path
) -> None:
    source = unique_name("source")
    apache_kafka.create_topic(source, partitions=PARTITIONS, config={"max.message.bytes": "16000000"})
    made = list(poison(seed=20, count=3_000))
    records = [record for _, record in made]
    asyncio.run(produce(apache_kafka.bootstrap, source, records))
    fields = {
        "name": "fields",
        "model": "null",
        "source": source,
        "sink": f"{source}.fields",
        "text": "/body",
        "passthrough": {"deep": "/deep"},
    }
    whole = {"name": "whole", "model": str(tiny_bert_dir), "source": source, "sink": f"{source}.whole"}
    worker = start_worker(apache_kafka, classifiers=[fields, whole], app={"id": source})
    memory = psutil.Process(worker.process.pid)
    before, highest = memory.memory_info().rss, 0

    def done() -> bool:
        nonlocal highest
        highest = max(highest, memory.memory_info().rss)
        return sum(apache_kafka.committed(source, source).values()) == len(made)

    worker.wait_for(done, 120, "done with all records")
    assert worker.stop() == 0
    wrong, counts = asyncio.run(
        unanswered(
            apache_kafka.bootstrap,
            places(records),
            sinks={"fields": fields["sink"], "whole": whole["sink"]},
            dead_letter=f"{source}.dead-letter",
        )
    )
    assert wrong == []
    assert not Counter({"decode NullValue": 1, "decode InvalidUtf8": 1, "decode InvalidJson": 1, "result": 1}) - counts
    assert highest - before < 600 << 20
