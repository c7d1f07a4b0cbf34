"""`stream-training convert`."""

from __future__ import annotations

from pathlib import Path

import click

from training.cli.options import examples, set_up_logging
from training.cli.show import print_json

__all__ = ["command"]


@click.command(
    "convert",
    epilog=examples(
        "stream-training convert bases/scibert --out bases/scibert-safetensors",
        "stream-training fit papers.csv --base bases/scibert-safetensors --out models/papers",
    ),
)
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The directory to make.")
@click.option("--overwrite", is_flag=True, help="Replace the model directory at --out.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(directory: Path, out: Path, overwrite: bool, as_json: bool) -> None:
    """Makes a base with safetensors weights of DIRECTORY, which has pytorch_model.bin.

    A .bin is a pickle, which can run code when it is opened: it is opened in a process of its own by a reader that
    takes nothing but tensors. Neither training nor serving ever opens one.
    """
    set_up_logging(quiet=False)
    from training.conversion import convert

    conversion = convert(directory, out, overwrite=overwrite)
    if as_json:
        print_json(
            {
                "path": str(conversion.path),
                "num_tensors": conversion.num_tensors,
                "num_parameters": conversion.num_parameters,
            }
        )
        return
    click.echo(f"{conversion.path}: {conversion.num_tensors} tensors, {conversion.num_parameters:,} parameters")
