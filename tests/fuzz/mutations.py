"""Changes to an input that keep most of its structure: it is parsed, one node is changed, it is written again.

The same ones for the fuzzer, as its own mutator, and for the ordinary suite, from a seed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

__all__ = ["Structure", "json_behind", "mutate"]

Structure = Callable[[bytes], tuple[Any, Callable[[Any], bytes]]]
"""An input to its tree, and what makes an input of a changed tree. Raises ValueError where it has none."""

_ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 2**31, 2**63, 2**70, -(2**70), 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "x", "\0", "\ud800", "\u202e", "é" * 40, "../x", "/dev/null", "a" * 300, [], [[]], {}, {"": {}}, [None] * 9),
)
_LENGTHS = (1, 1, 2, 4, 8, 30)


def mutate(data: bytes, chance: random.Random, structure: Structure) -> bytes:
    """One change of the tree, or a few of the bytes where that is the dice's will or there is no tree."""
    if chance.random() < 0.6:
        try:
            tree, write = structure(data)
            return write(_changed(tree, chance))
        except (ValueError, RecursionError):
            pass
    return _bytes_changed(data, chance)


def json_behind(num_bytes: int) -> Structure:
    """JSON behind so many bytes that choose what the harness does."""

    def structure(data: bytes) -> tuple[Any, Callable[[Any], bytes]]:
        def write(tree: Any) -> bytes:
            return data[:num_bytes] + json.dumps(tree, ensure_ascii=False).encode("utf-8", "surrogatepass")

        return json.loads(data[num_bytes:]), write

    return structure


def _changed(value: Any, chance: random.Random) -> Any:
    """The same document with one node replaced, removed, doubled or renamed."""
    children = list(value.items()) if isinstance(value, dict) else list(enumerate(value if type(value) is list else ()))
    if not children or chance.random() < 0.1:
        return chance.choice(_ODD)
    key, child = chance.choice(children)
    what = chance.random()
    if what < 0.6:
        child = _changed(child, chance)
    if isinstance(value, dict):
        changed = {k: (child if k == key else v) for k, v in children}
        if what > 0.9:
            del changed[key]
        elif what > 0.8:
            changed[str(chance.choice(_ODD))] = child
        return changed
    items = [child if i == key else item for i, item in children]
    if what > 0.9:
        del items[key]
    elif what > 0.8:
        items[key:key] = [chance.choice(_ODD)]
    return items


def _bytes_changed(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice(_LENGTHS)):
        at = chance.randrange(len(changed) + 1)
        what = chance.randrange(4)
        if what == 0 and at < len(changed):
            changed[at] ^= 1 << chance.randrange(8)
        elif what == 1:
            del changed[at : at + chance.choice(_LENGTHS)]
        elif what == 2:
            changed[at:at] = chance.randbytes(chance.choice(_LENGTHS))
        else:
            start = chance.randrange(len(changed) + 1)
            changed[at:at] = changed[start : start + chance.randrange(40)]
    return bytes(changed)
