"""`stream-training export`."""

from __future__ import annotations

from pathlib import Path

import click

from training.cli.options import examples, set_up_logging
from training.cli.show import print_json

__all__ = ["command"]


@click.command(
    "export",
    epilog=examples("stream-training export models/intent --out models/intent-hf --fold-calibration"),
)
@click.argument("model")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The directory to make.")
@click.option("--fold-calibration", is_flag=True, help="Write the calibration of MODEL into its last layer.")
@click.option("--overwrite", is_flag=True, help="Replace the model directory at --out.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(model: str, out: Path, fold_calibration: bool, overwrite: bool, as_json: bool) -> None:
    """Makes a copy of MODEL for other programs: plain Transformers then gives the calibrated probabilities.

    The calibration of a model directory stands in classifier.json, which only stream-classifier reads; the weights are
    raw. Of the copy the logits are calibrated as they come. Labels and thresholds stay, int8 forms are left out.
    """
    set_up_logging(quiet=False)
    from training.folding import export

    result = export(model, out, fold_calibration=fold_calibration, overwrite=overwrite)
    if as_json:
        print_json(result.as_dict())
        return
    click.echo(f"{result.method} is in the weights; probabilities differ by {result.max_difference:.1g} at most")
    click.echo(f"{result.path}: {result.digest}")
