"""run.toml: the settings of a fit as they were used, to do it again or to start the next one from.

Every model directory has one; it is not among the files that loading reads. Keys are the fields of `FitSettings`, those
of the columns in a table of their own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from stream_classifier.errors import ConfigError, nearest
from training.data import Columns
from training.settings import FitSettings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["RECIPE_NAME", "read_recipe", "write_recipe"]

RECIPE_NAME = "run.toml"

_HEAD = "# stream-training fit DATA --out DIR --config run.toml makes this model again from the same rows.\n"
_HEAD_OF_STUDENT = (
    "# What stream-training distill trained this model with, as a student of {teacher};\n"
    "# with fit --config run.toml there is no teacher.\n"
)


def write_recipe(settings: FitSettings, path: Path, *, teacher: str | None = None) -> None:
    """Writes the settings, those that depend on others as they came out; what is None is left out.

    Args:
        teacher: the name of the model that taught this one; None: there was none.
    """
    content = asdict(settings.resolved())
    head = _HEAD if teacher is None else _HEAD_OF_STUDENT.format(teacher=json.dumps(teacher))
    path.write_text(head + "\n".join(_lines(content)) + "\n", "utf-8")


def read_recipe(path: Path) -> dict[str, Any]:
    """The fields of `FitSettings` that a file of `write_recipe` sets, or one written by hand with only some of them.

    Raises:
        ConfigError: it cannot be read, or has a key or a value that no field takes; with the fix.
    """
    try:
        content = tomllib.loads(path.read_text("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path}: it cannot be read ({error}); give a file such as run.toml") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"--config {path}: it is no TOML ({error}); write key = value") from error
    columns = content.get("columns", {})
    _check_keys(path, content, FitSettings, "")
    if isinstance(columns, dict):
        _check_keys(path, columns, Columns, "columns.")
    try:
        settings = TypeAdapter(FitSettings).validate_json(json.dumps(content, default=str), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"] if isinstance(part, str))
        raise ConfigError(f"--config {path}: {name} is {first['input']!r}; {first['msg'].lower()}") from error
    return {name: getattr(settings, name) for name in content}


def _check_keys(path: Path, content: Mapping[str, Any], owner: type[Any], prefix: str) -> None:
    known = [field.name for field in fields(owner)]
    for key in content:
        if key not in known:
            near = nearest(key, known)
            fix = f"did you mean {prefix}{near}?" if near else f"the keys are {', '.join(known)}"
            raise ConfigError(f"--config {path}: there is no key {prefix}{key}; {fix}")


def _lines(content: Mapping[str, Any]) -> Iterator[str]:
    """TOML: plain values first, tables after them."""
    tables = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            tables[name] = value
        elif value is not None:
            yield f"{name} = {_value(value)}"
    for name, table in tables.items():
        yield f"\n[{name}]"
        for key, value in table.items():
            if value is not None:
                yield f"{_key(key)} = {_value(value)}"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return (
            "{ " + ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items()) + " }" if value else "{}"
        )
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)


def _key(key: str) -> str:
    return key if key.isascii() and key.replace("_", "").replace("-", "").isalnum() else _value(key)
