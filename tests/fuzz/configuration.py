"""Any settings file, environment and --set: they load, or are refused in one line with the fix.

The file ends at the first NUL. Behind it come overrides, and NAME=value pairs of the environment, each up to the next
NUL.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stream_classifier import config
from stream_classifier.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_REFUSAL_CHARS = 1000
_FOLDER = tempfile.TemporaryDirectory(prefix="stream-classifier-fuzz-")
_PREFIX = "STREAM_CLASSIFIER__"


def fuzz(data: bytes) -> None:
    """As the package says."""
    content, *rest = data.split(b"\0")
    file = Path(_FOLDER.name) / "pipeline.toml"
    file.write_bytes(content)
    lines = [part.decode(errors="surrogateescape") for part in rest]
    environ = dict(line.split("=", 1) for line in lines if line.startswith(_PREFIX) and "=" in line)
    overrides = [line for line in lines if not line.startswith(_PREFIX)]
    loads_or_is_refused(file, overrides, environ)


def loads_or_is_refused(file: Path, overrides: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> None:
    """Fails unless the settings load or one printable line says what is wrong and how to put it right."""
    refusal = None
    try:
        settings = config.load(file, overrides=overrides, environ=environ or {})
    except ConfigError as error:
        refusal = str(error)
    if refusal is None:
        assert settings.classifiers
        settings.model_dump_json(by_alias=True)
    else:
        assert refusal.isprintable(), "not one line"
        assert "; " in refusal, "no fix"
        assert len(refusal) < MAX_REFUSAL_CHARS + len(os.fspath(file))


def to_toml(tree: Mapping[str, Any]) -> str:
    """One line for each key, tables inline. What TOML cannot hold is written as Python writes it, and refused."""
    return "".join(f"{_toml(key)} = {_toml(value)}\n" for key, value in tree.items())


def _structure(data: bytes) -> tuple[Any, Callable[[Any], bytes]]:
    content, *rest = data.split(b"\0")

    def write(tree: Any) -> bytes:
        text = to_toml(tree) if isinstance(tree, dict) else _toml(tree)
        return b"\0".join([text.encode("utf-8", "surrogatepass"), *rest])

    return tomllib.loads(content.decode()), write


STRUCTURE = _structure


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value).replace("\x7f", "\\u007f") if value.isascii() else _escaped(value)
    if isinstance(value, int):
        return hex(value) if value > 2**64 else str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return repr(value)


def _escaped(value: str) -> str:
    return '"' + "".join(f"\\U{ord(char):08x}" for char in value) + '"'
