"""`stream-training fit`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from stream_classifier.errors import ConfigError
from training.cli.fit_options import fit_options
from training.cli.options import columns_options, examples, set_up_logging, typed_columns, typed_options
from training.cli.sections import SectionedCommand, SectionedOption
from training.cli.show import print_json, show_evaluation, show_remarks
from training.data import Columns
from training.presets import PRESETS
from training.processes import Processes
from training.recipe import read_recipe
from training.settings import FitSettings

__all__ = ["command"]


@click.command(
    "fit",
    cls=SectionedCommand,
    epilog=examples(
        "stream-training fit support.csv --task intent --out models/intent",
        "stream-training fit news/ --task category --out models/news --freeze-encoder",
        "stream-training fit mail.jsonl --task spam --out models/spam --text-column subject,body --label-column kind",
        "stream-training fit reviews.csv --task sentiment --positive-label good --base models/base --out models/mood",
        "stream-training fit reviews.csv --config models/mood/run.toml --seed 1 --out models/mood-1",
        "stream-training fit support.csv --task intent --search 20 --search-minutes 60 --out models/intent",
        "torchrun --nproc-per-node 4 -m training fit support.csv --task intent --out models/intent",
        "torchrun --nproc-per-node 4 -m training fit mail.csv --task spam --base models/large --fsdp --out models/spam",
        "stream-training fit rare.csv --out models/rare --class-weights balanced --metric macro_f1 --epochs 10",
    ),
)
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="The model directory to make.",
    cls=SectionedOption,
    section="Output",
)
@click.option(
    "--validation",
    type=click.Path(path_type=Path),
    help="A file of validation rows  [default: part of DATA]",
    cls=SectionedOption,
    section="Data",
)
@click.option(
    "--test",
    type=click.Path(path_type=Path),
    help="A file of test rows  [default: none]",
    cls=SectionedOption,
    section="Data",
)
@click.option(
    "--preset",
    default="balanced",
    show_default=True,
    type=click.Choice(list(PRESETS)),
    help="quick: a minute; balanced: the defaults below; few-shot: for a handful of texts a label; best: longer.",
    cls=SectionedOption,
    section="Recipe",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="Settings from a file, such as the run.toml of a model directory, not with --preset; options come before it.",
    cls=SectionedOption,
    section="Recipe",
)
@click.option(
    "--search",
    "num_trials",
    type=int,
    default=0,
    metavar="N",
    help="Try N recipes on the validation rows first (Optuna), and keep the best  [default: none]",
    cls=SectionedOption,
    section="Recipe",
)
@click.option(
    "--search-minutes",
    "max_search_minutes",
    type=float,
    metavar="MINUTES",
    help="Begin no trial after so long  [default: no limit]",
    cls=SectionedOption,
    section="Recipe",
)
@columns_options
@fit_options
@click.option("--overwrite", is_flag=True, help="Replace the model directory at --out.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint of an interrupted fit.")
@click.option("--json", "as_json", is_flag=True, help="The figures as one JSON object.")
@click.option("--quiet", is_flag=True, help="No progress on standard error.")
def command(
    data: Path,
    out: Path,
    validation: Path | None,
    test: Path | None,
    preset: str,
    config: Path | None,
    num_trials: int,
    max_search_minutes: float | None,
    columns: Columns,
    given: dict[str, Any],
    overwrite: bool,
    resume: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Fine-tunes a model on the labelled texts of DATA.

    DATA is a CSV, TSV, JSON lines or Parquet file; a folder with such files named train, validation and test; a folder
    of .txt files for each label; or a data set that Hugging Face's save_to_disk wrote. The figures printed are those of
    the test rows, or of the validation rows where there are none. The model directory is complete or not there; it
    holds a few validation texts (golden.jsonl) unless --golden-texts says otherwise.
    """
    processes = Processes.started()
    set_up_logging(quiet=quiet or not processes.is_main)
    settings = _settings(preset, config, columns, given)
    from training.fitting import fit

    result = fit(
        data,
        out,
        settings=settings,
        validation=validation,
        test=test,
        overwrite=overwrite,
        resume=resume,
        num_trials=num_trials,
        max_search_minutes=max_search_minutes,
        show_progress=not quiet,
    )
    processes.end()
    if not processes.is_main:
        return
    if as_json:
        figures = {"path": str(result.path), "digest": result.digest, "measured_on": result.measured_on}
        remarks = [remark.as_dict() for remark in result.remarks]
        print_json({**figures, **result.evaluation.as_dict(), "remarks": remarks})
        return
    click.echo(f"{result.path}: {result.digest}")
    show_evaluation(result.evaluation, result.measured_on)
    show_remarks(result.remarks, result.path / "report.html")


def _settings(preset: str, config: Path | None, columns: Columns, given: dict[str, Any]) -> FitSettings:
    """Those of the preset or of the file, changed by the options."""
    if config is None:
        return FitSettings(**{**PRESETS[preset], "columns": columns, **given})
    if "preset" in typed_options():
        fix = "give one of them, and an option for each setting that is to differ"
        raise ConfigError(f"--preset {preset} and --config {config} both say how to train; {fix}")
    from_file = read_recipe(config)
    return FitSettings(
        **{**from_file, "columns": replace(from_file.get("columns", Columns()), **typed_columns(columns)), **given}
    )
