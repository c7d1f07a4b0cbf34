"""`stream-training distill`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from stream_classifier.errors import ConfigError
from training.cli.fit_options import fit_options
from training.cli.options import columns_options, examples, set_up_logging
from training.cli.parity import limits_options, show_parity
from training.cli.sections import SectionedCommand, SectionedOption
from training.cli.show import print_json, show_evaluation
from training.data import Columns
from training.parity_limits import DISTILL_LIMITS, ParityLimits
from training.presets import STUDENT
from training.settings import FitSettings

__all__ = ["command"]


_TEACHER: dict[str, Any] = {"cls": SectionedOption, "section": "Teacher"}
_FILE: dict[str, Any] = {"cls": SectionedOption, "section": "Data", "type": click.Path(path_type=Path)}


@click.command(
    "distill",
    cls=SectionedCommand,
    epilog=examples(
        "stream-training distill models/intent data/ --out models/intent-3 --layers 3",
        "stream-training distill models/intent data/ --out models/intent-3 --layers 3 --unlabelled messages.txt",
        "stream-training distill models/large data/ --out models/small --base models/encoder --temperature 4",
        "stream-training distill models/intent data/ --out models/intent-2 --layers 2 --hidden-weight 1 --json",
    ),
)
@click.argument("teacher")
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
    "--layers", help="How many of the teacher's the student has, evenly spaced  [default: half]", type=int, **_TEACHER
)
@click.option("--temperature", help="Of the soft targets.", type=float, default=2.0, show_default=True, **_TEACHER)
@click.option(
    "--hard-weight", help="Share of the labels' own loss.", type=float, default=0.3, show_default=True, **_TEACHER
)
@click.option(
    "--hidden-weight",
    help="Weight of the distance from the teacher's hidden states, first token, layer by layer.",
    type=float,
    default=0.0,
    show_default=True,
    **_TEACHER,
)
@click.option("--unlabelled", help="More texts, one a line, which the teacher answers.", **_FILE)
@click.option("--validation", help="A file of validation rows.", **_FILE)
@click.option("--test", help="A file of test rows.", **_FILE)
@columns_options
@fit_options
@limits_options(DISTILL_LIMITS)
@click.option("--force", is_flag=True, help="Write it whatever the gate says.")
@click.option("--overwrite", is_flag=True, help="Replace the model directory at --out, and checkpoints there.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint.")
@click.option("--json", "as_json", is_flag=True, help="The figures as one JSON object.")
@click.option("--quiet", is_flag=True, help="No progress on standard error.")
def command(
    teacher: str,
    data: Path,
    out: Path,
    layers: int | None,
    temperature: float,
    hard_weight: float,
    hidden_weight: float,
    unlabelled: Path | None,
    validation: Path | None,
    test: Path | None,
    columns: Columns,
    given: dict[str, Any],
    limits: ParityLimits,
    force: bool,
    overwrite: bool,
    resume: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Trains a smaller model on the labelled texts of DATA and on what TEACHER says of them.

    The student starts from some of TEACHER's layers, or from --base. TEACHER answers every text once. The gate at the
    end compares both on the test rows, or on the validation rows where there are none; a student that it refuses is not
    written, and --resume --force writes it without training again. Options of the training are those of fit, with 10
    epochs, a learning rate of 2e-4 and no linear probe.
    """
    set_up_logging(quiet=quiet)
    if given.get("linear_probe"):
        raise ConfigError("--linear-probe fits the head to labels, and a student learns from its teacher; leave it out")
    settings = FitSettings(columns=columns, **{**STUDENT, **given})
    from training.distillation import distill
    from training.lesson import LessonSettings, read_unlabelled
    from training.parity import ParityError

    try:
        result = distill(
            teacher,
            data,
            out,
            layers=layers,
            settings=settings,
            lesson=LessonSettings(temperature, hard_weight, hidden_weight),
            unlabelled=() if unlabelled is None else read_unlabelled(unlabelled),
            validation=validation,
            test=test,
            limits=limits,
            force=force,
            overwrite=overwrite,
            resume=resume,
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
    show_evaluation(result.fit.evaluation, result.fit.measured_on)
    click.echo()
    show_parity(result.parity)
    click.echo(f"{result.fit.path}: {result.fit.digest}")
