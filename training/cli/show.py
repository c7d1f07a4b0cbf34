"""What the commands print on standard output: figures for people, or one JSON object for machines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from training.evaluation import Evaluation

__all__ = ["print_json", "show_evaluation"]

_MAX_CONFUSION_LABELS = 12


def print_json(figures: Mapping[str, Any]) -> None:
    """One JSON object on one line; NaN and infinity are errors of ours, not output."""
    click.echo(json.dumps(figures, allow_nan=False))


def show_evaluation(evaluation: Evaluation, rows: str) -> None:
    """The figures for people: the summary, a line a label, and the confusion matrix while it fits a screen."""
    e = evaluation
    click.echo(
        f"{e.n} {rows} rows: accuracy {e.accuracy:.2%}, macro-F1 {e.macro_f1:.2%}, weighted F1 {e.weighted_f1:.2%}"
    )
    click.echo(
        f"negative log-likelihood {e.nll:.3f}, Brier {e.brier:.3f}, "
        f"calibration error {e.ece:.2%} (noise alone: {e.ece_noise_floor:.2%})"
    )
    if e.coverage < 1:
        right = "none" if e.precision_at_threshold is None else f"{e.precision_at_threshold:.2%}"
        click.echo(f"accepted {e.coverage:.2%}, of these right {right}")
    width = max(len("label"), *map(len, e.labels))
    click.echo(f"\n{'label':<{width}}  precision  recall      F1    rows")
    for label, scores in e.per_label.items():
        shares = f"{_percent(scores.precision):>9}  {_percent(scores.recall):>6}  {_percent(scores.f1):>6}"
        click.echo(f"{label:<{width}}  {shares}  {scores.support:>6}")
    if len(e.labels) > _MAX_CONFUSION_LABELS:
        click.echo(f"\nthe confusion matrix of {len(e.labels)} labels is in the output of --json")
        return
    cell = max(5, *(len(str(count)) + 1 for row in e.confusion for count in row))
    width = max(width + 3, len("true / given"))
    click.echo(f"\n{'true / given':<{width}}" + "".join(f"{i + 1:>{cell}}" for i in range(len(e.labels))))
    for i, (label, row) in enumerate(zip(e.labels, e.confusion, strict=True)):
        click.echo(f"{f'{i + 1} {label}':<{width}}" + "".join(f"{count:>{cell}}" for count in row))


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
