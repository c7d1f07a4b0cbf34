"""The settings as others read them: the JSON Schema, and rows for the reference page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from stream_classifier.config import schema
from stream_classifier.config.problems import shown
from stream_classifier.config.settings import Settings

__all__ = ["ReferenceRow", "json_schema", "reference_rows", "root_node"]


class ReferenceRow(NamedTuple):
    """One key for the reference: `classifier[].batch.max_tokens`, its default in words, its meaning in one line."""

    key: str
    default: str
    meaning: str


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of the file; what holds between keys it cannot say."""
    generated = Settings.model_json_schema(by_alias=True, mode="validation")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "stream-classifier settings",
        **{key: value for key, value in generated.items() if key != "title"},
    }


def reference_rows() -> list[ReferenceRow]:
    """All keys in the order of the reference: as in settings.py, a classifier's required ones first."""
    return list(_rows(root_node(), ""))


@cache
def root_node() -> schema.Node:
    """The schema to walk; made once, as generating it takes milliseconds."""
    return schema.Node.root(json_schema())


def _rows(node: schema.Node, prefix: str) -> Iterator[ReferenceRow]:
    for key in sorted(node.keys, key=lambda key: bool(prefix) and key not in node.required):
        child = node.child(key)
        is_list_of_tables = child.definition.get("type") == "array" and child.child(0).keys
        if is_list_of_tables:
            yield from _rows(child.child(0), f"{prefix}{key}[].")
        elif child.keys:
            yield from _rows(child, f"{prefix}{key}.")
        else:
            default = "required" if key in node.required else _default_text(child.definition)
            yield ReferenceRow(prefix + key, default, child.definition["description"])


def _default_text(definition: Mapping[str, Any]) -> str:
    if "x-default" in definition:
        return str(definition["x-default"])
    default = definition.get("default")
    if default is None:
        return "none"
    return default if isinstance(default, str) else shown(default)
