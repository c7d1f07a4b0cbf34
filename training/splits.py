"""Divides rows into a part to train on and a part held out: by label, reproducible, copies and groups kept together.

A text that is in both parts, or nearly, would be remembered, not recognised, and make the held-out rows look better
than new texts will be.

    N rows, L labels.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from stream_classifier.errors import ConfigError
from training.data import Table
from training.duplicates import connected, near_duplicates

__all__ = ["split_table", "units_of"]

logger = logging.getLogger(__name__)

_NO_LABEL = ""  # the rows of a multi-label table to which no label applies are shared out like those of a label


def split_table(table: Table, *, share: float, seed: int, part: str = "validation") -> tuple[Table, Table]:
    """Two tables, the second with about `share` of the rows; the rows of each keep their order.

    With a time column, the second part is the latest rows. Without one it has about `share` of the rows of each label,
    of which one at least stays in the first part: what is not trained cannot be told apart. What `units_of` keeps
    together goes to one side; near-duplicates only where that leaves every label rows to hold out. Rows that `augment`
    made are never held out: those made from rows that are go away.

    Args:
        table: the rows to divide.
        share: above 0, below 1.
        seed: equal seeds give equal parts; nothing is drawn when a time column decides.
        part: what the second part is for, for messages.

    Raises:
        ConfigError: a share out of range, or too few rows for a second part.
    """
    if not 0 < share < 1:
        raise ConfigError(f"the {part} share is {share!r}; give one above 0 and below 1, such as 0.1")
    chosen = _chosen(table, share, seed, near=True)
    if table.times is None and table.groups is None and not _covers(table, chosen, share):
        logger.warning("%s: most rows are nearly copies of others; only equal ones stay on one side", table.source)
        chosen = _chosen(table, share, seed, near=False)
    if not chosen or len(chosen) == len(table):
        raise ConfigError(
            f"{table.source}: {len(table)} rows, without copies and with groups kept together, are too few to keep "
            f"{100 * share:.0f} % for {part}; give more rows, or a file of your own with --{part}"
        )
    first = [i for i in range(len(table)) if i not in chosen]
    held_out = [i for i in sorted(chosen) if table.augmented is None or not table.augmented[i]]
    return table.take(first, table.source), table.take(held_out, f"{table.source} ({part} part)")


def units_of(table: Table, *, near: bool = True) -> NDArray[np.intp]:
    """A number for each row `[N]`, equal for rows that a split keeps on one side; deterministic.

    Those are rows with the same value in the group column, rows that `augment` made with what they were made from, and,
    unless time divides them, copies: in a stream too the future repeats the past. All join, so that a copy ties two
    groups together.

    Args:
        near: whether near-duplicates are copies, or only equal texts.
    """
    numbers = np.arange(len(table))
    edges = []
    if table.times is None:
        copies_N = near_duplicates(table.texts) if near else np.unique(table.texts, return_inverse=True)[1]
        _, first, unit_N = np.unique(copies_N, return_index=True, return_inverse=True)
        edges.append(np.stack([numbers, first[unit_N]], axis=1))
    for groups in (table.groups, table.origins):
        if groups is None:
            continue
        first_of: dict[str, int] = {}
        firsts = [first_of.setdefault(group, i) if group else i for i, group in enumerate(groups)]
        edges.append(np.stack([numbers, np.array(firsts)], axis=1))
    return connected(np.concatenate(edges), len(table)) if edges else numbers


def _chosen(table: Table, share: float, seed: int, *, near: bool) -> set[int]:
    units = _rows_of(units_of(table, near=near))
    return _latest(table.times, units, share) if table.times is not None else _stratified(table, units, share, seed)


def _covers(table: Table, chosen: set[int], share: float) -> bool:
    """Whether every label whose share is a row or more has one among those chosen."""
    found = {label for i in chosen for label in table.label_sets[i]}
    return all(label in found for label, count in table.label_counts().items() if count * share >= 1)


def _rows_of(units_N: NDArray[np.intp]) -> list[list[int]]:
    order = np.argsort(units_N, kind="stable")
    return [[int(i) for i in rows] for _, rows in groupby(order, key=lambda i: units_N[i])]


def _latest(times: Sequence[float], units: Sequence[list[int]], share: float) -> set[int]:
    """The units with the latest rows, so many that they hold `share` of the rows; equal times go together."""
    latest = [(max(times[i] for i in rows), rows) for rows in units]
    chosen: set[int] = set()
    for _, same in groupby(sorted(latest, key=lambda unit: -unit[0]), key=lambda unit: unit[0]):
        if len(chosen) >= share * len(times):
            break
        chosen.update(i for _, rows in same for i in rows)
    return chosen


def _stratified(table: Table, units: Sequence[list[int]], share: float, seed: int) -> set[int]:
    """Units taken one by one, those of rare labels first, in random order, where they fit what their labels lack.

    This is stratified sampling for one label a row, and close to iterative stratification (Sechidis, Tsoumakas,
    Vlahavas 2011) for several.
    """
    originals = [[i for i in rows if table.augmented is None or not table.augmented[i]] for rows in units]
    units = [rows for rows, own in zip(units, originals, strict=True) if own]
    counts = [Counter(label for i in own for label in table.label_sets[i] or (_NO_LABEL,)) for own in originals if own]
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    missing = {label: share * count for label, count in total.items()}
    units_left = Counter(label for count in counts for label in count)
    rarity = [min(total[label] for label in count) for count in counts]
    chosen: set[int] = set()
    for u in sorted(np.random.default_rng(seed).permutation(len(units)), key=rarity.__getitem__):
        if all(n <= missing[label] + 0.5 + 1e-9 and units_left[label] > 1 for label, n in counts[u].items()):
            chosen.update(units[u])
            for label, n in counts[u].items():
                missing[label] -= n
                units_left[label] -= 1
    return chosen if chosen or table.groups is None else _smallest(units, counts, units_left)


def _smallest(units: Sequence[list[int]], counts: Sequence[Counter[str]], units_left: Counter[str]) -> set[int]:
    """Where every group is too large for the share: the smallest that leaves all labels in the first part."""
    possible = [
        rows for rows, count in zip(units, counts, strict=True) if all(units_left[label] > 1 for label in count)
    ]
    smallest = min(possible, key=len, default=[])
    return set(smallest)
