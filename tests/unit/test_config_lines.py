"""The lines of keys in a TOML file."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_classifier.config.toml_lines import key_lines

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = '''\
# a comment with = and [brackets]
a = 1   # b = 2
"quoted key" = "# no comment"
dotted . 'x y' = """
c = 3
\\""" # still the string
"""
list = [ # one
  [1, 2], { d = "]", e = 4 },
  """]""",
]
[table]
f = '\\'
literal = \'\'\'
'' x = 1
\'\'\'
[[many]]
g = { h = [{ i = 1 }] }
[many.deep]
j = 2024-01-01 10:00:00
[[many]]
"\\u0067" = """"quotes""""
[[many.inner]]
[[many.inner]]
k = 1.5'''


@pytest.mark.parametrize("text", [FILE, FILE.replace("\n", "\r\n")], ids=["unix", "windows"])
@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("a",), 2),
        (("quoted key",), 3),
        (("dotted",), 4),
        (("dotted", "x y"), 4),
        (("list",), 8),
        (("list", 0, 1), 9),
        (("list", 1, "d"), 9),
        (("list", 1, "e"), 9),
        (("list", 2), 10),
        (("table",), 12),
        (("table", "f"), 13),
        (("table", "literal"), 14),
        (("many",), 17),
        (("many", 0), 17),
        (("many", 0, "g", "h", 0, "i"), 18),
        (("many", 0, "deep"), 19),
        (("many", 0, "deep", "j"), 20),
        (("many", 1), 21),
        (("many", 1, "g"), 22),
        (("many", 1, "inner", 0), 23),
        (("many", 1, "inner", 1), 24),
        (("many", 1, "inner", 1, "k"), 25),
    ],
)
def test_a_key_is_found_on_its_line(text: str, path: tuple[str | int, ...], line: int) -> None:
    assert key_lines(text)[path] == line


def test_every_key_of_the_file_is_found_and_no_other() -> None:
    found = set(key_lines(FILE))
    assert found == set(_paths(tomllib.loads(FILE)))


_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_values = st.recursive(
    st.integers() | st.booleans() | _texts | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(_texts, _values, max_size=4), st.booleans())
def test_whatever_can_be_written_is_found(tree: dict[str, Any], as_tables: bool) -> None:
    lines, expected = [], {}
    for key, value in tree.items():
        if as_tables and isinstance(value, dict):
            continue
        lines.append(f"{_key(key)} = {_inline(value)}")
        expected[key,] = len(lines)
    for key, value in tree.items():
        if as_tables and isinstance(value, dict):
            lines.append(f"[{_key(key)}]")
            expected[key,] = len(lines)
            for inner_key, inner in value.items():
                lines.append(f"{_key(inner_key)} = {_inline(inner)}")
                expected[key, inner_key] = len(lines)
    text = "\n".join(lines)
    assert tomllib.loads(text) == tree
    found = key_lines(text)
    assert {path: found[path] for path in expected} == expected
    assert set(found) == set(_paths(tree))


def _paths(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [p for key, item in items for p in [(*path, key), *_paths(item, (*path, key))]]


def _key(key: str) -> str:
    return _inline(key)


def _inline(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = "".join(c if c.isalnum() or c in " []{}=#.,'" else f"\\U{ord(c):08x}" for c in value)
        return f'"{escaped}"'
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(k)} = {_inline(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return repr(value)
