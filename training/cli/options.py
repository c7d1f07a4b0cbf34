"""What several commands share: options, their parsing, examples, and where log lines go."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from stream_classifier.errors import ConfigError
from training.cli.sections import SectionedOption
from training.data import Columns

__all__ = [
    "columns_options",
    "examples",
    "parse_label_map",
    "parse_shares",
    "set_up_logging",
    "typed_columns",
    "typed_options",
]

_OPTION_OF = {
    "text": "text_column",
    "label": "label_column",
    "multi_label": "multi_label",
    "group": "group_column",
    "time": "time_column",
    "label_map": "label_map",
    "skip_bad_rows": "skip_bad_rows",
}
"""The option of each field of `Columns`."""


def examples(*lines: str) -> str:
    """An epilog for click: the lines as they are, under a heading."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def columns_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which columns hold what; the command gets them as one argument, `columns`."""

    @functools.wraps(command)
    def with_columns(
        *,
        text_column: str,
        label_column: str | None,
        multi_label: bool,
        group_column: str | None,
        time_column: str | None,
        label_map: dict[str, str] | None,
        skip_bad_rows: bool,
        **options: Any,
    ) -> Any:
        columns = Columns(
            text=tuple(name for name in text_column.split(",") if name),
            label=label_column,
            multi_label=multi_label,
            group=group_column,
            time=time_column,
            label_map=label_map or {},
            skip_bad_rows=skip_bad_rows,
        )
        return command(columns=columns, **options)

    for option in reversed(_COLUMN_OPTIONS):
        with_columns = option(with_columns)
    return with_columns


def typed_columns(columns: Columns) -> dict[str, Any]:
    """The fields of `columns` whose options were typed in this call, at their default or not."""
    typed = typed_options()
    names = [field.name for field in fields(Columns)]
    return {name: getattr(columns, name) for name in names if _OPTION_OF[name] in typed}


def typed_options() -> frozenset[str]:
    """The names of the options that were typed in this call, at their default or not."""
    context = click.get_current_context()
    return frozenset(
        name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    )


_column_option = functools.partial(click.option, cls=SectionedOption, section="Data")

_COLUMN_OPTIONS = (
    _column_option(
        "--text-column", default="text", show_default=True, help="The column of the text; several: title,body."
    ),
    _column_option("--label-column", help="The column that holds the label [default: label, or labels: several, a|b]"),
    _column_option(
        "--multi-label", is_flag=True, help="The label column holds several labels, as a|b or as a JSON list."
    ),
    _column_option("--group-column", help="Rows with the same value stay on one side of a split."),
    _column_option("--time-column", help="Split by time: the latest rows are held out."),
    _column_option(
        "--label-map",
        callback=lambda context, option, value: None if value is None else parse_label_map(value),
        help="Rename or merge labels: old=new,old=new or a file of such lines; old= leaves its rows out.",
    ),
    _column_option("--skip-bad-rows", is_flag=True, help="Leave out rows that cannot be read, and count them."),
)


def parse_label_map(option: str) -> dict[str, str]:
    """The label map of `old=new,old=new`, or of a file with one `old=new` a line; the last = of each divides it.

    Raises:
        ConfigError: an entry without =, a label that is there twice, or a file that cannot be read.
    """
    path = Path(option)
    try:
        entries = path.read_text("utf-8-sig").splitlines() if path.is_file() else option.split(",")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--label-map {option}: it cannot be read; give a file of UTF-8, or old=new") from error
    label_map: dict[str, str] = {}
    for entry in filter(str.strip, entries):
        old, equals, new = entry.rpartition("=")
        if not equals or not old:
            fix = "write old=new, and old= to leave its rows out"
            raise ConfigError(f"--label-map {option}: {entry!r} has no = or nothing before it; {fix}")
        if old in label_map:
            raise ConfigError(f"--label-map {option}: {old!r} is there twice; remove one")
        label_map[old] = new
    return label_map


def parse_shares(option: str, text: str) -> dict[str, float]:
    """What an option such as --priors spam=0.02,ham=0.98 says.

    Raises:
        ConfigError: a part that is no label=number, or a label that is there twice.
    """
    shares: dict[str, float] = {}
    for part in text.split(","):
        label, equals, number = part.rpartition("=")
        try:
            share = float(number)
        except ValueError as error:
            raise ConfigError(f"{option} {part}: give label=number, such as spam=0.02,ham=0.98") from error
        if not equals or not label or label in shares:
            raise ConfigError(f"{option} {part}: give each label once, as label=number, such as spam=0.02,ham=0.98")
        shares[label] = share
    return shares


def set_up_logging(*, quiet: bool) -> None:
    """Log lines to standard error, above progress bars: warnings alone when `quiet`."""
    from training.progress import TqdmHandler, show_bars

    if not quiet:
        show_bars()
    handler = TqdmHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    for name in ("training", "stream_classifier"):
        log = logging.getLogger(name)
        log.handlers = [handler]
        log.propagate = False
        log.setLevel(logging.WARNING if quiet or name == "stream_classifier" else logging.INFO)
