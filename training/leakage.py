"""Texts that are there more than once: across tables, where they flatter the figures, and with more than one label."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from training.data import Table
from training.duplicates import near_duplicates
from training.findings import Finding, Severity, Tables, counted, lines_of

__all__ = ["leakage_findings"]

_SMALL_SHARE = 0.01


def leakage_findings(tables: Tables) -> Iterator[Finding]:
    """Copies and near-copies between the tables, contradictions, and copies within the training table."""
    parts = tables.parts()
    yield from _contradictions(parts)
    clusters = near_duplicates([text for _, table in parts for text in table.texts]).tolist()
    clusters_of: dict[str, list[int]] = {}
    for part, table in parts:
        clusters_of[part], clusters = clusters[: len(table)], clusters[len(table) :]
    for later, table in parts[1:]:
        for earlier, other in parts[: 1 if later == "validation" else 2]:
            if earlier != later:
                yield from _copies(earlier, other, later, table, clusters_of)
    train = tables.train
    own = [i for i in range(len(train)) if train.augmented is None or not train.augmented[i]]
    num_copies = len(own) - len({clusters_of["train"][i] for i in own})
    if num_copies:
        num_equal = len(own) - len({train.texts[i] for i in own})
        message = f"copies of earlier rows: {num_copies}, {num_equal} letter by letter, {num_copies - num_equal} nearly"
        fix = "nothing to do unless copies are an accident: a split of this file keeps them on one side"
        yield Finding("copies", "note", "train", message, fix)


def _copies(
    earlier: str, other: Table, later: str, table: Table, clusters_of: dict[str, list[int]]
) -> Iterator[Finding]:
    seen_texts, seen_clusters = set(other.texts), set(clusters_of[earlier])
    near = [i for i, cluster in enumerate(clusters_of[later]) if cluster in seen_clusters]
    if not near:
        return
    num_equal = sum(table.texts[i] in seen_texts for i in near)
    share = len(near) / len(table)
    message = (
        f"copies of {earlier} rows: {len(near)} of {len(table)} texts ({100 * share:.1f} %), {num_equal} letter by "
        f"letter, {len(near) - num_equal} nearly; figures on them flatter"
    )
    fix = f"remove them from one of the files, or join the files and let --{later}-share divide them"
    severity: Severity = "warning" if num_equal or share > _SMALL_SHARE else "note"
    yield Finding("leakage", severity, later, message, fix, lines_of(table, near))


def _contradictions(parts: Sequence[tuple[str, Table]]) -> Iterator[Finding]:
    keys = {part: [" ".join(text.casefold().split()) for text in table.texts] for part, table in parts}
    label_sets: dict[str, set[frozenset[str]]] = defaultdict(set)
    for part, table in parts:
        for key, label_set in zip(keys[part], table.label_sets, strict=True):
            label_sets[key].add(frozenset(label_set))
    several = {key for key, sets in label_sets.items() if len(sets) > 1}
    for part, table in parts:
        rows = [i for i, key in enumerate(keys[part]) if key in several]
        if rows:
            message = f"{counted(len(rows), 'text')} there with another label too, in this file or another"
            fix = "keep the right label of each text"
            if not table.multi_label:
                fix += ", or make the table multi-label if both are right"
            yield Finding("two-labels", "warning", part, message, fix, lines_of(table, rows))
