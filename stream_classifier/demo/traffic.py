"""The demo's traffic: articles at a steady pace into the source topic, results and dead letters back out of theirs.

Every article carries its known category in a header, which the worker passes on: accuracy is measured on what stands in
the sink topic, nowhere else. Now and then a broken record goes among them.
"""

from __future__ import annotations

import itertools
import threading
import time
import warnings
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from stream_classifier.demo.news import Article

with warnings.catch_warnings():  # kafka-python reads its schemas in a way that Python 3.11 deprecates
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka import KafkaConsumer, KafkaProducer

__all__ = ["DEAD_LETTERS", "SINK", "SOURCE", "Producer", "Reader", "Tally"]

SOURCE = "news"
SINK = "news.labelled"
DEAD_LETTERS = "news.dead-letter"
CATEGORY_HEADER = "category"

_BROKEN: tuple[bytes | None, ...] = (b"\xff\xfe these bytes are not UTF-8", None)
_ARTICLES_BETWEEN_BROKEN = 15
_NUM_RECENT = 8
_MAX_LATENCIES = 5000


class Producer(threading.Thread):
    """Sends articles and broken records, in turn and at a pace, until stopped or through.

    Args:
        bootstrap: the broker.
        articles: what to send, over and over.
        rate: records a second.
        limit: how many records to send; None: no end.
    """

    def __init__(self, bootstrap: str, articles: Sequence[Article], *, rate: float, limit: int | None) -> None:
        super().__init__(name="demo-producer", daemon=True)
        self._broker = bootstrap
        self._articles = articles
        self._rate = rate
        self._limit = limit
        self._stopping = threading.Event()
        self.num_sent = 0
        self.num_broken = 0
        self.texts: dict[int, str] = {}
        """Number → the beginning of an article that was sent lately, for the live view."""

    def run(self) -> None:
        """Send."""
        producer = KafkaProducer(bootstrap_servers=self._broker, acks="all", linger_ms=0)
        started = time.monotonic()
        try:
            for number, (value, headers) in enumerate(itertools.islice(self._records(), self._limit)):
                if self._stopping.wait(max(0.0, started + number / self._rate - time.monotonic())):
                    break
                producer.send(SOURCE, value=value, key=b"%d" % number, headers=headers)
                self.num_sent += 1
            producer.flush(30)
        finally:
            producer.close(5)

    def stop(self) -> None:
        """Send no more."""
        self._stopping.set()

    def _records(self) -> Iterator[tuple[bytes | None, list[tuple[str, bytes]]]]:
        broken = itertools.cycle(_BROKEN)
        for number, article in enumerate(itertools.cycle(self._articles)):
            if number % _ARTICLES_BETWEEN_BROKEN == _ARTICLES_BETWEEN_BROKEN - 1:
                self.num_broken += 1
                yield next(broken), []
            self.texts[self.num_sent] = article.text[:80]
            self.texts.pop(self.num_sent - 1000, None)
            yield article.text.encode(), [(CATEGORY_HEADER, article.category.encode())]


@dataclass
class Tally:
    """What came back, counted from the output topics."""

    num_results: int = 0
    num_right: int = 0
    num_uncertain: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    dead_letters: Counter[str] = field(default_factory=Counter)
    latencies_s: deque[float] = field(default_factory=lambda: deque(maxlen=_MAX_LATENCIES))
    recent: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=_NUM_RECENT))
    first_at: float | None = None
    last_at: float | None = None

    @property
    def num_dead_letters(self) -> int:
        """Records without a result."""
        return sum(self.dead_letters.values())

    @property
    def accuracy(self) -> float | None:
        """Share of results whose label is the article's known category; None before the first."""
        return self.num_right / self.num_results if self.num_results else None

    @property
    def rate(self) -> float | None:
        """Results a second, from the first to the last."""
        if self.first_at is None or self.last_at is None or self.last_at <= self.first_at:
            return None
        return (self.num_results - 1) / (self.last_at - self.first_at)

    def latency_s(self, quantile: float) -> float | None:
        """Record timestamp to result read back, of the last results."""
        return float(np.quantile(self.latencies_s, quantile)) if self.latencies_s else None


class Reader(threading.Thread):
    """Reads the output topics from their beginning and keeps the tally."""

    def __init__(self, bootstrap: str) -> None:
        super().__init__(name="demo-reader", daemon=True)
        self._consumer: Any = KafkaConsumer(
            SINK,
            DEAD_LETTERS,
            bootstrap_servers=bootstrap,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            fetch_max_wait_ms=50,
        )
        self._stopping = threading.Event()
        self.tally = Tally()

    def run(self) -> None:
        """Read until stopped."""
        try:
            while not self._stopping.is_set():
                for records in self._consumer.poll(timeout_ms=200).values():
                    for record in records:
                        self._count(record)
        finally:
            self._consumer.close()

    def stop(self) -> None:
        """Read no more, and wait for that."""
        self._stopping.set()
        self.join(10)

    def _count(self, record: Any) -> None:
        tally = self.tally
        headers = dict(record.headers)
        if record.topic == DEAD_LETTERS:
            stage = headers["__connect.errors.stage"].decode()
            tally.dead_letters[f"{stage} {headers['__connect.errors.exception.class.name'].decode()}"] += 1
            return
        now = time.time()
        result = orjson.loads(record.value)
        tally.num_results += 1
        tally.num_right += result["label"].encode() == headers[CATEGORY_HEADER]
        tally.num_uncertain += result["decision"] == "uncertain"
        tally.labels[result["label"]] += 1
        tally.latencies_s.append(now - result["source"]["timestamp"] / 1000)
        tally.first_at = tally.first_at or now
        tally.last_at = now
        tally.recent.append({**result, "number": int(record.key)})
