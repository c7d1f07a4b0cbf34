"""What the commands print on standard output: figures for people, or one JSON object for machines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from training.baseline import Baseline
    from training.comparison import Difference
    from training.evaluation import Evaluation
    from training.intervals import Interval
    from training.rejection import OutOfScope
    from training.report.opinion import Remark

__all__ = ["interval", "percent", "points", "print_json", "show_baseline", "show_evaluation", "show_remarks"]

_MAX_CONFUSION_LABELS = 12
_MAX_LISTED_LABELS = 40
_NUM_CONFUSED = 5
_NUM_REMARKS = 3


def print_json(figures: Mapping[str, Any]) -> None:
    """One JSON object on one line; NaN and infinity are errors of ours, not output."""
    click.echo(json.dumps(figures, allow_nan=False))


def show_evaluation(evaluation: Evaluation, rows: str) -> None:
    """The figures for people: the summary, a line a label, and the confusion matrix while it fits a screen."""
    e = evaluation
    what = "rows with just the right labels" if e.multi_label else "accuracy"
    click.echo(
        f"{e.n} {rows} rows: {what} {100 * e.accuracy:.2f} % ({interval(e.accuracy_interval)}), "
        f"macro-F1 {100 * e.macro_f1:.2f} %, weighted F1 {100 * e.weighted_f1:.2f} %"
    )
    click.echo(
        f"negative log-likelihood {e.nll:.3f}, Brier {e.brier:.3f}, calibration error {100 * e.ece:.2f} % "
        f"(chance alone: {100 * e.ece_noise_floor:.2f} %, up to {100 * e.ece_noise_95:.2f} %)"
    )
    if e.multi_label is not None:
        m = e.multi_label
        click.echo(
            f"all decisions together: precision {percent(m.micro_precision)}, recall {percent(m.micro_recall)}, "
            f"F1 {percent(m.micro_f1)}; mean average precision {percent(m.mean_average_precision)}; "
            f"{m.mean_labels_given:.2f} labels a text given, {m.mean_labels_true:.2f} true"
        )
    if e.coverage < 1:
        click.echo(f"accepted {100 * e.coverage:.2f} %, of these right {percent(e.precision_at_threshold, 2)}")
    if e.out_of_scope is not None:
        _show_out_of_scope(e.out_of_scope)
    if e.near_ties:
        click.echo(
            f"near-ties: {e.near_ties} rows that get another label when a probability moves by "
            f"{(e.near_tie_margin or 0) / 2:g}; rounding decides these, and another batch may get the other label"
        )
    if e.truncated:
        click.echo(f"{100 * e.truncated:.1f} % of the texts are longer than the model reads")
    if e.baseline is not None:
        show_baseline(e.baseline)
    _show_labels(e)
    _show_confusion(e)


def show_remarks(remarks: Sequence[Remark], report: Path) -> None:
    """The gravest remarks of a second opinion, each with what to try, and where the others are."""
    if remarks:
        click.echo()
    for remark in remarks[:_NUM_REMARKS]:
        click.echo(f"{remark.severity}: {remark.message}\n    {remark.fix}")
    more = len(remarks) - _NUM_REMARKS
    click.echo(f"\n{f'{more} more remarks, plots and tables' if more > 0 else 'plots and tables'}: {report}")


def interval(ends: Interval | None, digits: int = 1) -> str:
    """Two shares in per cent: 91.2–93.4 %."""
    return "-" if ends is None else f"{100 * ends[0]:.{digits}f}–{100 * ends[1]:.{digits}f} %"


def percent(share: float | None, digits: int = 1) -> str:
    """A share in per cent: 95.0 %; or a dash where there is none."""
    return "-" if share is None else f"{100 * share:.{digits}f} %"


def points(difference: Difference) -> str:
    """A difference of shares in points with its interval: +1.2 points (+0.3 to +2.1)."""
    low, high = difference.interval
    return f"{100 * difference.difference:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"


def _show_out_of_scope(o: OutOfScope) -> None:
    click.echo(
        f"out of scope: {100 * o.recall:.2f} % ({interval(o.recall_interval)}) of {o.n} rows with {o.label} are "
        f"uncertain; in scope {100 * o.kept:.2f} % are accepted and {100 * o.accepted_and_right:.2f} % accepted and "
        "right"
    )
    auroc = ", ".join(f"{name} {area:.3f}" for name, area in o.auroc.items())
    click.echo(f"of all that is accepted right {percent(o.precision, 2)}; told apart (AUROC) by {auroc}")


def show_baseline(baseline: Baseline) -> None:
    """A line: what the simple model is worth, and whether that is less."""
    accuracy, f1 = baseline.accuracy, baseline.macro_f1
    if not baseline.decided:
        verdict = "too close to call on these rows"
    else:
        verdict = "the model is better" if accuracy.difference > 0 else "the model is worse"
    click.echo(
        f"tf-idf + linear SVM, trained on {baseline.num_train} rows: accuracy {100 * accuracy.second:.2f} %, "
        f"macro-F1 {100 * f1.second:.2f} %; model - baseline: {points(accuracy)}, in macro-F1 {points(f1)}: {verdict}"
    )


def _show_labels(e: Evaluation) -> None:
    """All labels, or those with the lowest F1 when they would fill screens."""
    shown = list(e.per_label.items())
    if len(shown) > _MAX_LISTED_LABELS:
        known = [(label, scores) for label, scores in shown if scores.f1 is not None]
        shown = sorted(known, key=lambda item: item[1].f1 or 0.0)[: _MAX_LISTED_LABELS // 2]
        click.echo(f"\nthe {len(shown)} labels with the lowest F1; all {len(e.labels)} are in the output of --json")
    width = max(len("label"), *(len(label) for label, _ in shown))
    click.echo(f"\n{'label':<{width}}  precision  (95 %)           recall  (95 %)                F1    rows")
    for label, scores in shown:
        precision = f"{percent(scores.precision):>9}  {interval(scores.precision_interval):<15}"
        recall = f"{percent(scores.recall):>7}  {interval(scores.recall_interval):<15}"
        click.echo(f"{label:<{width}}  {precision} {recall}  {percent(scores.f1):>7}  {scores.support:>6}")


def _show_confusion(e: Evaluation) -> None:
    if e.confused:
        click.echo("\nmost often confused:")
        for pair in e.confused[:_NUM_CONFUSED]:
            click.echo(f"  {pair.true} taken for {pair.predicted}: {pair.n} ({100 * pair.share:.1f} % of {pair.true})")
    if e.confusion is None:
        return
    if len(e.labels) > _MAX_CONFUSION_LABELS:
        click.echo(f"\nthe confusion matrix of {len(e.labels)} labels is in the output of --json")
        return
    cell = max(5, *(len(str(count)) + 1 for row in e.confusion for count in row))
    width = max(max(map(len, e.labels)) + 3, len("true / given"))
    click.echo(f"\n{'true / given':<{width}}" + "".join(f"{i + 1:>{cell}}" for i in range(len(e.labels))))
    for i, (label, row) in enumerate(zip(e.labels, e.confusion, strict=True)):
        click.echo(f"{f'{i + 1} {label}':<{width}}" + "".join(f"{count:>{cell}}" for count in row))
