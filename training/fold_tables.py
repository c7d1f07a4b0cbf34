"""What `cross-validate --out` writes: a line a row of the table, the labels that look wrong, the figures."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_classifier.model.publish import file_aside
from training.answers import Answers
from training.data import LABEL_SEPARATOR, Table
from training.label_review import suspicions_of

__all__ = ["TABLE_NAMES", "write_tables"]

TABLE_NAMES = ("predictions.csv", "review.csv", "cross-validation.json")


def write_tables(
    folder: Path, table: Table, answers: Answers, fold_N: NDArray[np.intp], *, figures: Mapping[str, Any]
) -> None:
    """Writes all of them or none.

    Args:
        folder: is made where it is not there.
        answers: to the rows of `table`, each by the model of the other folds.
        fold_N: the fold of each row.
        figures: what cross-validation.json says.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with ExitStack() as stack:
            predictions, review, summary = (stack.enter_context(file_aside(folder / name)) for name in TABLE_NAMES)
            _write_predictions(predictions, table, answers, fold_N)
            _write_review(review, table, answers)
            summary.write_text(json.dumps(figures, indent=2, allow_nan=False) + "\n", "utf-8")
    finally:
        if not any(folder.iterdir()):
            folder.rmdir()


def _write_predictions(path: Path, table: Table, answers: Answers, fold_N: NDArray[np.intp]) -> None:
    said = _named(answers, answers.predicted_NL)
    rows = zip(_lines(table), fold_N, _given(table), said, answers.scores_N, answers.losses_N, strict=True)
    _write_table(
        path,
        ["line", "fold", "label", "predicted", "score", "loss"],
        (
            [line, int(fold), label, predicted, f"{score:.6f}", f"{loss:.6f}"]
            for line, fold, label, predicted, score, loss in rows
        ),
    )


def _write_review(path: Path, table: Table, answers: Answers) -> None:
    lines, given, found = _lines(table), _given(table), suspicions_of(answers)
    suggested = _named(answers, found.suggested_NL)
    _write_table(
        path,
        ["line", "label", "suggested", "suspicion", "p_label", "p_suggested", "text"],
        (
            [
                lines[i],
                given[i],
                suggested[i],
                f"{found.scores_N[i]:.4f}",
                f"{np.exp(-found.scores_N[i]):.4f}",
                f"{found.p_suggested_N[i]:.4f}",
                table.texts[i],
            ]
            for i in found.ranked().tolist()
            if found.flagged_N[i]
        ),
    )


def _lines(table: Table) -> Sequence[int]:
    return table.lines or range(1, len(table) + 1)


def _given(table: Table) -> list[str]:
    return [LABEL_SEPARATOR.join(label_set) for label_set in table.label_sets]


def _named(answers: Answers, chosen_NL: NDArray[np.bool_]) -> list[str]:
    names = np.array([*answers.labels], dtype=object)
    return [LABEL_SEPARATOR.join(names[row_L]) for row_L in chosen_NL]


def _write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
