"""`stream-training data check`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from training.cli.options import columns_options, examples, set_up_logging
from training.cli.sections import CommandGroup
from training.cli.show import print_json
from training.data import Columns

if TYPE_CHECKING:
    from training.findings import Finding
    from training.inspection import Inspection
    from training.lengths import TokenCounter

__all__ = ["command", "show_finding"]

_WIDTH = 110


@click.group(
    "data",
    cls=CommandGroup,
    epilog=examples("stream-training data check messages.csv", "stream-training data check news/ --json"),
)
def command() -> None:
    """Looks at labelled texts before anything is trained on them."""


@command.command(
    "check",
    epilog=examples(
        "stream-training data check messages.csv",
        "stream-training data check news/ --max-length 128",
        "stream-training data check mail.jsonl --text-column subject,body --label-column kind --test mail-test.jsonl",
        "stream-training data check news/ --json | jq '.findings[] | select(.severity != \"note\")'",
    ),
)
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--validation", type=click.Path(path_type=Path), help="A file of validation rows.")
@click.option("--test", type=click.Path(path_type=Path), help="A file of test rows.")
@columns_options
@click.option("--out-of-scope-label", metavar="LABEL", help="As for fit: rows with it are none of the labels' rows.")
@click.option("--base", help="Count tokens as this base does: directory or Hub name [default: as fit; else estimated]")
@click.option("--max-length", type=click.IntRange(8), default=256, show_default=True, help="Tokens read of a text.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def check(
    data: Path,
    validation: Path | None,
    test: Path | None,
    columns: Columns,
    out_of_scope_label: str | None,
    base: str | None,
    max_length: int,
    as_json: bool,
) -> None:
    """Finds what would spoil a model trained on DATA, and says what to do about it.

    Copies between the files, texts with two labels, labels that differ in spelling, labels with one example, imbalance,
    texts longer than the model reads, blank texts, labels that training does not have. Texts are not shown, their lines
    are. How long a fit will take is told by a step of it, measured on this machine, where the base is there.

    Exit code 0: nothing, or notes only; 1: an error, which fit refuses, or a warning, with which it trains.
    """
    set_up_logging(quiet=False)
    from training.inspection import check_data

    base, counter = _counter(base)
    inspection = check_data(
        data,
        validation=validation,
        test=test,
        columns=columns,
        out_of_scope_label=out_of_scope_label,
        counter=counter,
        max_length=max_length,
    )
    seconds = _seconds(base, inspection)
    if as_json:
        print_json({**inspection.as_dict(), "fit_seconds": seconds})
    else:
        _show(inspection, seconds)
    if not inspection.is_clean:
        raise click.exceptions.Exit(1)


def _counter(base: str | None) -> tuple[str | None, TokenCounter | None]:
    """The base as it is found, and a counter with its tokenizer; None of either where the default base is not there."""
    from stream_classifier.errors import ConfigError
    from training.encoder import find_base
    from training.lengths import token_counter

    try:
        found = find_base(base)
    except ConfigError:
        if base is not None:
            raise
        click.echo("no base is at hand: lengths are estimated, and no time", err=True)
        return None, None
    return found, token_counter(found)


def _seconds(base: str | None, inspection: Inspection) -> dict[str, float] | None:
    """What a fit takes by preset; None where the base is not on this machine, or is none that a fit can start from."""
    from stream_classifier.errors import ConfigError
    from training.preset_times import preset_seconds

    if base is None or not Path(base).is_dir():
        return None
    try:
        return preset_seconds(base, inspection)
    except (ConfigError, RuntimeError) as error:  # of which torch makes one where memory ends
        click.echo(f"the time of a fit is not estimated: {error}", err=True)
        return None


def _show(inspection: Inspection, seconds: dict[str, float] | None) -> None:
    for part, table in inspection.tables.parts():
        labels = table.label_counts()
        several = f", {sum(labels.values()) / len(table):.2f} a text" if table.multi_label else ""
        click.echo(f"{part:<10}  {len(table)} rows, {len(labels)} {'label' if len(labels) == 1 else 'labels'}{several}")
    lengths = inspection.lengths
    roughly = " (estimated)" if lengths.estimated else ""
    median, p95, longest = (lengths.quantile(q) for q in (0.5, 0.95, 1.0))
    read = f"{inspection.max_length} are read"
    click.echo(f"{'tokens':<10}  median {median}, 95 % up to {p95}, longest {longest}{roughly}; {read}")
    if seconds is not None:
        from training.estimate import duration

        times = ", ".join(f"{name} {duration(time)}" for name, time in seconds.items())
        click.echo(f"{'training':<10}  about, by --preset: {times}; less when it stops early")
    if not inspection.findings:
        click.echo("nothing found")
    for finding in inspection.findings:
        click.echo()
        click.echo(show_finding(finding))


def show_finding(finding: Finding) -> str:
    """A finding in a few lines: what it is, where, and what to do."""
    lines = ", ".join(map(str, finding.lines))
    where = f" (line {lines})" if len(finding.lines) == 1 else f" (lines {lines}, …)" if lines else ""
    message = click.wrap_text(
        f"{finding.severity}, {finding.part}: {finding.message}{where}", _WIDTH, subsequent_indent="    "
    )
    return f"{message}\n{click.wrap_text(finding.fix, _WIDTH, initial_indent='    ', subsequent_indent='    ')}"
