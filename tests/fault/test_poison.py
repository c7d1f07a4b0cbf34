"""Records nobody wants, by the thousand: each has a result or a dead letter, the worker lives, memory is bounded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.plugins.brokers import Broker
from tests.plugins.poison import KINDS, MAX_GROWN_MIB, campaign, poison
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
    outcome = campaign(
        apache_kafka,
        lambda classifiers, app: start_worker(apache_kafka, classifiers=classifiers, app=app),
        source=unique_name("source"),
        model=tiny_bert_dir,
        seed=20,
        count=3_000,
        timeout_s=120,
    )
    assert outcome.exit_code == 0
    assert outcome.wrong == []
    seen = {"decode NullValue": 1, "decode InvalidUtf8": 1, "decode InvalidJson": 1, "result": 1}
    assert not Counter(seen) - outcome.counts
    assert outcome.grown_mib < MAX_GROWN_MIB
