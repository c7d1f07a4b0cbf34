"""Source records as the consumer hands them over: aiokafka's own, made in one line."""

from __future__ import annotations

from collections.abc import Sequence

from aiokafka import ConsumerRecord

__all__ = ["record"]


def record(
    offset: int = 0,
    *,
    topic: str = "texts",
    partition: int = 0,
    timestamp: int = 1_700_000_000_000,
    key: bytes | None = b"key",
    value: bytes | None = b"value",
    headers: Sequence[tuple[str, bytes]] = (),
) -> ConsumerRecord:
    """A record as it was read; `timestamp` in ms, -1 for none."""
    sizes = (-1 if key is None else len(key), -1 if value is None else len(value))
    return ConsumerRecord(topic, partition, offset, timestamp, 0, key, value, None, *sizes, tuple(headers))
