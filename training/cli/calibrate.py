"""`stream-training calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from training.cli.options import columns_options, examples, parse_shares, set_up_logging
from training.cli.show import percent, print_json
from training.data import Columns

if TYPE_CHECKING:
    from training.recalibration import CalibrationResult

__all__ = ["command"]


@click.command(
    "calibrate",
    epilog=examples(
        "stream-training calibrate models/intent validation.csv",
        "stream-training calibrate models/spam mail.csv --priors spam=0.02,ham=0.98",
        "stream-training calibrate models/intent validation.csv --method temperature --out models/intent-2",
    ),
)
@click.argument("model")
@click.argument("data", type=click.Path(path_type=Path))
@columns_options
@click.option(
    "--method",
    default="auto",
    show_default=True,
    help="temperature; bias: one of each label too; vector: scale and bias of each label; none; auto: by the rows.",
)
@click.option("--priors", metavar="SHARES", help="What the stream is like, unlike DATA: spam=0.02,ham=0.98.")
@click.option("--out", type=click.Path(path_type=Path), help="Write a copy there [default: change MODEL]")
@click.option("--overwrite", is_flag=True, help="Replace the model directory at --out.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda or cuda:N.")
@click.option("--dtype", default="auto", show_default=True, help="What will serve: float32, bfloat16 or float16.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(
    model: str,
    data: Path,
    columns: Columns,
    method: str,
    priors: str | None,
    out: Path | None,
    overwrite: bool,
    device: str,
    dtype: str,
    as_json: bool,
) -> None:
    """Makes the probabilities of MODEL honest, by the labelled texts of DATA that it was not trained on.

    DATA is a file, or a folder with a file named validation: at least 200 rows, 5 of them answered wrong. One
    temperature is fitted, which changes no label; a bias or a scale of each label only where it helps rows it was not
    fitted on by more than the standard error. Thresholds that MODEL has are removed: they were tuned for other
    probabilities.
    """
    set_up_logging(quiet=False)
    from training.recalibration import calibrate

    result = calibrate(
        model,
        data,
        method=method,
        priors=None if priors is None else parse_shares("--priors", priors),
        columns=columns,
        out=out,
        overwrite=overwrite,
        device=device,
        dtype=dtype,
    )
    if as_json:
        print_json(result.as_dict())
    else:
        _show(result)


def _show(result: CalibrationResult) -> None:
    scale = f"temperature {1 / result.scale:.3f}" if isinstance(result.scale, float) else "a scale of each label"
    bias = " and a bias of each label" if isinstance(result.bias, list) else ""
    click.echo(f"{result.method}: {scale}{bias}, fitted on {result.n} rows")
    before, after = result.before, result.after
    click.echo("\n                         before    after (cross-fitted)")
    click.echo(f"negative log-likelihood  {before.nll:<8.4f}  {after.nll:.4f}")
    click.echo(f"Brier                    {before.brier:<8.4f}  {after.brier:.4f}")
    chance = f"chance alone: {100 * after.ece_noise_floor:.2f} %, up to {100 * after.ece_noise_95:.2f} %"
    click.echo(f"calibration error        {percent(before.ece, 2):<8}  {percent(after.ece, 2)} ({chance})")
    click.echo(f"accuracy                 {percent(before.accuracy, 2):<8}  {percent(after.accuracy, 2)}")
    if len(result.trials) > 1:
        click.echo("\ntried, by the negative log-likelihood of rows not fitted on:")
        for trial in result.trials:
            gain = ""
            if trial.gain is not None:
                verdict = "taken" if trial.helps else "not beyond the standard error"
                gain = f", better by {trial.gain:+.4f} ± {trial.gain_error:.4f}: {verdict}"
            click.echo(f"  {trial.method:<12} {trial.nll:.4f}{gain}")
    if result.priors is not None:
        click.echo(
            "\nfor a stream of " + ", ".join(f"{label} {100 * share:.2f} %" for label, share in result.priors.items())
        )
    click.echo(f"\nlabels that differ from those of the raw logits: {result.num_changed} of {result.n}")
    if result.thresholds_removed:
        click.echo("the thresholds were tuned for other probabilities and are removed: run stream-training thresholds")
    click.echo(f"{result.path}: {result.digest}")
