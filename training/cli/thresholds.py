"""`stream-training thresholds`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stream_classifier.errors import ConfigError
from training.cli.options import columns_options, examples, parse_shares, set_up_logging
from training.cli.show import interval, percent, print_json
from training.data import Columns

if TYPE_CHECKING:
    from training.threshold_outcome import Expected
    from training.threshold_tuning import Goal, ThresholdResult

__all__ = ["command"]

_MAX_LISTED = 20


@click.command(
    "thresholds",
    epilog=examples(
        "stream-training thresholds models/intent validation.csv --precision 0.95",
        "stream-training thresholds models/news validation.csv --precision 0.99 --per-label",
        "stream-training thresholds models/intent validation.csv --coverage 0.8",
        "stream-training thresholds models/spam mail.csv --positive-label spam --false-positive-cost 20 \\",
        "    --false-negative-cost 1 --review-cost 0.2 --priors spam=0.02,ham=0.98",
        "stream-training thresholds models/intent validation.csv --keep-in-scope 0.95 --out-of-scope-label oos",
        "stream-training thresholds models/emotions validation.csv --f1 --per-label",
    ),
)
@click.argument("model")
@click.argument("data", type=click.Path(path_type=Path))
@columns_options
@click.option("--precision", type=float, help="Share of right answers among those accepted, such as 0.99.")
@click.option("--point-estimate", is_flag=True, help="As seen on DATA, not by the one-sided 95 % bound.")
@click.option("--coverage", type=float, help="Share of texts accepted, such as 0.8.")
@click.option("--f1", is_flag=True, help="The best F1 (several labels a text).")
@click.option("--false-positive-cost", type=float, help="Of a wrong label accepted; two labels: the positive one.")
@click.option("--false-negative-cost", type=float, help="Of the positive label missed.")
@click.option("--review-cost", type=float, help="Of a text that is uncertain.")
@click.option("--positive-label", help="With costs and two labels [default: the model's, or guessed]")
@click.option("--keep-in-scope", type=float, help="Reject texts out of scope, keeping this share of the others: 0.95.")
@click.option(
    "--out-of-scope-label",
    metavar="LABEL",
    help="What marks such texts in DATA [default: the model's; with --keep-in-scope else oos]",
)
@click.option(
    "--rejection-score", default="auto", show_default=True, help="max_prob, energy, or whichever finds more of them."
)
@click.option("--per-label", is_flag=True, help="Not with costs: a threshold for each label that has enough rows.")
@click.option("--priors", metavar="SHARES", help="Say what to expect on a stream like this: spam=0.02,ham=0.98.")
@click.option("--out", type=click.Path(path_type=Path), help="Write a copy there [default: change MODEL]")
@click.option("--overwrite", is_flag=True, help="Replace the model directory at --out.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda or cuda:N.")
@click.option("--dtype", default="auto", show_default=True, help="What will serve: float32, bfloat16 or float16.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(
    model: str,
    data: Path,
    columns: Columns,
    precision: float | None,
    point_estimate: bool,
    coverage: float | None,
    f1: bool,
    false_positive_cost: float | None,
    false_negative_cost: float | None,
    review_cost: float | None,
    positive_label: str | None,
    keep_in_scope: float | None,
    out_of_scope_label: str | None,
    rejection_score: str,
    per_label: bool,
    priors: str | None,
    out: Path | None,
    overwrite: bool,
    device: str,
    dtype: str,
    as_json: bool,
) -> None:
    """Finds from which probability MODEL's answers are accepted, by the labelled texts of DATA that it was not trained
    on, and stores it in MODEL.

    DATA is a file, or a folder with a file named validation. Give one goal: --precision, --coverage, --f1, costs, or
    --keep-in-scope, which leaves the thresholds of labels as they are. What DATA cannot give is refused with what it
    can: a precision of 99 % takes 299 accepted rows without an error. Calibrate first: another calibration removes
    thresholds.
    """
    set_up_logging(quiet=False)
    place: dict[str, Any] = {
        "columns": columns,
        "out": out,
        "overwrite": overwrite,
        "device": device,
        "dtype": dtype,
    }
    if keep_in_scope is None and rejection_score != "auto":
        raise ConfigError("--rejection-score is of the rule for texts out of scope; give --keep-in-scope 0.95 too")
    if keep_in_scope is not None:
        given = (precision, coverage, false_positive_cost, false_negative_cost, review_cost, positive_label, priors)
        if f1 or point_estimate or per_label or any(value is not None for value in given):
            raise ConfigError("--keep-in-scope is a goal of its own; run thresholds once more for another")
        _reject(model, data, keep_in_scope, out_of_scope_label, rejection_score, place, as_json=as_json)
        return
    from training.threshold_tuning import Costs, Goal, thresholds

    costs = None
    if false_positive_cost is not None:
        costs = Costs(false_positive_cost, false_negative_cost, review_cost)
    elif false_negative_cost is not None or review_cost is not None:
        raise ConfigError("costs need --false-positive-cost, that of a wrong label accepted; add it")
    goal = Goal(
        precision=precision, coverage=coverage, costs=costs, f1=f1, point_estimate=point_estimate, per_label=per_label
    )
    result = thresholds(
        model,
        data,
        goal,
        priors=None if priors is None else parse_shares("--priors", priors),
        positive_label=positive_label,
        out_of_scope_label=out_of_scope_label,
        **place,
    )
    if as_json:
        print_json(result.as_dict())
    else:
        _show(result, goal)


def _reject(
    model: str, data: Path, keep: float, label: str | None, score: str, place: dict[str, Any], *, as_json: bool
) -> None:
    from training.rejection_tuning import reject

    result = reject(model, data, keep=keep, label=label, score=score, **place)
    if as_json:
        print_json(result.as_dict())
        return
    rule = result.rule
    click.echo(f"texts with a {rule.score} below {rule.threshold:.4f} are uncertain")
    click.echo(f"that keeps {100 * rule.kept:.2f} % of {rule.num_in_scope} texts in scope")
    for name, recall in rule.recalls.items():
        click.echo(f"by {name} it finds {100 * recall:.2f} % of {rule.num_out_of_scope} with {result.label}")
    click.echo(f"{result.path}: {result.digest}")


def _show(result: ThresholdResult, goal: Goal) -> None:
    click.echo(f"{result.goal}, on {result.n} rows")
    if result.operating_point is not None:
        click.echo(f"the positive label is given from {result.operating_point:.4f} on")
    _show_thresholds(result)
    click.echo("\n                    accepted  (95 %)           right of these  (95 %)          to review of 1,000")
    rows = {
        "until now": result.before,
        "on these rows": result.on_rows,
        "cross-fitted": result.cross_fitted,
        "at --priors": result.at_priors,
    }
    for name, expected in rows.items():
        if expected is not None:
            click.echo(f"{name:<18}  {_line(expected)}")
    if result.on_rows.precision_bound is not None:
        bound = result.on_rows.precision_bound
        least = f"at least {100 * bound:.2f} % of what is accepted is right"
        click.echo(f"\nby the one-sided 95 % bound {least}, on rows like these")
        if result.multi_label:
            click.echo("the bound counts each pair of text and label as independent, which those of one text are not")
        if goal.precision is not None or goal.f1:
            click.echo("these rows chose the threshold too, which flatters the bound")
    precision = goal.precision
    met = precision is None or result.at_priors is None or (result.at_priors.precision or 0.0) >= precision
    if not met:
        click.echo(
            f"on a stream like --priors it is less than {percent(precision, 2)}: calibrate with --priors first, "
            "or tune on rows from the stream"
        )
    click.echo(f"{result.path}: {result.digest}")


def _show_thresholds(result: ThresholdResult) -> None:
    own = {label: item for label, item in result.labels.items() if item.own}
    pooled = [label for label, item in result.labels.items() if not item.own]
    if pooled and result.default is not None:
        whose = "all labels" if not own else f"the {len(pooled)} labels without one of their own"
        click.echo(f"threshold {result.default:.4f} for {whose}")
    if own:
        width = max(map(len, own))
        click.echo(f"\n{'label':<{width}}  threshold    rows  accepted    right  at least")
        for label, item in list(own.items())[:_MAX_LISTED]:
            bound = percent(item.precision_bound)
            click.echo(f"{label:<{width}}  {item.threshold:>9.4f}  {item.rows:>6}  {item.accepted:>8}  "
                       f"{percent(item.precision):>7}  {bound:>8}")  # fmt: skip
        if len(own) > _MAX_LISTED:
            click.echo(f"and {len(own) - _MAX_LISTED} more: see --json")
    if result.rows_needed is not None and pooled:
        named = ", ".join(pooled[:5]) + (" …" if len(pooled) > 5 else "")
        click.echo(f"{len(pooled)} labels have fewer than {result.rows_needed} rows and share a threshold: {named}")
    unreached = [label for label, item in result.labels.items() if not item.reached]
    if unreached:
        named = ", ".join(unreached[:5]) + (" …" if len(unreached) > 5 else "")
        click.echo(
            f"no threshold reaches the goal for {len(unreached)} labels, accepted at a probability of 1 only: {named}"
        )


def _line(expected: Expected) -> str:
    accepted = f"{percent(expected.coverage):>8}  {interval(expected.coverage_interval):<15}"
    right = f"{percent(expected.precision, 2):>14}  {interval(expected.precision_interval):<15}"
    cost = "" if expected.cost_per_1000 is None else f"   cost of 1,000: {expected.cost_per_1000:.1f}"
    return f"{accepted}  {right}  {expected.review_per_1000:>16.0f}{cost}"
