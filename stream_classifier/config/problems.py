"""What is wrong with a setting, in one line: where it was given, its key, the value seen, what is wrong, the fix.

Turns pydantic's errors into such lines; where a value came from is told by an Origin. Reading files is for sources.py,
the rules themselves stand in settings.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from stream_classifier.config import schema
from stream_classifier.errors import ConfigError, nearest

__all__ = ["Origin", "Path", "Problem", "SettingsError", "key_text", "problems_in", "refusal", "shown"]

Path = tuple[str | int, ...]
"""A setting's place in the tree: ("classifier", 0, "threshold")."""

_MAX_SHOWN_CHARS = 80
_MAX_SHOWN_ITEMS = 8
_MAX_SHOWN_DEPTH = 8
_SECRET_KEYS = {"token", "password"}
_CREDENTIALS = re.compile(r"//[^/\s]*@")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from.

    Attributes:
        kind: "file", "environment", "argument" or "default".
        where: "pipeline.toml:12", an environment name, "--set app.id", or "default".
    """

    kind: str
    where: str


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with the settings.

    Attributes:
        where: "pipeline.toml:12", an environment name, "--set app.id"; empty for arguments of the Python API.
        key: the setting: "app.broker", "classifier.intent.threshold"; may be empty.
        value: the value seen as TOML, None when there is none or when it is a secret.
        what: what is wrong with it.
        fix: what to do.
    """

    where: str
    key: str
    value: str | None
    what: str
    fix: str

    def __str__(self) -> str:
        subject = self.key if self.value is None else f"{self.key} = {self.value}"
        return ": ".join(part for part in (self.where, subject, self.what) if part) + f"; {self.fix}"


class SettingsError(ConfigError):
    """The settings cannot be used: one line about the first problem; `problems` holds all that were found."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        more = len(problems) - 1
        rest = "" if more < 1 else f" (and {more} more problem{'s' if more > 1 else ''}: stream-classifier check FILE)"
        super().__init__(f"{problems[0]}{rest}")
        self.problems = tuple(problems)


def refusal(what: str, fix: str, *, at: Path = ()) -> PydanticCustomError:
    """The error for a validator to raise; `at` leads from the validated model to the key at fault."""
    return PydanticCustomError("refused", "{what}; {fix}", {"what": what, "fix": fix, "at": at})


def problems_in(
    error: ValidationError, tree: Mapping[str, Any], origins: Mapping[Path, Origin], root: schema.Node
) -> list[Problem]:
    """The problems behind a pydantic error; unknown keys first: one may be the missing one, misspelt.

    Args:
        tree: what was validated.
        origins: where its parts came from; a part without an entry came with the part above it.
        root: the JSON Schema of what `tree` should be.
    """
    found = sorted(error.errors(include_url=False), key=lambda details: details["type"] != "extra_forbidden")
    return [_problem(details, tree, origins, root) for details in found]


def origin_of(path: Path, origins: Mapping[Path, Origin]) -> Origin | None:
    """Where the value at `path` came from, or else the part of the tree that holds it."""
    for end in range(len(path), -1, -1):
        if path[:end] in origins:
            return origins[path[:end]]
    return None


def key_text(path: Path, tree: Mapping[str, Any]) -> str:
    """A path as it is written for --set: `classifier.intent.threshold`, or `classifier[0]` while there is no name."""
    parts: list[str] = []
    for position, step in enumerate(path):
        if isinstance(step, str):
            parts.append(step if re.fullmatch(r"[A-Za-z0-9_-]{1,80}", step) else shown(step))
            continue
        element = schema.value_at(tree, path[: position + 1])
        name = element.get("name") if isinstance(element, dict) else None
        if isinstance(name, str) and path[:position] == ("classifier",) and path[position + 1 :] != ("name",):
            parts.append(name if re.fullmatch(r"[A-Za-z0-9_-]{1,80}", name) else shown(name))
        elif parts:
            parts[-1] += f"[{step}]"
    return ".".join(parts)


def shown(value: object, *, whole: bool = False) -> str:
    """A value as TOML writes it, in one line; cut after 80 characters unless `whole`. Credentials in it are masked."""
    text = _as_toml(value, 1_000_000 if whole else _MAX_SHOWN_ITEMS, _MAX_SHOWN_DEPTH)
    text = text if text.isprintable() else json.dumps(text)
    return text if whole or len(text) <= _MAX_SHOWN_CHARS else text[: _MAX_SHOWN_CHARS - 1] + "…"


def _as_toml(value: object, max_items: int, max_depth: int) -> str:
    if isinstance(value, str):
        masked = _CREDENTIALS.sub("//***@", value)
        return json.dumps(masked, ensure_ascii=not masked.isprintable())
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and value.bit_length() > 256:
        return f"a number of {value.bit_length()} bits"  # Python refuses to write very long ones in decimal
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, (Mapping, list, tuple)) and value and not max_depth:
        return "…"
    if isinstance(value, Mapping):
        items = [
            f"{key} = {_masked(key, item, max_items, max_depth - 1)}" for key, item in list(value.items())[:max_items]
        ]
        return "{ " + ", ".join(items) + " }" if items else "{}"
    if isinstance(value, (list, tuple)):
        items = [_as_toml(item, max_items, max_depth - 1) for item in value[:max_items]]
        return "[" + ", ".join(items) + ("]" if len(value) <= max_items else ", …]")
    return repr(value)


def _problem(
    details: ErrorDetails, tree: Mapping[str, Any], origins: Mapping[Path, Origin], root: schema.Node
) -> Problem:
    path: Path = tuple(details["loc"])
    if path and path[-1] == "[key]":  # pydantic's mark for a mapping's key
        path = path[:-1]
    if details["type"] == "refused":
        path = (*path, *details["ctx"]["at"])
    if path and isinstance(path[-1], int) and isinstance(schema.value_at(tree, path[:-1]), str):
        path = path[:-1]  # a string that stands for a list of one
    origin = origin_of(path, origins)
    value = schema.value_at(tree, path)
    secret = any(step in _SECRET_KEYS for step in path)
    what, fix = _what_and_fix(details, path, value, root)
    return Problem(
        where=origin.where if origin else "",
        key=key_text(path, tree),
        value=None if secret or not path else _seen(details["type"], value, schema.at(root, path).default),
        what=what,
        fix=fix,
    )


def _seen(kind: str, value: object, default: object) -> str | None:
    """The value as a problem shows it. One that was not given may still be refused for what was: the default."""
    if value is schema.MISSING:
        return None if kind != "refused" or default is None else f"{shown(default)} (the default)"
    if kind == "int_type" and isinstance(value, float):
        return repr(value)  # "1.0": as "1" it would look like the whole number that is asked for
    return shown(value)


def _what_and_fix(details: ErrorDetails, path: Path, value: object, root: schema.Node) -> tuple[str, str]:
    kind, context = details["type"], details.get("ctx", {})
    if kind == "refused":
        return context["what"], context["fix"]
    if kind == "extra_forbidden":
        return "there is no such key", _known_key_fix(path, root)
    if kind == "missing":
        return "it is required", _missing_fix(path, root)
    if kind == "literal_error":
        choices = schema.at(root, path).choices
        close = nearest(value, choices) if isinstance(value, str) else None
        listed = " or ".join(json.dumps(choice) for choice in choices)
        return f"must be {listed}", f"write {json.dumps(close)}" if close else "take one of them"
    if kind in _LIMITS:
        word, key = _LIMITS[kind]
        return f"must be {word} {context[key]:g}", _number_fix(path, root)
    if kind in _TYPES:
        what, fix = _TYPES[kind]
        if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9.]+|true|false", value) and "quotes" not in fix:
            fix = f"remove the quotes: {value}"
        return what, fix
    return details["msg"][:1].lower() + details["msg"][1:], "see stream-classifier config schema"


_LIMITS = {
    "greater_than": ("greater than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}
_TYPES = {
    "string_type": ("must be a string", "put it in quotes"),
    "string_unicode": ("must be a string of valid Unicode", "remove what is not UTF-8"),
    "int_type": ("must be a whole number", "write it with digits only"),
    "float_type": ("must be a number", "write a number such as 0.5"),
    "finite_number": ("must be a finite number", "write a number such as 0.5"),
    "bool_type": ("must be true or false", "write true or false"),
    "tuple_type": ("must be a list", "write it in brackets, as in [\"a\", \"b\"]"),
    "dict_type": ("must be a table", "write it in braces, as in { name = \"value\" }"),
    "model_type": ("must be a table", "write it as a table, with its keys under a header in brackets"),
}  # fmt: skip


def _masked(key: object, value: object, max_items: int, max_depth: int) -> str:
    return "***" if key in _SECRET_KEYS else _as_toml(value, max_items, max_depth)


def _known_key_fix(path: Path, root: schema.Node) -> str:
    known = schema.at(root, path[:-1]).keys
    word = str(path[-1])
    if close := nearest(word, known):
        return f"did you mean {close}?"
    homes = [home for home in schema.tables(root) if word in schema.at(root, home).keys]
    if homes:
        return f"it belongs in {'.'.join('classifier' if step == 0 else str(step) for step in _unindexed(homes[0]))}"
    return f"the keys here are {', '.join(known)}"


def _unindexed(path: Path) -> Path:
    return tuple(step for step in path if isinstance(step, str)) or ("the top of the file",)


def _missing_fix(path: Path, root: schema.Node) -> str:
    key = path[-1]
    if path == ("classifier",):
        return "add a table [[classifier]] with name, model, source and sink"
    if schema.at(root, path).keys:
        return f"add a table [{key}]"
    return f"add {key} = {_EXAMPLES.get(str(key), chr(34) + '…' + chr(34))}"


_EXAMPLES = {
    "id": '"support"',
    "broker": '"kafka://localhost:9092"',
    "name": '"intent"',
    "model": '"models/intent"',
    "source": '"support.messages"',
    "sink": '"support.intents"',
}


def _number_fix(path: Path, root: schema.Node) -> str:
    node = schema.at(root, path)
    least, most = node.limits
    if most is not None:
        return f"give a number from {shown(least)} to {shown(most)}"
    return f"the default is {shown(node.default)}" if node.default is not None else "give another number"
