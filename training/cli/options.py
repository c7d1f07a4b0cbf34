"""What several commands share: options, their parsing, examples, and where log lines go."""

from __future__ import annotations

import logging
from typing import Any

import click

from stream_classifier.errors import ConfigError
from training.data import Columns

__all__ = ["columns_options", "examples", "parse_columns", "set_up_logging"]


def examples(*lines: str) -> str:
    """An epilog for click: the lines as they are, under a heading."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def columns_options(command: Any) -> Any:
    """--text-column and --label-column."""
    for option in (
        click.option("--label-column", default="label", show_default=True, help="The column that holds the label."),
        click.option(
            "--text-column", default="text", show_default=True, help="The column of the text; several: title,body."
        ),
    ):
        command = option(command)
    return command


def parse_columns(text_column: str, label_column: str) -> Columns:
    """The columns that the two options name.

    Raises:
        ConfigError: no text column, or one that is the label column too.
    """
    text = tuple(name for name in text_column.split(",") if name)
    if not text:
        raise ConfigError(f"--text-column is {text_column!r}; give the name of a column, or several as title,body")
    if label_column in text:
        raise ConfigError(f"--label-column {label_column!r} is a text column too; give the one that holds the label")
    return Columns(text, label_column)


def set_up_logging(*, quiet: bool) -> None:
    """Log lines to standard error, above progress bars: warnings alone when `quiet`."""
    from training.progress import TqdmHandler

    handler = TqdmHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    for name in ("training", "stream_classifier"):
        log = logging.getLogger(name)
        log.handlers = [handler]
        log.propagate = False
        log.setLevel(logging.WARNING if quiet or name == "stream_classifier" else logging.INFO)
