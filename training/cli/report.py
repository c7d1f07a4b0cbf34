"""`stream-training report`."""

from __future__ import annotations

from pathlib import Path

import click

from training.cli.options import columns_options, examples, set_up_logging
from training.cli.show import print_json
from training.data import Columns

__all__ = ["command"]


@click.command(
    "report",
    epilog=examples(
        "stream-training report models/intent",
        "stream-training report models/intent new.csv",
        "stream-training report models/intent test.csv --show-texts --baseline train.csv",
    ),
)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path), required=False)
@columns_options
@click.option(
    "--baseline",
    type=click.Path(path_type=Path),
    metavar="TRAIN",
    help="Train a tf-idf model on these rows and measure it beside MODEL.",
)
@click.option("--show-texts", is_flag=True, help="Show the texts that the model gets wrong. They are somebody's.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda or cuda:N.")
@click.option("--dtype", default="auto", show_default=True, help="float32, bfloat16 or float16.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: path, digest, measured_on.")
@click.option("--quiet", is_flag=True, help="Nothing but warnings on standard error.")
def command(
    model: Path,
    data: Path | None,
    columns: Columns,
    baseline: Path | None,
    show_texts: bool,
    device: str,
    dtype: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Writes report.html and README.md of MODEL, a model directory, anew.

    Without DATA from the rows that a fit measured it on: their logits are kept in MODEL, their texts are not. With
    DATA, a file or a folder with a file named test, from those rows; training curves and recipe stay. The model and
    its digest stay as they are.
    """
    set_up_logging(quiet=quiet)
    from training.reporting import write_report

    result = write_report(
        model, data, columns=columns, baseline=baseline, show_texts=show_texts, device=device, dtype=dtype
    )
    if as_json:
        print_json({"path": str(result.path), "digest": result.digest, "measured_on": result.measured_on})
    else:
        click.echo(result.path)
