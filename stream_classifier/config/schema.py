"""The JSON Schema of the settings, and walking it: which keys a table knows, what a key accepts.

The schema comes from the models of settings.py; suggestions for a misspelt key, and whether text from the environment
stays text, are read off it so that no second list of keys exists.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["MISSING", "Node", "at", "tables", "value_at"]

Step = str | int


class _Missing:
    """Stands for "no value at this path": null is a value."""


MISSING: Final = _Missing()


@dataclass(frozen=True, slots=True)
class Node:
    """One part of a JSON Schema, references resolved.

    Attributes:
        definition: the schema's own object; empty for a path the schema does not know.
        definitions: `$defs` of the whole.
    """

    definition: Mapping[str, Any]
    definitions: Mapping[str, Any]

    @classmethod
    def root(cls, json_schema: Mapping[str, Any]) -> Node:
        return cls(json_schema, json_schema.get("$defs", {}))

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys a table knows, in order; empty for what is no table, or one with names of the user's own."""
        return tuple(key for option in self._options() for key in option.get("properties", ()))

    @property
    def required(self) -> tuple[str, ...]:
        """The keys that a table must have."""
        return tuple(key for option in self._options() for key in option.get("required", ()))

    @property
    def is_map(self) -> bool:
        """Whether it is a table whose keys are the user's own, such as labels."""
        return isinstance(self.definition.get("additionalProperties"), dict)

    @property
    def is_text(self) -> bool:
        """Whether only a string will do."""
        types = {option.get("type") for option in self._options()} - {"null"}
        return types == {"string"}

    @property
    def choices(self) -> tuple[str, ...]:
        return tuple(self.definition.get("enum", ()))

    @property
    def default(self) -> Any:
        return self.definition.get("default")

    @property
    def limits(self) -> tuple[Any, Any]:
        """The least and the greatest number allowed, None where there is no such limit."""
        for option in self._options():
            if {"minimum", "maximum", "exclusiveMinimum"} & option.keys():
                return option.get("minimum", option.get("exclusiveMinimum")), option.get("maximum")
        return None, None

    def child(self, step: Step) -> Node:
        """The part under a key or an index; an empty one when the schema knows none."""
        for option in self._options():
            if isinstance(step, int):
                found = option.get("items")
            else:
                found = option.get("properties", {}).get(step, option.get("additionalProperties"))
            if isinstance(found, dict):
                return Node(self._resolve(found), self.definitions)
        return Node({}, self.definitions)

    def _options(self) -> list[Mapping[str, Any]]:
        return [self._resolve(option) for option in self.definition.get("anyOf", [self.definition])]

    def _resolve(self, definition: Mapping[str, Any]) -> Mapping[str, Any]:
        reference = definition.get("$ref")
        return definition if reference is None else {**self.definitions[reference.rsplit("/", 1)[1]], **definition}


def at(root: Node, path: tuple[Step, ...]) -> Node:
    """The part of the schema that `path` leads to; an empty one when it leads nowhere."""
    for step in path:
        root = root.child(step)
    return root


def tables(root: Node) -> Iterator[tuple[Step, ...]]:
    """The paths of all tables with known keys, the root first; 0 stands for any index."""
    waiting: list[tuple[Step, ...]] = [()]
    while waiting:
        path = waiting.pop(0)
        node = at(root, path)
        if node.keys:
            yield path
        waiting += [(*path, key) for key in node.keys]
        if "items" in node.definition:
            waiting.append((*path, 0))


def value_at(tree: object, path: tuple[Step, ...]) -> object:
    """The value that `path` leads to in nested tables and lists, or MISSING."""
    value: Any = tree
    for step in path:
        is_key = isinstance(value, Mapping) and step in value
        is_index = isinstance(value, (list, tuple)) and isinstance(step, int) and step < len(value)
        if not (is_key or is_index):
            return MISSING
        value = value[step]
    return value
