"""What labels and rows show about a table, each with what to do: names, numbers, gaps. Copies are for leakage.py."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from stream_classifier.model.labels import named
from training.data import Table

__all__ = ["Finding", "Severity", "Tables", "counted", "label_findings", "lines_of", "row_findings"]

Severity = Literal["error", "warning", "note"]

_SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
_MAX_LINES = 5
_FEW_EXAMPLES = 8
_IMBALANCE = 10
_SHIFT = 0.1
_MIN_VALIDATION = 200  # fewer are not calibrated on
_SEPARATORS = re.compile(r"[\s_\u2010-\u2015\u2212-]+")
_NUMBER = re.compile(r"\s*[+-]?[\d.,]+(e[+-]?\d+)?\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables of a fit before anything is divided."""

    train: Table
    validation: Table | None = None
    test: Table | None = None
    out_of_scope_label: str | None = None
    """A label that stays out of the head: training need not have it, and its rows are not among those counted."""

    def parts(self) -> list[tuple[str, Table]]:
        """Name and table of those that are there."""
        named_tables = (("train", self.train), ("validation", self.validation), ("test", self.test))
        return [(part, table) for part, table in named_tables if table is not None]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found.

    Attributes:
        code: its name for machines, such as "leakage".
        severity: "error": a fit refuses; "warning": results suffer; "note": good to know.
        part: "train", "validation" or "test", the table to look at.
        message: what was found, with numbers.
        fix: what to do.
        lines: the first lines of the part's file that show it.
    """

    code: str
    severity: Severity
    part: str
    message: str
    fix: str
    lines: tuple[int, ...] = field(default=())

    @property
    def rank(self) -> int:
        """0 for the gravest."""
        return _SEVERITIES.index(self.severity)

    def as_dict(self) -> dict[str, Any]:
        """A part of the JSON object of `--json`."""
        return {
            "code": self.code,
            "severity": self.severity,
            "part": self.part,
            "message": self.message,
            "fix": self.fix,
            "lines": list(self.lines),
        }


def lines_of(table: Table, rows: Sequence[int]) -> tuple[int, ...]:
    """The lines of the first few rows, none for rows from no file."""
    return () if table.lines is None else tuple(table.lines[i] for i in rows[:_MAX_LINES])


def counted(number: int, noun: str) -> str:
    """A number and its noun, as the subject of a sentence in the present: "1 text is", "2 texts are".

    >>> counted(2, "text")
    '2 texts are'
    """
    return f"{number} {noun} is" if number == 1 else f"{number} {noun}s are"


def label_findings(tables: Tables) -> Iterator[Finding]:
    """What is wrong with the labels, within the training table and between it and the others."""
    yield from _names(tables)
    outside = tables.out_of_scope_label
    parts = tables.parts()
    of_one_kind = len({table.multi_label for _, table in parts}) == 1
    if outside is not None and of_one_kind:
        yield from (unfit := [*_unfit_for_scope(parts, outside)])
        if unfit:
            return
        parts = [(part, _without(table, outside)) for part, table in parts]
    (_, train), *others = parts
    yield from _counts(train)
    for part, table in others:
        yield from _differences(train, part, table)


def row_findings(tables: Tables) -> Iterator[Finding]:
    """What is wrong with single rows of each table."""
    for part, table in tables.parts():
        if table.num_skipped:
            message = f"{counted(table.num_skipped, 'row')} left out: no text, no label, or not readable"
            yield Finding("skipped-rows", "warning", part, message, "fill them in, or remove them from the file")
        if table.num_dropped:
            message = f"{counted(table.num_dropped, 'row')} left out by the label map"
            yield Finding("dropped-rows", "note", part, message, "nothing to do unless their labels should be known")
        blank = [i for i, text in enumerate(table.texts) if not text.strip()]
        if blank:
            message = f"{counted(len(blank), 'text')} white space alone, so that nothing tells their label"
            yield Finding("blank-texts", "warning", part, message, "remove these rows", lines_of(table, blank))
        if part != "train" and table.augmented is not None and any(table.augmented):
            rows = [i for i, is_made in enumerate(table.augmented) if is_made]
            message = f"{counted(len(rows), 'row')} made by augment: figures on them tell nothing about the stream"
            fix = "give the table that was augmented, or another with original rows only"
            yield Finding("augmented-rows", "error", part, message, fix, lines_of(table, rows))
        if all(_NUMBER.fullmatch(text) for text in table.texts):
            message = f"all {len(table)} texts are numbers"
            yield Finding("numbers", "error", part, message, "name the column that holds the texts with --text-column")
    validation = tables.validation
    if validation is not None and len(validation) < _MIN_VALIDATION:
        message = f"{len(validation)} rows are too few to calibrate on, and choose the best epoch with a lot of luck"
        yield Finding("few-rows", "note", "validation", message, f"give {_MIN_VALIDATION} or more")


def _names(tables: Tables) -> Iterator[Finding]:
    alike: dict[str, set[str]] = defaultdict(set)
    counts = tables.train.label_counts()
    for _, table in tables.parts():
        for label in table.label_counts():
            alike[_SEPARATORS.sub("", unicodedata.normalize("NFKC", label).casefold())].add(label)
    for labels in alike.values():
        if len(labels) > 1:
            kept, *others = sorted(labels, key=lambda label: (-counts[label], label))
            message = f"the labels {named([kept, *others])} differ in case, spaces, hyphens or underscores only"
            yield Finding("similar-labels", "warning", "train", message, f"merge them: {_merging(others, kept)}")
    if tables.train.multi_label and all(len(label_set) == 1 for label_set in tables.train.label_sets):
        fix = "if a text can have only one, give --label-column with a column of another name than labels"
        yield Finding("one-label-each", "note", "train", "every text of this multi-label table has one label", fix)


def _merging(others: Sequence[str], kept: str) -> str:
    """How to make one label of them: the option is divided by commas, and each of its parts by the last =."""
    if "=" in kept:
        return f"in the table, for --label-map cannot say {kept!r}"
    if any(mark in label for mark in ",'" for label in (kept, *others)):
        return f"--label-map FILE, with a line OLD=NEW for each, NEW being {kept!r}"
    return "--label-map '" + ",".join(f"{other}={kept}" for other in others) + "'"


def _unfit_for_scope(parts: Sequence[tuple[str, Table]], outside: str) -> Iterator[Finding]:
    for part, table in parts:
        if table.multi_label:
            message = "a text with none of several labels is uncertain already"
            yield Finding("out-of-scope", "error", part, message, "leave --out-of-scope-label out")
        elif not table.label_counts().keys() - {outside}:
            message = f"all {len(table)} rows have the out-of-scope label {outside!r}"
            yield Finding("out-of-scope", "error", part, message, "give rows with the labels of the model too")


def _counts(train: Table) -> Iterator[Finding]:
    counts = train.label_counts()
    if len(counts) < 2:
        message = f"all {len(train)} rows have the label {named(list(counts))}" if counts else "no row has a label"
        yield Finding("one-label", "error", "train", message, "give at least two labels")
        return
    single = sorted(label for label, count in counts.items() if count == 1)
    if single:
        message = f"labels with one example only: {named(single)}"
        fix = "add examples, or merge them into another or leave them out with --label-map (old=new, or old=)"
        yield Finding("single-examples", "warning", "train", message, fix)
    few = sorted(label for label, count in counts.items() if 1 < count < _FEW_EXAMPLES)
    if few:
        message = f"labels with fewer than {_FEW_EXAMPLES} examples: {named(few)}"
        yield Finding("few-examples", "note", "train", message, "add examples of them first: they gain most")
    (most, highest), *_, (least, lowest) = counts.most_common()
    if highest >= _IMBALANCE * lowest:
        message = f"{most!r} has {highest} rows and {least!r} {lowest}, {highest / lowest:.0f} times fewer"
        fix = "judge by macro-F1 and by label, not by accuracy; --class-weights balanced helps rare labels"
        yield Finding("imbalance", "note", "train", message, fix)


def _differences(train: Table, part: str, table: Table) -> Iterator[Finding]:
    if table.multi_label != train.multi_label:
        kinds = ["several labels a text" if t.multi_label else "one" for t in (train, table)]
        message = f"the training rows have {kinds[0]}, these {kinds[1]}"
        yield Finding("kinds-differ", "error", part, message, "give both the same label column")
        return
    known, counts = train.label_counts(), table.label_counts()
    unknown = sorted(set(counts) - set(known))
    if unknown:
        rows = [i for i, label_set in enumerate(table.label_sets) if not set(label_set).isdisjoint(unknown)]
        message = f"{counted(len(unknown), 'label')} not among those of {train.source}: {named(unknown)}"
        fix = "rename them or leave them out with --label-map (old=new, or old=), or add training rows that have them"
        yield Finding("unknown-labels", "error", part, message, fix, lines_of(table, rows))
    absent = sorted(set(known) - set(counts))
    if absent:
        message = f"{counted(len(absent), 'label')} not there, so no figure covers what is trained: {named(absent)}"
        yield Finding("absent-labels", "note", part, message, "add rows that have them")
    shift = sum(abs(known[label] / len(train) - counts[label] / len(table)) for label in {*known, *counts}) / 2
    if shift > _SHIFT:
        change = f"{100 * shift:.0f} % of the rows would have to change"
        message = f"the labels are distributed otherwise than in training: {change}"
        fix = (
            "make sure that it is like the stream; probabilities follow the training rows unless --priors corrects them"
        )
        yield Finding("label-shift", "note", part, message, fix)


def _without(table: Table, label: str) -> Table:
    return table.take([i for i, label_set in enumerate(table.label_sets) if label not in label_set], table.source)
