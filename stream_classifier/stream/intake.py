"""What one app reads in batches, and what the transport tells others about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from stream_classifier.errors import DeliveryError
from stream_classifier.stream.budget import Budget
from stream_classifier.stream.transactions import Transactions

__all__ = ["Intake"]


def _raise(error: DeliveryError) -> None:
    raise error


@dataclass
class Intake:
    """What the transport reads in batches, and its limits. One for each app, set before the consumer is made.

    Attributes:
        topics: the batch topics.
        max_batch_records: records in one record batch at most.
        budget: what may be in flight.
        drain_timeout_s: how long stopping and rebalancing wait for what is in flight.
        on_skipped: called with (topic, number) when retention has overtaken records that were not read yet.
        on_failed: called with what must stop the worker.
        transactions: what commits the batch topics' offsets under exactly-once; None: the consumer itself does.
    """

    topics: set[str] = field(default_factory=set)
    max_batch_records: int = 1000
    budget: Budget = field(default_factory=lambda: Budget(20_000, 64 << 20))
    drain_timeout_s: float = 8.0
    on_skipped: Callable[[str, int], None] | None = None
    on_failed: Callable[[DeliveryError], None] = _raise
    transactions: Transactions | None = None
