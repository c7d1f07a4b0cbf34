"""Replay dead letters: send their records to the source again, each at most once however often this is run.

What was replayed is remembered on the broker, as offsets of a group of its own: everything before the committed offset
is done, and the commit's metadata has a bit for each offset behind it (as Confluent's Parallel Consumer keeps its
out-of-order work). So a replay of one kind of letters leaves the others to a later one. Records and offsets go in one
transaction; without transactions, a replay that dies in between repeats what it sent since its last commit.
"""

from __future__ import annotations

import base64
import contextlib
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiokafka.errors import KafkaError, ProducerFenced

from stream_classifier.errors import ConfigError, FatalError
from stream_classifier.records import OutputRecord
from stream_classifier.stream.dead_letter import Letter, open_letter, replay_record
from stream_classifier.stream.letters import Reader, Selection, open_reader, partition_counts
from stream_classifier.stream.producer import (
    REFUSED,
    BatchProducer,
    ProduceError,
    TransactionalProducer,
    key_partition,
)

__all__ = ["Position", "Replay", "Replayed", "replay_group"]

_MAX_METADATA_CHARS = 4000
"""Kafka's `offset.metadata.max.bytes` is 4096."""
_TRANSACTION_TIMEOUT_S = 60.0
_DELIVERY_TIMEOUT_S = 30.0


def replay_group(topic: str) -> str:
    """The group that keeps the position of replays of a dead-letter topic; the transactional id, too."""
    return f"stream-classifier.replay.{topic}"


class Position:
    """Which offsets of a partition are done: all before `offset`, and some behind it.

    >>> position = Position(10)
    >>> position.add([10, 11, 13])
    >>> position.offset, 12 in position, 13 in position
    (12, False, True)
    >>> 13 in Position(position.offset, position.metadata())
    True
    """

    def __init__(self, offset: int, metadata: str = "") -> None:
        self.offset = offset
        self._beyond: set[int] = set()
        if metadata:
            bits = zlib.decompress(base64.b85decode(metadata))
            self._beyond = {
                offset + 8 * index + bit for index, byte in enumerate(bits) for bit in range(8) if byte >> bit & 1
            }

    def __contains__(self, offset: int) -> bool:
        return offset < self.offset or offset in self._beyond

    def add(self, offsets: Iterable[int]) -> None:
        """These are done too."""
        self._beyond.update(offset for offset in offsets if offset >= self.offset)
        while self.offset in self._beyond:
            self._beyond.discard(self.offset)
            self.offset += 1

    def forget_before(self, offset: int) -> None:
        """The topic begins there now."""
        if offset > self.offset:
            self._beyond = {at for at in self._beyond if at >= offset}
            self.offset = offset
            self.add(())

    def metadata(self) -> str:
        """What is done behind `offset`, for a commit; "" for nothing."""
        if not self._beyond:
            return ""
        bits = bytearray((max(self._beyond) - self.offset) // 8 + 1)
        for offset in self._beyond:
            bits[(offset - self.offset) // 8] |= 1 << (offset - self.offset) % 8
        return base64.b85encode(zlib.compress(bytes(bits), 9)).decode()


@dataclass
class Replayed:
    """What a replay did.

    Attributes:
        sources: source topic → records sent.
        kept: reason → letters that stay: "not_selected", "done_before", "too_often", "value_lost", "other_source",
            "refused", "no_letter".
        refusals: why the source refused records, a line each, by source.
    """

    sources: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    refusals: dict[str, str] = field(default_factory=dict)


class Replay:
    """One replay of a dead-letter topic.

    Args:
        kafka: bootstrap servers and security, as aiokafka's clients take them.
        topic: the dead-letter topic.
        sources: the topics that may be sent to. A letter names its source itself, and whoever may write letters must
            not be able to choose another topic.
        selection: which letters.
        max_replays: a record that was replayed so often stays.
        group: keeps the position.
        dry_run: only look.
        transactional: records and position in one transaction.
    """

    def __init__(
        self,
        kafka: Mapping[str, Any],
        topic: str,
        *,
        sources: frozenset[str],
        selection: Selection,
        max_replays: int,
        group: str,
        dry_run: bool,
        transactional: bool,
    ) -> None:
        self._kafka = kafka
        self._topic = topic
        self._sources = sources
        self._selection = selection
        self._max_replays = max_replays
        self._group = group
        self._dry_run = dry_run
        self._transactional = transactional
        self._num_partitions: dict[str, int] = {}
        self._positions: dict[Any, Position] = {}
        self._expected: dict[Any, int] = {}  # the offset behind what was read
        self.outcome = Replayed()

    async def run(
        self, *, timeout_s: float, on_read: Callable[[int, int], None] = lambda number, total: None
    ) -> Replayed:
        """Replay all that is wanted and was there when it began.

        Args:
            timeout_s: how long to wait for the broker.
            on_read: called with the number of letters just read, and of offsets in all.

        Raises:
            ConfigError: nothing was sent.
            FatalError: it had to stop; what was sent is remembered (see the module).
        """
        self._num_partitions = await partition_counts(self._kafka, timeout_s=timeout_s)
        if self._topic not in self._num_partitions:
            raise ConfigError(f"topic {self._topic!r} does not exist, or we may not see it; give a dead-letter topic")
        producer = None if self._dry_run else await self._start_producer()
        try:
            async with open_reader(
                self._kafka, self._topic, self._num_partitions[self._topic], group=self._group
            ) as reader:
                await self._find_positions(reader)
                async for partition, records in reader.records():
                    await self._replay(reader, producer, partition, records)
                    on_read(len(records), reader.num_offsets)
        except ProducerFenced as error:
            raise FatalError(
                f"another replay of {self._topic} has begun and goes on in the place of this one"
            ) from error
        except KafkaError as error:
            raise FatalError(
                f"the replay of {self._topic} stopped: {error!r}; run it again, it goes on where it was"
            ) from error
        finally:
            if isinstance(producer, TransactionalProducer):
                await producer.close()
            elif producer is not None:
                await producer.stop(1.0)
        return self.outcome

    async def _start_producer(self) -> BatchProducer:
        """Started before the position is read: it fences off a replay that runs still."""
        if not self._transactional:
            producer = BatchProducer(self._kafka, delivery_timeout_s=_DELIVERY_TIMEOUT_S)
        else:
            producer = TransactionalProducer(
                self._kafka,
                transactional_id=self._group,
                transaction_timeout_s=_TRANSACTION_TIMEOUT_S,
                delivery_timeout_s=_DELIVERY_TIMEOUT_S,
            )
        try:
            await producer.start()
        except KafkaError as error:
            what = f"no transaction with the id {self._group!r}" if self._transactional else "nothing may be produced"
            fix = "use --delivery at_least_once" if self._transactional else "look at the broker and at our rights"
            raise ConfigError(f"{what}: {error!r}; allow it, or {fix}") from error
        return producer

    async def _find_positions(self, reader: Reader) -> None:
        committed = await reader.consumer._coordinator.fetch_committed_offsets(reader.partitions)
        for partition in reader.partitions:
            begin = reader.starts[partition]
            known = committed.get(partition)
            if known is None or known.offset < 0:
                self._positions[partition] = Position(begin)
            else:
                self._positions[partition] = self._known(known.offset, known.metadata)
                self._positions[partition].forget_before(begin)

    def _known(self, offset: int, metadata: str) -> Position:
        try:
            return Position(offset, metadata)
        except (ValueError, zlib.error) as error:
            raise ConfigError(
                f"group {self._group!r} was not committed by a replay: its metadata is another's; give another --group"
            ) from error

    async def _replay(self, reader: Reader, producer: BatchProducer | None, partition: Any, records: list[Any]) -> None:
        """Replay some consecutive records of a partition, and remember it."""
        position = self._positions[partition]
        letters: list[Letter] = []
        done: list[int] = []
        expected = self._expected.setdefault(partition, reader.starts[partition])
        for record in records:
            done += range(expected, record.offset)  # no records: marks of transactions, or deleted ones
            expected = record.offset + 1
            letter = open_letter(record)
            if letter is None:
                self.outcome.kept["no_letter"] += 1
                done.append(record.offset)
                continue
            reason = self._reason_to_keep(letter, position)
            if reason is None:
                letters.append(letter)
            else:
                self.outcome.kept[reason] += 1
        self._expected[partition] = expected
        if producer is None:
            self.outcome.sources.update(letter.source for letter in letters)
        elif letters:
            self._refuse_too_many(position, [*done, *(letter.offset for letter in letters)])
            await self._send(producer, reader, partition, letters, done)
        else:
            position.add(done)

    def _reason_to_keep(self, letter: Letter, position: Position) -> str | None:
        if not self._selection.has(letter):
            return "not_selected"
        if letter.offset in position:
            return "done_before"
        if letter.source not in self._sources:
            return "other_source"
        if letter.lost_bytes is not None:
            return "value_lost"
        return "too_often" if letter.replays >= self._max_replays else None

    def _refuse_too_many(self, position: Position, offsets: list[int]) -> None:
        after = Position(position.offset, position.metadata())
        after.add(offsets)
        if len(after.metadata()) > _MAX_METADATA_CHARS:
            raise FatalError(
                f"{self._topic}: what was replayed and what was not alternate too often to be remembered; what was "
                "replayed so far is; select more of the letters, or the older ones first"
            )

    async def _send(
        self, producer: BatchProducer, reader: Reader, partition: Any, letters: list[Letter], done: list[int]
    ) -> None:
        """Send letters and commit the position behind them."""
        position = self._positions[partition]
        lanes: dict[tuple[str, int], list[Letter]] = {}
        for letter in letters:
            lanes.setdefault((letter.source, self._partition(letter)), []).append(letter)
        if not isinstance(producer, TransactionalProducer):
            sent = await self._send_lanes(producer, lanes)
            position.add([*done, *sent])
            await reader.consumer.commit({partition: (position.offset, position.metadata())})
            return
        await producer.begin()
        try:
            sent = await self._send_lanes(producer, lanes)
            position.add([*done, *sent])
            await producer.commit({partition: (position.offset, position.metadata())}, self._group)
        except BaseException:
            with contextlib.suppress(KafkaError):  # else the broker does it, after the transaction's time-out
                await producer.abort()
            raise

    async def _send_lanes(self, producer: BatchProducer, lanes: Mapping[tuple[str, int], list[Letter]]) -> list[int]:
        """The offsets of the letters that the sources took."""
        sent: list[int] = []
        for (source, number), letters in lanes.items():
            if source in self._num_partitions:
                before = len(sent)
                await self._send_lane(producer, source, number, letters, sent)
                self.outcome.sources[source] += len(sent) - before
            else:
                self._refuse(source, len(letters), "it does not exist, or we may not see it")
        return sent

    async def _send_lane(
        self, producer: BatchProducer, source: str, number: int, letters: list[Letter], sent: list[int]
    ) -> None:
        records: list[OutputRecord] = [replay_record(letter) for letter in letters]
        try:
            await producer.send(source, number, records)
            sent += [letter.offset for letter in letters]
        except ProduceError as error:
            if not isinstance(error.cause, REFUSED):
                raise error.cause from error
            sent += [letter.offset for letter in letters[: error.start]]
            stopped, rest = letters[error.start : error.start + len(error.records)], letters[error.start :]
            if len(stopped) == 1:
                self._refuse(source, 1, repr(error.cause))
                parts = [rest[1:]]
            else:
                middle = len(stopped) // 2
                parts = [rest[:middle], rest[middle:]]
            for part in parts:
                if part:
                    await self._send_lane(producer, source, number, part, sent)

    def _refuse(self, source: str, number: int, why: str) -> None:
        self.outcome.kept["refused"] += number
        self.outcome.refusals[source] = why

    def _partition(self, letter: Letter) -> int:
        """Where the record came from; if the source has become another topic, where Kafka would put its key."""
        count = self._num_partitions.get(letter.source, 1)
        if letter.source_partition < count:
            return letter.source_partition
        return key_partition(letter.key, letter.source_partition, count)
