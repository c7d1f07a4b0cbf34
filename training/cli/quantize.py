"""`stream-training quantize`."""

from __future__ import annotations

from pathlib import Path

import click

from training.cli.options import columns_options, examples, set_up_logging
from training.cli.parity import limits_options, show_parity
from training.cli.sections import SectionedCommand
from training.cli.show import print_json
from training.data import Columns
from training.parity_limits import ParityLimits

__all__ = ["command"]


@click.command(
    "quantize",
    cls=SectionedCommand,
    epilog=examples(
        "stream-training quantize models/intent data/",
        "stream-training quantize models/intent data/ --out models/intent-int8 --min-agreement 0.995",
        "stream-training quantize models/intent data/ --dtype bfloat16 --out models/intent-bf16",
        "stream-training quantize models/intent data/ --json | jq .parity.agreement",
    ),
)
@click.argument("model")
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Write a copy there [default: add it to MODEL]")
@click.option(
    "--dtype",
    type=click.Choice(["int8", "bfloat16"]),
    default="int8",
    show_default=True,
    help="bfloat16: the weights in half the size.",
)
@click.option(
    "--backend",
    type=click.Choice(["openvino", "torchao"]),
    default="openvino",
    show_default=True,
    help="What int8 is for; torchao where there is no OpenVINO.",
)
@click.option(
    "--calibration-texts",
    "num_calibration_texts",
    type=int,
    default=300,
    show_default=True,
    help="Training texts that the ranges of int8 are taken from.",
)
@columns_options
@limits_options(ParityLimits())
@click.option("--force", is_flag=True, help="Write it whatever the gate says.")
@click.option("--overwrite", is_flag=True, help="Replace the model directory at --out.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--quiet", is_flag=True, help="No progress on standard error.")
def command(
    model: str,
    data: Path,
    out: Path | None,
    dtype: str,
    backend: str,
    num_calibration_texts: int,
    columns: Columns,
    limits: ParityLimits,
    force: bool,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Makes MODEL smaller and faster on CPUs, and holds it against itself before anything is written.

    DATA is a folder with files named train and validation (or test): int8 takes its ranges from training texts, and the
    gate runs on the other rows. One file is divided. int8 is stored in MODEL beside the weights, which stay; who serves
    it without OpenVINO gets another precision and a warning.
    """
    set_up_logging(quiet=quiet)
    from training.parity import ParityError
    from training.quantization import quantize

    try:
        result = quantize(
            model,
            data,
            out=out,
            dtype=dtype,
            backend=backend,
            columns=columns,
            num_calibration_texts=num_calibration_texts,
            limits=limits,
            force=force,
            overwrite=overwrite,
            show_progress=not quiet,
        )
    except ParityError as error:
        if as_json:
            print_json({"written": False, "parity": error.parity.as_dict()})
        else:
            show_parity(error.parity)
        raise
    if as_json:
        print_json({"written": True, **result.as_dict()})
        return
    show_parity(result.parity)
    click.echo(f"{result.path}: {result.form}, {result.digest}")
