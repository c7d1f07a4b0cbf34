"""Counters and histograms that count a whole batch in one call.

Plain numbers under a lock: what they are called and how they are exposed is metrics.py's. They exist because
prometheus_client has no batch observe: 256 calls of it cost about 400 µs, one of these about ten.

Each is called from the event loop and the inference thread and read from the web server's thread: a lock of its own is
held only while numbers are added or copied, never while text is made of them.

Shapes: N observations, L labels of a model, R rows (labels seen), B buckets (one more than bounds: the last is +Inf).
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Counter", "Distribution", "Histogram", "Key", "LabelledScores", "PolledGauges"]

Key = tuple[str, ...]


class Counter:
    """Counts by key.

    Args:
        max_keys: how many keys are told apart. A further one is counted with its last part replaced by "other", so
            that names we do not choose (error classes) cannot grow the exposition without bound.
    """

    def __init__(self, max_keys: int | None = None) -> None:
        self._lock = threading.Lock()
        self._counts: dict[Key, int] = {}
        self._max_keys = max_keys

    def add(self, key: Key, n: int = 1) -> None:
        """Add `n` >= 0; 0 makes the key visible."""
        if n < 0:
            raise ValueError(f"a counter only goes up: {n} for {key}")
        with self._lock:
            if key not in self._counts and self._max_keys is not None and len(self._counts) >= self._max_keys:
                key = (*key[:-1], "other")
            self._counts[key] = self._counts.get(key, 0) + int(n)

    def items(self) -> list[tuple[Key, int]]:
        """A copy: (key, count), in the order of first use."""
        with self._lock:
            return list(self._counts.items())


class Distribution(NamedTuple):
    """What a histogram knows of one key: observations a bucket (not cumulated), int64 `[B]`, and their sum."""

    counts_B: NDArray[np.int64]
    sum: float


class Histogram:
    """Observations by key, in fixed buckets; an observation belongs to the first bound it does not exceed.

    Args:
        bounds: upper bounds, ascending, without +Inf.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self._lock = threading.Lock()
        self._bounds = tuple(bounds)
        self._bounds_array = np.asarray(bounds, dtype=np.float64)
        self._counts: dict[Key, NDArray[np.int64]] = {}
        self._sums: dict[Key, float] = {}

    def observe(self, key: Key, value: float) -> None:
        """One observation."""
        bucket = bisect_left(self._bounds, value)
        with self._lock:
            self._counts_of(key)[bucket] += 1
            self._sums[key] += float(value)

    def observe_many(self, key: Key, values_N: NDArray[Any]) -> None:
        """Float `[N]`, finite."""
        buckets = np.searchsorted(self._bounds_array, values_N, side="left")
        added_B = np.bincount(buckets, minlength=len(self._bounds) + 1)
        total = float(values_N.sum())
        with self._lock:
            counts_B = self._counts_of(key)
            counts_B += added_B
            self._sums[key] += total

    def items(self) -> list[tuple[Key, Distribution]]:
        """A copy, in the order of first use."""
        with self._lock:
            return [(key, Distribution(counts.copy(), self._sums[key])) for key, counts in self._counts.items()]

    def _counts_of(self, key: Key) -> NDArray[np.int64]:
        counts = self._counts.get(key)
        if counts is None:
            counts = self._counts[key] = np.zeros(len(self._bounds) + 1, dtype=np.int64)
            self._sums[key] = 0.0
        return counts


class LabelledScores:
    """The results of one classifier: how many by label and decision, and the scores by label.

    Labels are known by name, not by index: a model loaded later may order them differently or bring new ones.

    Args:
        bounds: upper bounds of the score's buckets.
        max_score_labels: once more labels than this were seen, further scores are counted without label ("").
    """

    def __init__(self, bounds: Sequence[float], max_score_labels: int) -> None:
        self._lock = threading.Lock()
        self._bounds_array = np.asarray(bounds, dtype=np.float64)
        self._num_buckets = len(bounds) + 1
        self._max_score_labels = max_score_labels
        self._labels: tuple[str, ...] = ()  # of the model that answered last
        self._rows_L = np.empty(0, dtype=np.intp)  # row of each of them
        self._names: list[str] = []  # of each row
        self._decisions_R2 = np.zeros((0, 2), dtype=np.int64)  # uncertain, accepted
        # Row 0 is for scores without label, row r + 1 for label r.
        self._scores_RB = np.zeros((1, self._num_buckets), dtype=np.int64)
        self._sums_R = np.zeros(1, dtype=np.float64)

    def add(
        self,
        labels: Sequence[str],
        label_indices_N: NDArray[Any],
        accepted_N: NDArray[np.bool_],
        scores_N: NDArray[Any],
    ) -> None:
        """N results of a model with these (distinct) `labels`; indices in `[0, L)`, scores finite.

        Raises:
            ValueError: an index is outside `labels`; nothing was counted.
        """
        num_labels = len(labels)
        added_L2 = _count(label_indices_N * 2 + accepted_N, num_labels * 2).reshape(num_labels, 2)
        buckets_N = np.searchsorted(self._bounds_array, scores_N, side="left")
        with self._lock:
            if labels is not self._labels:
                self._adopt(tuple(labels))
            self._decisions_R2[self._rows_L] += added_L2
            if len(self._names) > self._max_score_labels:
                self._scores_RB[0] += _count(buckets_N, self._num_buckets)
                self._sums_R[0] += scores_N.sum()
                return
            added = _count(label_indices_N * self._num_buckets + buckets_N, num_labels * self._num_buckets)
            self._scores_RB[self._rows_L + 1] += added.reshape(num_labels, self._num_buckets)
            self._sums_R[self._rows_L + 1] += np.bincount(label_indices_N, weights=scores_N, minlength=num_labels)

    def decisions(self) -> list[tuple[str, int, int]]:
        """A copy: (label, accepted, uncertain) of every label seen, zeros included."""
        with self._lock:
            counts = self._decisions_R2.tolist()
            return [
                (name, accepted, uncertain) for name, (uncertain, accepted) in zip(self._names, counts, strict=True)
            ]

    def scores(self) -> list[tuple[str, Distribution]]:
        """A copy: the scores of every label that has any; label "" for those counted without."""
        with self._lock:
            rows = np.flatnonzero(self._scores_RB.sum(axis=1))
            return [
                (
                    self._names[row - 1] if row else "",
                    Distribution(self._scores_RB[row].copy(), float(self._sums_R[row])),
                )
                for row in rows.tolist()
            ]

    def _adopt(self, labels: tuple[str, ...]) -> None:
        if labels == self._labels:
            self._labels = labels  # the same object next time: no comparison
            return
        row_of = {name: row for row, name in enumerate(self._names)}
        for name in labels:
            row_of.setdefault(name, len(row_of))
        self._names = list(row_of)
        self._labels = labels
        self._rows_L = np.array([row_of[name] for name in labels], dtype=np.intp)
        self._decisions_R2 = _grown(self._decisions_R2, len(row_of))
        if len(row_of) <= self._max_score_labels:
            self._scores_RB = _grown(self._scores_RB, len(row_of) + 1)
            self._sums_R = _grown(self._sums_R, len(row_of) + 1)


class PolledGauges:
    """What is asked for when somebody looks, of every part of the stream that offers it: sum, union, maximum."""

    def __init__(self) -> None:
        self._in_flight: list[Callable[[], tuple[int, int]]] = []
        self._lag: list[Callable[[], Mapping[tuple[str, int], int]]] = []
        self._ages: list[Callable[[], float | None]] = []

    def add(
        self,
        in_flight: Callable[[], tuple[int, int]] | None,
        lag: Callable[[], Mapping[tuple[str, int], int]] | None,
        oldest_undelivered_s: Callable[[], float | None] | None,
    ) -> None:
        """Ask these too."""
        if in_flight is not None:
            self._in_flight.append(in_flight)
        if lag is not None:
            self._lag.append(lag)
        if oldest_undelivered_s is not None:
            self._ages.append(oldest_undelivered_s)

    def in_flight(self) -> tuple[int, int]:
        """Records and bytes, of all together."""
        counts = [source() for source in self._in_flight]
        return sum(records for records, _ in counts), sum(num_bytes for _, num_bytes in counts)

    def lag(self) -> list[tuple[Key, int]]:
        """((topic, partition), records >= 0), sorted."""
        lags: dict[tuple[str, int], int] = {}
        for source in self._lag:
            lags.update(source())
        return [((topic, str(partition)), max(0, lag)) for (topic, partition), lag in sorted(lags.items())]

    def oldest_undelivered_s(self) -> float:
        """The greatest age, 0 when there is nothing undelivered."""
        return max((source() or 0.0 for source in self._ages), default=0.0)


def _count(codes_N: NDArray[Any], size: int) -> NDArray[np.int64]:
    """How often each of 0 … size - 1 occurs, int64 `[size]`."""
    counts = np.bincount(codes_N, minlength=size)
    if len(counts) > size:
        raise ValueError(f"a label index is outside the model's labels: code {len(counts) - 1} of {size}")
    return counts


def _grown(array: NDArray[Any], num_rows: int) -> NDArray[Any]:
    grown = np.zeros((num_rows, *array.shape[1:]), dtype=array.dtype)
    grown[: len(array)] = array
    return grown
