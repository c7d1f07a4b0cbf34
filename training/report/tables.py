"""The tables of the report: labels, confusions, epochs, mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from training.answers import Answers
from training.evaluation import Evaluation
from training.history import TrainingHistory
from training.intervals import Interval
from training.report.markup import Markup, breakable, join, plain, share, tag

__all__ = [
    "MAX_MATRIX_LABELS",
    "confusion_table",
    "epoch_table",
    "label_table",
    "mistakes_table",
    "pairs_table",
    "table",
]

MAX_MATRIX_LABELS = 160
_SMALL_MATRIX = 15
_MAX_MISTAKES = 50
_MAX_TEXT = 500
_LABEL_WIDTH = 60


def table(
    head: Sequence[tuple[str, str]], rows: Sequence[Sequence[Markup]], *, name: str, sortable: bool = False
) -> Markup:
    """A table that scrolls by itself where the screen is narrow. `head`: the headings, each "number" or "text"."""
    headings = [tag("th", title, scope="col", data_kind=kind if kind == "text" else None) for title, kind in head]
    return tag(
        "div",
        tag(
            "table",
            tag("thead", tag("tr", *headings)),
            tag("tbody", *(tag("tr", *row) for row in rows)),
            class_="sortable" if sortable else None,
        ),
        class_="scroll tall" if len(rows) > 25 else "scroll",
        role="region",
        aria_label=name,
        tabindex=0,
    )


def label_table(e: Evaluation, *, num_train: Mapping[str, int], thresholds: Mapping[str, float]) -> Markup:
    """Every label with its rows and figures.

    Args:
        e: the figures.
        num_train: rows of each label to train on; empty: unknown.
        thresholds: of each label; empty: none are stored.
    """
    head = [("label", "text")]
    if num_train:
        head.append(("train rows", "number"))
    head += [(name, "number") for name in ("rows", "precision", "recall", "F1")]
    if thresholds:
        head.append(("threshold", "number"))
    rows = []
    for label, scores in e.per_label.items():
        row = [_label_heading(label)]
        if num_train:
            row.append(tag("td", str(num_train.get(label, 0))))
        row += [
            tag("td", str(scores.support)),
            _with_interval(scores.precision, scores.precision_interval),
            _with_interval(scores.recall, scores.recall_interval),
            _bar(scores.f1),
        ]
        if thresholds:
            row.append(tag("td", f"{thresholds[label]:.3f}"))
        rows.append(row)
    return table(head, rows, name="Labels", sortable=True)


def pairs_table(e: Evaluation) -> Markup:
    """The pairs most often confused."""
    head = [("true", "text"), ("taken for", "text"), ("texts", "number"), ("of the true label's", "number")]
    rows = [
        [_label_heading(p.true), _label_cell(plain(p.predicted, width=_LABEL_WIDTH)), tag("td", str(p.n)),
         tag("td", share(p.share))]
        for p in e.confused
    ]  # fmt: skip
    return table(head, rows, name="Most often confused", sortable=True)


def confusion_table(e: Evaluation) -> Markup | None:
    """The confusion matrix, None where there is none or where nobody could read it."""
    if e.confusion is None or len(e.labels) > MAX_MATRIX_LABELS:
        return None
    corner = tag("th", "true \\ given", scope="col")
    names = [plain(label, width=_LABEL_WIDTH) for label in e.labels]
    head = tag("tr", corner, *(tag("th", tag("bdi", name), scope="col") for name in names))
    rows = []
    for i, (name, counts) in enumerate(zip(names, e.confusion, strict=True)):
        total = max(1, sum(counts))
        cells = [_cell(count, 100 * count / total, hit=i == j) for j, count in enumerate(counts)]
        rows.append(tag("tr", tag("th", tag("bdi", name), scope="row"), *cells))
    large = len(e.labels) > _SMALL_MATRIX
    return tag(
        "div",
        tag("table", tag("thead", head), tag("tbody", *rows), class_="matrix large" if large else "matrix"),
        class_="scroll tall" if large else "scroll",
        role="region",
        aria_label="Confusion matrix",
        tabindex=0,
    )


def epoch_table(history: TrainingHistory) -> Markup:
    """All epochs in numbers."""
    names = (
        "epoch",
        "training loss",
        "validation loss",
        "accuracy",
        "macro-F1",
        "learning rate",
        "gradient",
        "tokens/s",
    )
    rows = []
    for e in history.epochs:
        kept = " (kept)" if e.epoch == history.best_epoch else ""
        cells = [
            f"{e.train_loss:.4f}",
            f"{e.validation_loss:.4f}",
            share(e.accuracy, 2),
            share(e.macro_f1, 2),
            f"{e.learning_rate:.2g}",
            f"{e.grad_norm:.3g}",
            "–" if e.tokens_per_s is None else f"{e.tokens_per_s:,.0f}",
        ]
        rows.append([tag("th", f"{e.epoch}{kept}", scope="row"), *(tag("td", cell) for cell in cells)])
    return table([(name, "number") for name in names], rows, name="Epochs")


def mistakes_table(answers: Answers, texts: Sequence[str]) -> Markup:
    """Texts with another label than theirs, those the model is surest of first."""
    wrong = np.flatnonzero(~answers.correct_N)
    surest = wrong[np.argsort(-answers.scores_N[wrong], kind="stable")][:_MAX_MISTAKES]

    def named(row: np.ndarray) -> str:
        given = (plain(label, width=_LABEL_WIDTH) for label, on in zip(answers.labels, row, strict=True) if on)
        return ", ".join(given) or "none"

    rows = [
        [
            tag("td", plain(texts[i], width=_MAX_TEXT), class_="text", dir="auto"),
            _label_cell(named(answers.true_NL[i])),
            _label_cell(named(answers.predicted_NL[i])),
            tag("td", share(float(answers.scores_N[i]))),
        ]
        for i in surest
    ]
    head = [("text", "text"), ("true", "text"), ("given", "text"), ("score", "number")]
    return table(head, rows, name="Texts it gets wrong", sortable=True)


def _label_heading(label: str) -> Markup:
    return tag("th", tag("bdi", breakable(plain(label, width=_LABEL_WIDTH))), scope="row")


def _label_cell(shown: str) -> Markup:
    return tag("td", tag("bdi", breakable(shown)), class_="label")


def _with_interval(value: float | None, ends: Interval | None) -> Markup:
    if value is None or ends is None:
        return tag("td", "–")
    shown = tag("span", f" {100 * ends[0]:.0f}–{100 * ends[1]:.0f}", class_="ci")
    return tag("td", join(share(value), shown), data_v=f"{value:.4f}")


def _bar(value: float | None) -> Markup:
    if value is None:
        return tag("td", "–")
    return tag("td", share(value), class_="bar", style=f"--v:{100 * value:.1f}", data_v=f"{value:.4f}")


def _cell(count: int, per_cent: float, *, hit: bool) -> Markup:
    if not count:
        return Markup("<td></td>")
    strength = round(15 + 0.6 * per_cent) if not hit else round(10 + 0.45 * per_cent)
    return tag("td", str(count), class_="hit" if hit else None, style=f"--s:{strength}")
