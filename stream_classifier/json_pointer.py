"""JSON Pointers (RFC 6901), compiled once and followed in parsed JSON.

""         the whole document
"/body"    the field "body"
"/a~1b/0"  the first element of the list in the field "a/b" ("~1" stands for "/", "~0" for "~")
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from stream_classifier.errors import ConfigError

__all__ = ["MISSING", "Find", "compile_pointer"]

MISSING = object()
"""What a pointer finds when there is nothing, unlike a null that is there."""

Find = Callable[[Any], Any]

_ESCAPE_THAT_IS_NONE = re.compile(r"~(?![01])")
_INDEX = re.compile(r"0|[1-9][0-9]{0,17}")


def compile_pointer(pointer: str, *, setting: str) -> Find:
    """A function from a document to what `pointer` finds in it, or MISSING; it never raises.

        >>> compile_pointer("/a~1b/0", setting="text")({"a/b": ["first", "second"]})
        'first'

    Args:
        pointer: as RFC 6901 writes it.
        setting: its name in the configuration, for the error.

    Raises:
        ConfigError: it is no JSON Pointer.
    """
    if pointer and not pointer.startswith("/"):
        escaped = pointer.replace("~", "~0")
        raise ConfigError(f'{setting} = "{pointer}": a JSON Pointer starts with "/"; write "/{escaped}"')
    if _ESCAPE_THAT_IS_NONE.search(pointer):
        raise ConfigError(
            f'{setting} = "{pointer}": in a JSON Pointer "~" is written "~0" and "/" in a name "~1"; write so'
        )
    tokens = [token.replace("~1", "/").replace("~0", "~") for token in pointer.split("/")[1:]]
    # None: no list has such an element. "-", the element after the last, is one of them.
    steps = [(token, int(token) if _INDEX.fullmatch(token) else None) for token in tokens]
    if len(steps) != 1:
        return lambda document: _follow(document, steps)

    (field, _), missing = steps[0], MISSING

    def find_field(document: Any) -> Any:
        return document.get(field, missing) if type(document) is dict else _follow(document, steps)

    return find_field


def _follow(value: Any, steps: list[tuple[str, int | None]]) -> Any:
    for field, index in steps:
        if isinstance(value, dict) and field in value:
            value = value[field]
        elif isinstance(value, list) and index is not None and index < len(value):
            value = value[index]
        else:
            return MISSING
    return value
