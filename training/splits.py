"""Divides rows into a part to train on and a part to validate on: by label, reproducible, equal texts kept together.

A text that is in both parts would be remembered, not recognised, and make the validation look better than it is.
"""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np

from stream_classifier.errors import ConfigError
from training.data import Table

__all__ = ["split_table"]


def split_table(table: Table, *, share: float, seed: int) -> tuple[Table, Table]:
    """Two tables, the second with about `share` of each label's rows; the rows of each keep their order.

    Equal texts count as one and go to the same side. A label of which `share` is less than half a text, and so every
    label with a single one, stays wholly in the first part: what is not trained cannot be told apart.

    Args:
        table: the rows to divide.
        share: above 0, below 1.
        seed: equal seeds give equal parts, whatever the order of labels.

    Raises:
        ConfigError: there are too few rows for a second part.
    """
    if not 0 < share < 1:
        raise ConfigError(f"the validation share is {share!r}; give one above 0 and below 1, such as 0.1")
    rows_of_text: dict[str, list[int]] = defaultdict(list)
    for i, text in enumerate(table.texts):
        rows_of_text[text].append(i)
    texts_of_label: dict[str, list[str]] = defaultdict(list)
    for text, rows in rows_of_text.items():
        texts_of_label[table.labels[rows[0]]].append(text)

    generator = np.random.default_rng(seed)
    second: list[int] = []
    for label in sorted(texts_of_label):
        texts = texts_of_label[label]
        num_second = min(len(texts) - 1, math.floor(len(texts) * share + 0.5))
        for i in generator.permutation(len(texts))[:num_second]:
            second.extend(rows_of_text[texts[i]])
    if not second:
        raise ConfigError(
            f"{table.source}: {len(table)} rows are too few to keep {share:.0%} of each label for validation; "
            "give more rows, or a file of your own with --validation"
        )
    chosen = set(second)
    first = [i for i in range(len(table)) if i not in chosen]
    return table.take(first, table.source), table.take(sorted(second), f"{table.source} (validation part)")
