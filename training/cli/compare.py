"""`stream-training compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from training.cli.options import columns_options, examples, set_up_logging
from training.cli.show import print_json
from training.data import Columns

if TYPE_CHECKING:
    from training.comparison import Comparison, Difference

__all__ = ["command"]


@click.command(
    "compare",
    epilog=examples(
        "stream-training compare models/new models/old test.csv",
        "stream-training compare models/new models/old test.csv --json | jq .better",
    ),
)
@click.argument("first")
@click.argument("second")
@click.argument("data", type=click.Path(path_type=Path))
@columns_options
@click.option("--device", default="auto", show_default=True, help="cpu, cuda or cuda:N.")
@click.option("--dtype", default="auto", show_default=True, help="float32, bfloat16 or float16.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(first: str, second: str, data: Path, columns: Columns, device: str, dtype: str, as_json: bool) -> None:
    """Tells whether the model FIRST is better than SECOND on the labelled texts of DATA.

    Both answer the same texts, so that luck with the rows touches both: differences have 95 % intervals by paired
    bootstrap, and McNemar's test looks at the texts that just one of them has right.
    """
    set_up_logging(quiet=False)
    from training.comparison import compare

    comparison = compare(first, second, data, columns=columns, device=device, dtype=dtype)
    if as_json:
        print_json(comparison.as_dict())
    else:
        _show(comparison)


def _show(c: Comparison) -> None:
    click.echo(f"first: {c.first}\nsecond: {c.second}\n{c.n} rows, {100 * c.agreement:.2f} % with the same answer\n")
    click.echo("                           first    second  difference  (95 %)")
    for name, difference in (("accuracy", c.accuracy), ("macro-F1", c.macro_f1), ("accepted", c.coverage)):
        click.echo(_line(name, difference, 100, " %"))
    for name, difference in (("negative log-likelihood", c.nll), ("Brier", c.brier)):
        click.echo(_line(name, difference, 1, ""))
    click.echo(f"\nonly first right: {c.only_first}, only second right: {c.only_second}; McNemar p = {c.p_value:.3g}")
    click.echo("these rows cannot tell which is better" if c.better is None else f"{c.better} is better")


def _line(name: str, d: Difference, factor: float, unit: str) -> str:
    digits = 2 if factor == 100 else 4
    ends = f"{factor * d.interval[0]:+.{digits}f} to {factor * d.interval[1]:+.{digits}f}"
    first, second = (f"{factor * value:.{digits}f}{unit}" for value in (d.first, d.second))
    return f"{name:<23} {first:>9} {second:>9} {factor * d.difference:>+11.{digits}f}  ({ends})"
