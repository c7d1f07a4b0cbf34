"""`stream-training cross-validate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stream_classifier.errors import ConfigError
from training.cli.fit_options import fit_options
from training.cli.options import columns_options, examples, set_up_logging
from training.cli.sections import SectionedCommand
from training.cli.show import interval, percent, print_json, show_baseline
from training.data import Columns
from training.settings import FitSettings

if TYPE_CHECKING:
    from training.cross_validation import CrossValidation, Spread

__all__ = ["command"]

_OF_A_MODEL = frozenset({"keep_in_scope", "positive_label", "refit_all", "show_texts", "test_share"})


@click.command(
    "cross-validate",
    cls=SectionedCommand,
    epilog=examples(
        "stream-training cross-validate support.csv --freeze-encoder",
        "stream-training cross-validate support.csv --freeze-encoder --out cv   # cv/review.csv: labels to look at",
        "stream-training cross-validate support.csv --freeze-encoder --learning-curve 0.1,0.25,0.5",
        "stream-training cross-validate support.csv --folds 10 --epochs 3 --json | jq .accuracy",
    ),
)
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--folds", "num_folds", type=int, default=5, show_default=True, help="Parts of DATA, each answered once.")
@click.option("--learning-curve", metavar="SHARES", help="Train on these shares of the rows too: 0.1,0.25,0.5.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="A folder for predictions.csv, review.csv (labels that look wrong, with their texts) and the figures.",
)
@columns_options
@fit_options
@click.option("--overwrite", is_flag=True, help="Replace the tables at --out.")
@click.option("--resume", is_flag=True, help="Go on with the folds of an interrupted call, beside --out.")
@click.option("--json", "as_json", is_flag=True, help="The figures as one JSON object.")
@click.option("--quiet", is_flag=True, help="No progress on standard error.")
def command(
    data: Path,
    num_folds: int,
    learning_curve: str | None,
    out: Path | None,
    columns: Columns,
    given: dict[str, Any],
    overwrite: bool,
    resume: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Tells what a fit with these options is worth on DATA, and which of its labels look wrong.

    DATA is a file, or a folder with a file named train. As many models are trained as there are folds, each on the
    others; its own fold it never saw. With --freeze-encoder the texts are encoded once for all of them.
    """
    set_up_logging(quiet=quiet)
    for name in sorted(given.keys() & _OF_A_MODEL):
        raise ConfigError(
            f"--{name.replace('_', '-')} is for the model that a fit writes, and this writes none; leave it out"
        )
    from training.cross_validation import cross_validate

    result = cross_validate(
        data,
        settings=FitSettings(columns=columns, **given),
        num_folds=num_folds,
        shares=_shares(learning_curve),
        out=out,
        overwrite=overwrite,
        resume=resume,
        show_progress=not quiet,
    )
    if as_json:
        print_json(result.as_dict())
    else:
        _show(result)


def _show(result: CrossValidation) -> None:
    accuracy, f1 = result.accuracy, result.macro_f1
    click.echo(f"{result.n} rows in {len(result.folds)} folds; mean and standard deviation over the folds:")
    click.echo(f"accuracy {_spread(accuracy)}, macro-F1 {_spread(f1)}, "
               f"negative log-likelihood {result.nll.mean:.3f} ± {result.nll.standard_deviation:.3f}")  # fmt: skip
    click.echo(f"all rows together: accuracy {100 * result.evaluation.accuracy:.2f} % "
               f"({interval(result.evaluation.accuracy_interval)})")  # fmt: skip
    if result.evaluation.baseline is not None:
        show_baseline(result.evaluation.baseline)
    if result.learning_curve:
        click.echo("\nshare    rows  accuracy          macro-F1")
        for point in result.learning_curve:
            click.echo(f"{percent(point.share, 0):>5}  {point.num_train:>6}  {_spread(point.accuracy):<16}  "
                       f"{_spread(point.macro_f1)}")  # fmt: skip
    where = "give --out to see them" if result.out is None else f"see {result.out / 'review.csv'}"
    what = "rows have labels that look wrong" if result.evaluation.multi_label is not None else "labels look wrong"
    click.echo(f"\n{result.num_suspicious} {what} ({100 * result.num_suspicious / result.n:.1f} %): {where}")
    if result.out is not None:
        click.echo(f"out-of-fold predictions: {result.out / 'predictions.csv'}")


def _spread(spread: Spread) -> str:
    return f"{100 * spread.mean:.2f} % ± {100 * spread.standard_deviation:.2f}"


def _shares(text: str | None) -> list[float]:
    if text is None:
        return []
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--learning-curve {text}: give shares of the rows, such as 0.1,0.25,0.5") from error
