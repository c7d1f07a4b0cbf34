"""`stream-training augment`."""

from __future__ import annotations

from pathlib import Path

import click

from training.augmentation.settings import METHODS, RATES, AugmentSettings
from training.cli.options import columns_options, examples, set_up_logging
from training.cli.show import print_json
from training.data import Columns

__all__ = ["command"]


@click.command(
    "augment",
    epilog=examples(
        "stream-training augment messages.csv --out more.csv",
        "stream-training augment news/ --out more.jsonl --copies 4 --methods typing,drop --typing-rate 0.03",
        "stream-training augment messages.csv --out more.csv --methods masked --masked-model models/adapted",
        "stream-training augment messages.csv --out more.csv --methods translation \\",
        "      --translate-with opus-mt-en-de --translate-back-with opus-mt-de-en",
    ),
)
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A .csv, .tsv, .jsonl or .parquet file.")
@columns_options
@click.option(
    "--methods",
    callback=lambda context, option, value: tuple(value.split(",")) if value else (),
    help=f"Some of {', '.join(METHODS)}, taken in turn  [default: all noise, and what models are given for]",
)
@click.option("--copies", type=int, default=1, show_default=True, help="Rows made from each row.")
@click.option("--typing-rate", type=float, help=f"Share of the letters with an error  [default: {RATES['typing']}]")
@click.option("--case-rate", type=float, help=f"Share of the words in another case  [default: {RATES['case']}]")
@click.option("--drop-rate", type=float, help=f"Share of the words left out  [default: {RATES['drop']}]")
@click.option("--swap-rate", type=float, help=f"Share of the words swapped with the next  [default: {RATES['swap']}]")
@click.option("--mask-rate", type=float, help=f"Share of the words replaced by the model  [default: {RATES['masked']}]")
@click.option(
    "--masked-model", type=click.Path(path_type=Path), help="A directory with a masked-language head, as adapt writes."
)
@click.option("--translate-with", type=click.Path(path_type=Path), help="A Marian directory: into another language.")
@click.option("--translate-back-with", type=click.Path(path_type=Path), help="A Marian directory: back again.")
@click.option("--seed", type=int, default=0, show_default=True, help="Equal seeds make equal rows.")
@click.option("--overwrite", is_flag=True, help="Replace the file at --out, and what an interrupted run left.")
@click.option("--resume", is_flag=True, help="Go on with the texts that an interrupted run's models had made.")
@click.option("--json", "as_json", is_flag=True, help="What was made as one JSON object.")
@click.option("--quiet", is_flag=True, help="No progress on standard error.")
def command(
    data: Path,
    out: Path,
    columns: Columns,
    methods: tuple[str, ...],
    copies: int,
    typing_rate: float | None,
    case_rate: float | None,
    drop_rate: float | None,
    swap_rate: float | None,
    mask_rate: float | None,
    masked_model: Path | None,
    translate_with: Path | None,
    translate_back_with: Path | None,
    seed: int,
    overwrite: bool,
    resume: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Writes the training rows of DATA, and rows made from them, as one table.

    The rows as they are come first. Each row has two columns more: augmented_from, the line of DATA that it comes from,
    and augmentation, how it was made. fit reads both: a row and those made from it stay on one side of a split, and
    only rows as they were are validated and tested on. Of a folder the training table alone is read.
    """
    set_up_logging(quiet=quiet)
    rates = dict(zip(RATES, (typing_rate, case_rate, drop_rate, swap_rate, mask_rate), strict=True))
    settings = AugmentSettings(
        methods=methods,
        copies=copies,
        rates={name: rate for name, rate in rates.items() if rate is not None},
        masked_model=masked_model,
        translate_with=translate_with,
        translate_back_with=translate_back_with,
        columns=columns,
        seed=seed,
    )
    from training.augmentation.table import augment

    result = augment(data, out, settings=settings, overwrite=overwrite, resume=resume, show_progress=not quiet)
    if as_json:
        print_json(
            {
                "path": str(result.path),
                "originals": result.num_originals,
                "made": dict(result.num_made),
                "unchanged": result.num_unchanged,
            }
        )
        return
    made = ", ".join(f"{name} {number}" for name, number in result.num_made.items())
    num_made = sum(result.num_made.values())
    click.echo(f"{result.path}: {result.num_originals} rows as they were and {num_made} made from them ({made})")
    if result.num_unchanged:
        click.echo(f"{result.num_unchanged} came out unchanged, or as another row is, and are left out")
