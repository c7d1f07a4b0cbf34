"""Tables of texts with their labels in memory, and what names their columns.

Reading them is for reading.py, dividing rows for splits.py.
"""

from __future__ import annotations

import shlex
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from stream_classifier.errors import ConfigError

__all__ = [
    "LABEL_SEPARATOR",
    "METHOD_COLUMN",
    "MULTI_LABEL_COLUMN",
    "ORIGIN_COLUMN",
    "TEXT_JOIN",
    "Columns",
    "Table",
    "check_known_labels",
    "label_targets",
    "labels_of",
]

TEXT_JOIN = "\n"
"""What stands between the parts of a text that is made of several columns."""

T = TypeVar("T")

LABEL_SEPARATOR = "|"
"""What stands between the labels of a cell that holds several."""

MULTI_LABEL_COLUMN = "labels"
"""The column whose cells hold several labels."""

ORIGIN_COLUMN, METHOD_COLUMN = "augmented_from", "augmentation"
"""The columns that `augment` adds: the row that a row was made from (for an original: itself), and how (empty)."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns hold what, and how their cells are read.

    Raises:
        ConfigError: no text column, or a column with two meanings.
    """

    text: tuple[str, ...] = ("text",)
    """Several are joined with `TEXT_JOIN`, empty ones left out."""
    label: str | None = None
    """None: `label` where there is such a column, else `labels`, which makes the table multi-label."""
    multi_label: bool = False
    """Whether the cells of `label` hold several labels, as those of a column named `labels` do."""
    group: str | None = None
    """What rows share that belong together (an author, a conversation): a split keeps them on one side."""
    time: str | None = None
    """ISO 8601 or a number: a split validates and tests on the latest rows."""
    label_map: Mapping[str, str] = field(default_factory=dict)
    """New names of labels; equal ones are merged, and rows of a label with an empty one are left out."""
    skip_bad_rows: bool = False
    """Whether rows that cannot be read are left out and counted, and not refused."""

    def __post_init__(self) -> None:
        if not self.text or not all(self.text):
            raise ConfigError(f"the text columns are {','.join(self.text)!r}; name one, or several as title,body")
        named = [*self.text, *(name for name in (self.label, self.group, self.time) if name is not None)]
        twice = next((name for name, count in Counter(named).items() if count > 1), None)
        if twice is not None:
            raise ConfigError(f"the column {twice!r} is named for two things; give each a column of its own")

    def labels_in(self, names: Sequence[str]) -> tuple[str, bool]:
        """The label column among the columns `names`, and whether its cells hold several labels."""
        label = self.label
        if label is None:
            found = MULTI_LABEL_COLUMN in names and "label" not in names
            label = MULTI_LABEL_COLUMN if found else "label"
        return label, self.multi_label or label == MULTI_LABEL_COLUMN


@dataclass(frozen=True, slots=True)
class Table:
    """Texts with their labels, row i of one for row i of the others.

    Attributes:
        source: where the rows are from, for messages.
        texts: never empty.
        label_sets: the labels of each text, none twice: just one, or where `multi_label` any number.
        multi_label: whether a text may have several labels, or none.
        lines: where each row starts in its file, from 1; None for rows that are from no file.
        groups: equal for rows that belong together, empty for one that stands alone; None without a group column.
        times: seconds since 1970, or the column's own numbers; None without a time column.
        parts: the cells that each text is joined from; None with one text column.
        origins: equal for a row and those that `augment` made from it; None in a table that it did not write.
        augmented: whether each row was made by `augment`; None in a table that it did not write.
        num_skipped: rows that had no text or no label, or could not be read, and are not here.
        num_dropped: rows that the label map leaves out on purpose.
    """

    source: str
    texts: list[str] = field(repr=False)
    label_sets: list[tuple[str, ...]] = field(repr=False)
    multi_label: bool = False
    lines: list[int] | None = field(default=None, repr=False)
    groups: list[str] | None = field(default=None, repr=False)
    times: list[float] | None = field(default=None, repr=False)
    parts: list[tuple[str, ...]] | None = field(default=None, repr=False)
    origins: list[str] | None = field(default=None, repr=False)
    augmented: list[bool] | None = field(default=None, repr=False)
    num_skipped: int = 0
    num_dropped: int = 0

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def labels(self) -> list[str]:
        """The label of each text.

        Raises:
            ConfigError: the table is multi-label.
        """
        if self.multi_label:
            raise ConfigError(f"{self.source}: its texts have several labels each; this needs one, in a column label")
        return [label_set[0] for label_set in self.label_sets]

    def label_counts(self) -> Counter[str]:
        """How many rows each label has."""
        return Counter(label for label_set in self.label_sets for label in label_set)

    def take(self, indices: Sequence[int], source: str) -> Table:
        """The rows at `indices`, in that order."""
        return Table(
            source,
            _at(self.texts, indices),
            _at(self.label_sets, indices),
            multi_label=self.multi_label,
            lines=None if self.lines is None else _at(self.lines, indices),
            groups=None if self.groups is None else _at(self.groups, indices),
            times=None if self.times is None else _at(self.times, indices),
            parts=None if self.parts is None else _at(self.parts, indices),
            origins=None if self.origins is None else _at(self.origins, indices),
            augmented=None if self.augmented is None else _at(self.augmented, indices),
        )


def labels_of(table: Table) -> tuple[str, ...]:
    """The labels of a table to train on, sorted.

    Raises:
        ConfigError: there is only one, or one with characters that no model directory may have: control characters, and
            halves of UTF-16 pairs, which JSON lines can spell and UTF-8 cannot.
    """
    labels = tuple(sorted(table.label_counts()))
    odd = next((label for label in labels if any(unicodedata.category(char) in ("Cc", "Cs") for char in label)), None)
    if odd is not None:
        what = "control characters or half characters (surrogates)"
        raise ConfigError(f"{table.source}: the label {odd!r} has {what}; rename it (--label-map)")
    if len(labels) < 2:
        seen = f"all {len(table)} rows have the label {labels[0]!r}" if labels else "no row has a label"
        raise ConfigError(f"{table.source}: {seen}; give at least two labels")
    return labels


def label_targets(table: Table, labels: Sequence[str]) -> NDArray[np.intp] | NDArray[np.float32]:
    """The truth as numbers: the index of each row's label `[N]`; for a multi-label table 0 or 1 a label, `[N, L]`.

    Raises:
        ConfigError: a label that is not among `labels`.
    """
    check_known_labels(table, labels, known_from="the model")
    index = {label: i for i, label in enumerate(labels)}
    if not table.multi_label:
        return np.array([index[label] for label in table.labels], dtype=np.intp)
    truth_NL = np.zeros((len(table), len(labels)), dtype=np.float32)
    for i, label_set in enumerate(table.label_sets):
        truth_NL[i, [index[label] for label in label_set]] = 1.0
    return truth_NL


def check_known_labels(table: Table, labels: Sequence[str], *, known_from: str) -> None:
    """Refuses rows that have labels the model does not know.

    Raises:
        ConfigError: with the labels, and where those known are from.
    """
    unknown = sorted(set(table.label_counts()) - set(labels))
    if unknown:
        what = f"{len(unknown)} labels are" if len(unknown) > 1 else "1 label is"
        named = ", ".join(repr(label) for label in unknown[:5]) + (" …" if len(unknown) > 5 else "")
        fix = (
            "correct, rename or leave such rows out with --label-map (old=new, old=), or add rows of that kind to the "
            "training file"
        )
        if len(unknown) == 1:
            option = f"--out-of-scope-label {shlex.quote(unknown[0])}"
            fix += (
                "; where it marks texts that belong to no label, make it known with "
                f"stream-training thresholds MODEL DATA --keep-in-scope 0.95 {option}"
            )
        raise ConfigError(f"{table.source}: {what} not among those of {known_from}: {named}; {fix}")


def _at(values: Sequence[T], indices: Sequence[int]) -> list[T]:
    return [values[i] for i in indices]
