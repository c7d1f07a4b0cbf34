"""`stream-training evaluate`."""

from __future__ import annotations

from pathlib import Path

import click

from training.cli.options import columns_options, examples, set_up_logging
from training.cli.show import print_json, show_evaluation
from training.data import Columns

__all__ = ["command"]


@click.command(
    "evaluate",
    epilog=examples(
        "stream-training evaluate models/intent test.csv",
        "stream-training evaluate models/intent test.csv --json | jq .macro_f1",
        "stream-training evaluate models/spam mail.jsonl --text-column subject,body --label-column kind",
    ),
)
@click.argument("model")
@click.argument("data", type=click.Path(path_type=Path))
@columns_options
@click.option("--device", default="auto", show_default=True, help="cpu, cuda or cuda:N.")
@click.option("--dtype", default="auto", show_default=True, help="float32, bfloat16 or float16.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(model: str, data: Path, columns: Columns, device: str, dtype: str, as_json: bool) -> None:
    """Measures MODEL on the labelled texts of DATA, with the code that serves.

    MODEL is a model directory or a Hub name; DATA a file, a folder with a file named test, or a folder
    of .txt files for each label.
    """
    set_up_logging(quiet=False)
    from training.evaluation import evaluate

    evaluation = evaluate(model, data, columns=columns, device=device, dtype=dtype)
    if as_json:
        print_json(evaluation.as_dict())
    else:
        show_evaluation(evaluation, "given")
