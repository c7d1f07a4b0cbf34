"""Records that nobody wants: seeded, of every kind we can think of, and the check that each was answered.

`poison(seed, count)` makes the same records each time. `unanswered` reads everything back and says which records have
not exactly one result or dead letter from each classifier, or one whose bytes differ. `campaign` does both around a
worker of two classifiers, one that reads JSON and one that takes the whole value.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from aiokafka import AIOKafkaConsumer, TopicPartition

from stream_classifier.stream.dead_letter import open_letter
from stream_classifier.stream.header_keys import accept_any_header_key
from stream_classifier.stream.producer import BatchProducer
from tests.plugins.brokers import Broker, Record
from tests.plugins.workers import Worker

__all__ = [
    "KINDS",
    "MAX_GROWN_MIB",
    "PARTITIONS",
    "Outcome",
    "campaign",
    "places",
    "poison",
    "produce",
    "read_all",
    "unanswered",
]

PARTITIONS = 4
MAX_GROWN_MIB = 600.0
"""Nine values of 10 MB may be in flight, and each is held as bytes, as text and in a batch to produce."""
_HUGE_BYTES = 10_000_000
_SAMPLE_S = 0.5
_BLOCK = 256
_NUM_BLOCKS = 0x110000 // _BLOCK
_FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466"
_FLAGS = "\U0001f1fa\U0001f1f3\U0001f3f4\U000e0067\U000e0062\U000e007f"
_RIGHT_TO_LEFT = "\u05e9\u05dc\u05d5\u05dd \u202eabc\u202c \u0645\u0631\u062d\u0628\u0627 \u2067123\u2069 \u200f"
_WRONG = [
    *(b"{}", b'{"body": null}', b'{"body": 7}', b'{"body": ["a"]}', b'{"body": {"a": 1}}', b'{"body": true}', b"[]"),
    *(b"null", b'"body"', b"7", b"", b" ", b'{"": "empty"}', b'{"BODY": "case"}', b'{"body ": "space"}'),
]


def poison(seed: int, count: int) -> Iterator[tuple[str, Record]]:
    """(kind, record) `count` times; the kinds in turn, so that any 2,000 hold them all."""
    chance = random.Random(seed)
    names = list(KINDS)
    for number in range(count):
        kind = "huge text" if number % 2_000 == 1_000 else names[number % len(names)]
        value = _huge_text(chance, number) if kind == "huge text" else KINDS[kind](chance, number)
        key = chance.choice([None, b"", b"k%d" % (number % 50), chance.randbytes(chance.randrange(1, 40))])
        headers: list[tuple[str, Any]] = []
        if kind == "many headers":
            headers = [(f"h{i}", chance.randbytes(3)) for i in range(1_000)]
        elif kind == "raw header keys":
            raw = [chance.randbytes(chance.randrange(12)) for _ in range(3)]
            headers = [(name.decode(errors="surrogateescape"), chance.choice([name, None])) for name in raw]
        elif chance.random() < 0.2:
            headers = [("trace", chance.randbytes(8)), ("trace", b""), ("", b"empty key")]
        # A day is well within what every broker takes, and no two runs need the same timestamps.
        timestamp = int(time.time() * 1000) - chance.randrange(86_400_000)
        yield kind, Record(value, key=key, headers=headers, timestamp_ms=timestamp, partition=number % PARTITIONS)


def _document(text: Any, **more: Any) -> bytes:
    return json.dumps({"body": text, **more}, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _characters(chance: random.Random, number: int) -> str:
    """Forty characters of one block of 256, the blocks in turn; surrogates left out."""
    start = (number // len(KINDS)) % _NUM_BLOCKS * _BLOCK
    points = (start + chance.randrange(_BLOCK) for _ in range(40))
    return "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)


def _broken_json(chance: random.Random, number: int) -> bytes:
    whole = bytearray(_document("a text " * 5, n=[1, {"a": None}], s='"\\'))
    match chance.randrange(3):
        case 0:
            return bytes(whole[: chance.randrange(len(whole))])
        case 1:
            whole[chance.randrange(len(whole))] = chance.randrange(256)
            return bytes(whole)
        case _:
            return bytes(whole) + chance.choice([b"}", b"\0", b"{}", b"\n\n", b"//", b"\xef\xbb\xbf"])


def _nested(chance: random.Random, number: int) -> bytes:
    depth = chance.choice([100, 240, 250, 254, 260, 1_000, 1_023, 1_025, 10_000, 200_000])
    left, right = chance.choice([(b"[", b"]"), (b'{"a":', b"}")])
    inner = left * depth + b"1" + right * depth
    return inner if chance.random() < 0.3 else b'{"body":"deep","deep":' + inner + b"}"


def _numbers(chance: random.Random, number: int) -> bytes:
    what = chance.choice(["1e400", "-1e400", "9" * 5_000, "0." + "1" * 5_000, "NaN", "Infinity", "-0", "1E-999", "01"])
    return f'{{"body": "number", "deep": {what}}}'.encode()


def _duplicates(chance: random.Random, number: int) -> bytes:
    return b'{"body": "first", "body": ' + chance.choice([b'"second"', b"7", b"null"]) + b', "deep": 1, "deep": 2}'


def _surrogates(chance: random.Random, number: int) -> bytes:
    return chance.choice(
        [
            rb'{"body": "\ud800"}',
            rb'{"body": "\udfff\ud800 text"}',
            rb'{"body": "\ud83d\ude00 a pair"}',
            b'{"body": "\xed\xa0\x80"}',
            b"\xed\xb0\x80 raw",
            b"\xf4\x90\x80\x80 behind the last character",
            b"\xc0\x80 overlong",
        ]
    )


def _wrong_field(chance: random.Random, number: int) -> bytes:
    return chance.choice(_WRONG)


def _huge_text(chance: random.Random, number: int) -> bytes:
    unit = chance.choice(["word ", "ü", "東京", _FAMILY, "a", "\n", "[MASK] "])
    text = unit * (_HUGE_BYTES // len(unit.encode()))
    return _document(text) if chance.random() < 0.5 and unit != "\n" else text.encode()


KINDS: dict[str, Callable[[random.Random, int], bytes | None]] = {
    "random bytes": lambda chance, number: chance.randbytes(chance.randrange(2_000)),
    "broken JSON": _broken_json,
    "nested JSON": _nested,
    "huge numbers": _numbers,
    "duplicate keys": _duplicates,
    "NUL": lambda chance, number: _document("a\0b" + "\0" * chance.randrange(100)),
    "lone surrogates": _surrogates,
    "every block": lambda chance, number: _document(_characters(chance, number)),
    "right to left": lambda chance, number: _document(_RIGHT_TO_LEFT * chance.randrange(1, 20)),
    "emoji": lambda chance, number: _document((_FAMILY + _FLAGS) * chance.randrange(1, 50)),
    "many marks": lambda chance, number: _document("e" + "\u0301" * chance.randrange(2_000)),
    "null value": lambda chance, number: None,
    "wrong field": _wrong_field,
    "many headers": lambda chance, number: _document("a text with many headers"),
    "raw header keys": lambda chance, number: chance.choice([_document("a text"), b"\xff"]),
    "control characters": lambda chance, number: _document("".join(map(chr, range(32))) + "\x7f\x85\u2028\ufeff\uffff"),
    "ordinary": lambda chance, number: _document(f"an ordinary text, number {number}"),
}
"""Kind → what makes its value from a source of chance and the record's number."""


@dataclass
class Outcome:
    """What a worker made of a campaign.

    Attributes:
        wrong: a line for each record and classifier without exactly one answer, or with other bytes.
        counts: results, and dead letters by stage and error.
        exit_code: of the worker when it was stopped at the end.
        rss_mib: (records committed, resident MiB of the worker) twice a second, from when it was ready.
    """

    wrong: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    exit_code: int | None = None
    rss_mib: list[tuple[int, float]] = field(default_factory=list)

    @property
    def grown_mib(self) -> float:
        """The highest resident memory less the first."""
        return max(mib for _, mib in self.rss_mib) - self.rss_mib[0][1]


def campaign(
    broker: Broker,
    start: Callable[[list[dict[str, Any]], dict[str, Any]], Worker],
    *,
    source: str,
    model: Path,
    seed: int,
    count: int,
    timeout_s: float,
    said: Callable[[int, float], None] = lambda committed, rss_mib: None,
) -> Outcome:
    """Poison a topic, run a worker over it, stop it, read everything back.

    Args:
        start: gives a worker that is ready, from its classifiers and `app` settings.
        source: the topic to make; the others are named after it.
        model: the directory of the model that reads whole values.
        said: told of each sample of the memory.
    """
    broker.create_topic(source, partitions=PARTITIONS, config={"max.message.bytes": "16000000"})
    fields = {
        "name": "fields",
        "model": "null",
        "source": source,
        "sink": f"{source}.fields",
        "text": "/body",
        "passthrough": {"deep": "/deep"},
    }
    whole = {"name": "whole", "model": str(model), "source": source, "sink": f"{source}.whole"}
    records = [record for _, record in poison(seed, count)]
    asyncio.run(produce(broker.bootstrap, source, records))
    worker = start([fields, whole], {"id": source})
    outcome, process = Outcome(), psutil.Process(worker.process.pid)

    def done() -> bool:
        time.sleep(_SAMPLE_S)
        committed, mib = sum(broker.committed(source, source).values()), process.memory_info().rss / 2**20
        outcome.rss_mib.append((committed, mib))
        said(committed, mib)
        return committed >= count

    outcome.rss_mib.append((0, process.memory_info().rss / 2**20))
    worker.wait_for(done, timeout_s, "done with all records")
    outcome.exit_code = worker.stop()
    outcome.wrong, outcome.counts = asyncio.run(
        unanswered(
            broker.bootstrap,
            places(records),
            sinks={"fields": fields["sink"], "whole": whole["sink"]},
            dead_letter=f"{source}.dead-letter",
        )
    )
    return outcome


async def produce(bootstrap: str, topic: str, records: Sequence[Record]) -> None:
    """Produce to the partitions the records name: with aiokafka, for kafka-python refuses some of them itself."""
    producer = BatchProducer({"bootstrap_servers": bootstrap})
    await producer.start()
    try:
        for number in range(PARTITIONS):
            lane = [(r.key, r.value, r.timestamp_ms, list(r.headers)) for r in records if r.partition == number]
            await producer.send(topic, number, lane)
    finally:
        await producer.stop(30.0)


async def read_all(bootstrap: str, topic: str) -> list[Any]:
    """All committed records of a topic of PARTITIONS, whatever their header keys: kafka-python cannot read those."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        fetch_max_wait_ms=50,
    )
    await consumer.start()
    try:
        accept_any_header_key(consumer)
        at = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        consumer.assign(at)
        ends = await consumer.end_offsets(at)
        records: list[Any] = []
        while [tp for tp in at if await consumer.position(tp) < ends[tp]]:
            for batch in (await consumer.getmany(timeout_ms=200)).values():
                records += batch
        return records
    finally:
        await consumer.stop()


def places(records: Sequence[Record]) -> dict[tuple[int, int], Record]:
    """(partition, offset) → record, for all that was ever produced to a topic without transactions."""
    ends: Counter[int] = Counter()
    found = {}
    for record in records:
        number = record.partition or 0
        found[number, ends[number]] = record
        ends[number] += 1
    return found


async def unanswered(
    bootstrap: str,
    sources: dict[tuple[int, int], Record],
    *,
    sinks: dict[str, str],
    dead_letter: str,
) -> tuple[list[str], Counter[str]]:
    """What is wrong, a line for each record and classifier; and how many results and dead letters there are by cause.

    Args:
        sources: (partition, offset) → what was produced there.
        sinks: classifier → its topic of results.
        dead_letter: the topic of dead letters.
    """
    answers: dict[str, Counter[tuple[int, int]]] = {name: Counter() for name in sinks}
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    for name, sink in sinks.items():
        for result in await read_all(bootstrap, sink):
            at = json.loads(result.value)["source"]
            place = at["partition"], at["offset"]
            answers[name][place] += 1
            counts["result"] += 1
            if _told(result.key, result.headers, result.timestamp) != _sent(sources[place]):
                wrong.append(f"{name}: the result of {place} has another key, header or timestamp")
    for record in await read_all(bootstrap, dead_letter):
        letter = open_letter(record)
        if letter is None:
            wrong.append(f"{record.partition}/{record.offset} is no dead letter")
            continue
        place = letter.source_partition, letter.source_offset
        counts[f"{letter.stage} {letter.error}"] += 1
        for name in letter.classifiers:
            answers[name][place] += 1
        if (_told(letter.key, letter.headers, letter.timestamp), letter.value) != (
            _sent(sources[place]),
            sources[place].value,
        ):
            wrong.append(f"the dead letter of {place} has other bytes than its source")
    for name, seen in answers.items():
        wrong += [f"{name}: {seen[place]} answers to {place}" for place in sources if seen[place] != 1]
    return wrong, counts


def _told(key: bytes | None, headers: Sequence[tuple[str, Any]], timestamp: int | None) -> tuple[Any, ...]:
    return key, list(headers), timestamp


def _sent(record: Record) -> tuple[Any, ...]:
    return record.key, list(record.headers), record.timestamp_ms
