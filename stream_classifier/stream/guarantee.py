"""When what a source partition produced counts as delivered: the one place where the delivery guarantees differ.

A *step* is one delivery of a source partition: the outputs of some of its record batches, in order. It is taken through
a guarantee, which gives the producer and says when all of it is delivered: at once (`AtLeastOnce`, here), or with the
transaction that commits its offsets (`Transactions`, in transactions.py).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from stream_classifier.stream.delivery import Producer
from stream_classifier.stream.watermark import TopicPartition

__all__ = ["AtLeastOnce", "Guarantee", "Step"]


@dataclass(eq=False, slots=True)
class Step:
    """What a step is given, and what it says of itself.

    Attributes:
        producer: takes the step's outputs.
        end: set by the step once everything is acknowledged: the offset behind the last source record it covers.
        delivered: called, in order, when the step's outputs are delivered; never, when they are not.
    """

    producer: Producer
    end: int | None = None
    delivered: list[Callable[[], None]] = field(default_factory=list)


class Guarantee(Protocol):
    """A delivery guarantee."""

    def step(self, partition: TopicPartition) -> AbstractAsyncContextManager[Step]:
        """Take a step of a source partition; the steps of one partition must not overlap.

        Raises (out of the `async with`):
            TransactionAborted: nothing of it will be seen; the partition is read again.
            DeliveryError: the worker must stop.
        """


class AtLeastOnce:
    """Delivered is what is acknowledged; offsets are committed behind it, and what lies between may be repeated.

    Args:
        producer: one for all partitions.
    """

    def __init__(self, producer: Producer) -> None:
        self._producer = producer

    @asynccontextmanager
    async def step(self, partition: TopicPartition) -> AsyncIterator[Step]:
        """A step whose outputs are delivered when it ends without an error."""
        step = Step(self._producer)
        yield step
        for tell in step.delivered:
            tell()
