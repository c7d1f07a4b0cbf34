"""`stream-training evaluate`."""

from __future__ import annotations

from pathlib import Path

import click

from stream_classifier.errors import ConfigError
from training.cli.options import columns_options, examples, set_up_logging
from training.cli.show import print_json, show_evaluation
from training.data import Columns

__all__ = ["command"]


@click.command(
    "evaluate",
    epilog=examples(
        "stream-training evaluate models/intent test.csv",
        "stream-training evaluate models/intent test.csv --baseline train.csv",
        "stream-training evaluate models/intent test.csv --json | jq .macro_f1",
        "stream-training evaluate models/spam mail.jsonl --text-column subject,body --label-column kind",
    ),
)
@click.argument("model")
@click.argument("data", type=click.Path(path_type=Path))
@columns_options
@click.option(
    "--baseline",
    type=click.Path(path_type=Path),
    metavar="TRAIN",
    help="Is BERT worth it? Train a tf-idf model on these rows and measure it beside MODEL.",
)
@click.option(
    "--out-of-scope-label",
    metavar="LABEL",
    help="Rows with it belong to no label of MODEL: measured apart [default: as MODEL's rejection rule says]",
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda or cuda:N.")
@click.option("--dtype", default="auto", show_default=True, help="float32, bfloat16 or float16.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--curves", is_flag=True, help="In it, the points of all curves too.")
@click.option("--quiet", is_flag=True, help="Nothing but warnings on standard error.")
def command(
    model: str,
    data: Path,
    columns: Columns,
    baseline: Path | None,
    out_of_scope_label: str | None,
    device: str,
    dtype: str,
    as_json: bool,
    curves: bool,
    quiet: bool,
) -> None:
    """Measures MODEL on the labelled texts of DATA, with the code that serves.

    MODEL is a model directory or a Hub name; DATA a file, a folder with a file named test, or a folder
    of .txt files for each label. Shares have 95 % intervals. A calibration error tells of the model only where it is
    above what chance alone shows, printed beside it.
    """
    set_up_logging(quiet=quiet)
    if curves and not as_json:
        raise ConfigError("--curves are points for machines; give --json too, or look at stream-training report")
    from training.evaluation import evaluate

    evaluation = evaluate(
        model,
        data,
        columns=columns,
        baseline=baseline,
        out_of_scope_label=out_of_scope_label,
        device=device,
        dtype=dtype,
    )
    if as_json:
        print_json(evaluation.as_dict(curves=curves))
    else:
        show_evaluation(evaluation, "given")
