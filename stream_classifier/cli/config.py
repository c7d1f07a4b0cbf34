"""`stream-classifier config`: the JSON Schema of the settings, and the settings as they will be used."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stream_classifier.cli.group import LazyGroup, examples
from stream_classifier.cli.output import write

if TYPE_CHECKING:
    from stream_classifier.config import Settings

__all__ = ["command", "schema", "show"]

_MASK = "********"


@click.group(
    "config",
    short_help="Print the schema of the settings, or what they are in the end.",
    cls=LazyGroup,
    commands_at={"schema": f"{__name__}:schema", "show": f"{__name__}:show"},
    epilog=examples(
        "stream-classifier config schema > pipeline.schema.json",
        "stream-classifier config show pipeline.toml",
    ),
)
def command() -> None:
    """The settings: their schema, and what they are in the end."""


@click.command("schema", epilog=examples("stream-classifier config schema > pipeline.schema.json"))
def schema() -> int:
    """Print the JSON Schema of the configuration file."""
    from stream_classifier import config

    write(json.dumps(config.json_schema(), indent=2, ensure_ascii=False))
    return 0


@click.command(
    "show",
    epilog=examples(
        "stream-classifier config show pipeline.toml",
        "stream-classifier config show pipeline.toml --set app.delivery_timeout_s=30",
        "stream-classifier config show pipeline.toml --json",
    ),
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: settings, and the origin of each.")
def show(file: Path, overrides: tuple[str, ...], as_json: bool) -> int:
    """Print the settings of FILE as they will be used, and where each came from. Secrets are masked."""
    from stream_classifier import config
    from stream_classifier.cli.logs import set_up_logging
    from stream_classifier.config.problems import key_text, shown

    set_up_logging("warning")
    settings = config.load(file, overrides=overrides)
    tree = _masked(settings)
    leaves = [(key_text(path, tree), value, settings.origin(path).where) for path, value in _leaves(tree, ())]
    if as_json:
        origins = {key: origin for key, _, origin in leaves}
        write(json.dumps({"file": str(file), "settings": tree, "origins": origins}, ensure_ascii=False))
        return 0
    lines = [
        (f"{key} = {'none' if value is None else shown(value, whole=True)}", origin) for key, value, origin in leaves
    ]
    width = min(max(len(line) for line, _ in lines), 60)
    for line, origin in lines:
        write(f"{line:<{width}}  # {origin}")
    return 0


def _masked(settings: Settings) -> dict[str, Any]:
    """The settings as plain tables, under the names of the file."""
    tree = settings.model_dump(by_alias=True)
    tree["classifier"] = [{**table, "text": table["text"] and list(table["text"])} for table in tree["classifier"]]
    return {name: _without_secrets(table) for name, table in tree.items()}


def _without_secrets(value: Any) -> Any:
    from pydantic import SecretStr

    if isinstance(value, dict):
        return {key: _without_secrets(item) for key, item in value.items()}
    return _MASK if isinstance(value, SecretStr) else value


def _leaves(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every setting with its path; a list of plain values and an empty table are one."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, (*path, key))
    elif isinstance(value, (list, tuple)) and value and isinstance(value[0], dict):
        for index, item in enumerate(value):
            yield from _leaves(item, (*path, index))
    else:
        yield path, value
