"""Which line of a TOML file a key stands on: tomllib gives values without positions.

Only for text that tomllib has accepted, so that it need not check anything; values are skipped, not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

__all__ = ["key_lines"]

Step = str | int

_BLANK: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE: Final = re.compile(r"[ \t]*")
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_STRING: Final = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*"{3,5}' r"|'''(?:[^']|'(?!''))*'{3,5}" r'|"(?:[^"\\\n]|\\.)*"' r"|'[^'\n]*'", re.DOTALL
)
_SCALAR: Final = re.compile(r"[^,\]}\n#]*")


def key_lines(text: str) -> dict[tuple[Step, ...], int]:
    """The line, from 1, of every key and table header, by its path with list indices: ("classifier", 0, "name").

    A table that only deeper headers imply gets the line of the first of them.
    """
    return dict(_Scanner(text).scan())


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text.replace("\r\n", "\n")  # as tomllib does
        self._position = 0
        self._line = 1
        self._line_counted_to = 0
        self._list_sizes: dict[tuple[Step, ...], int] = {}
        self._found: dict[tuple[Step, ...], int] = {}

    def scan(self) -> dict[tuple[Step, ...], int]:
        table: tuple[Step, ...] = ()
        self._skip(_BLANK)
        while self._position < len(self._text):
            if self._text.startswith("[", self._position):
                table = self._header()
            else:
                self._pair(table)
            self._skip(_BLANK)
        return self._found

    def _header(self) -> tuple[Step, ...]:
        line = self._current_line()
        is_list = self._text.startswith("[[", self._position)
        self._position += 2 if is_list else 1
        keys = list(self._dotted_key())
        self._position += 2 if is_list else 1
        path: tuple[Step, ...] = ()
        for depth, key in enumerate(keys):
            path = (*path, key)
            self._found.setdefault(path, line)
            if is_list and depth == len(keys) - 1:
                self._list_sizes[path] = self._list_sizes.get(path, 0) + 1
            if path in self._list_sizes:  # a header below a list means its last table
                path = (*path, self._list_sizes[path] - 1)
                self._found.setdefault(path, line)
        return path

    def _pair(self, table: tuple[Step, ...]) -> None:
        line = self._current_line()
        path = table
        for key in self._dotted_key():
            path = (*path, key)
            self._found.setdefault(path, line)
        self._position += 1  # the equals sign
        self._skip(_SPACE)
        self._value(path)

    def _value(self, path: tuple[Step, ...]) -> None:
        opening = self._text[self._position]
        if opening == "[":
            self._elements(path, "]")
        elif opening == "{":
            self._elements(path, "}")
        elif opening in "\"'":
            self._skip(_STRING)
        else:
            self._skip(_SCALAR)

    def _elements(self, path: tuple[Step, ...], closing: str) -> None:
        """The elements of a list or the pairs of an inline table."""
        self._position += 1
        index = 0
        self._skip(_BLANK)
        while self._text[self._position] != closing:
            if closing == "}":
                self._pair(path)
            else:
                self._found.setdefault((*path, index), self._current_line())
                self._value((*path, index))
            index += 1
            self._skip(_BLANK)
            if self._text[self._position] == ",":
                self._position += 1
                self._skip(_BLANK)
        self._position += 1

    def _dotted_key(self) -> Iterator[str]:
        while True:
            self._skip(_SPACE)
            start = self._position
            if self._text[start] in "\"'":
                self._skip(_STRING)
                yield _unquoted(self._text[start : self._position])
            else:
                self._skip(_BARE_KEY)
                yield self._text[start : self._position]
            self._skip(_SPACE)
            if self._text[self._position] != ".":
                return
            self._position += 1

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self._text, self._position)
        if match is not None:
            self._position = match.end()

    def _current_line(self) -> int:
        self._line += self._text.count("\n", self._line_counted_to, self._position)
        self._line_counted_to = self._position
        return self._line


def _unquoted(quoted: str) -> str:
    if quoted.startswith("'"):
        return quoted[1:-1]
    return re.sub(r"\\(u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)", _unescaped, quoted[1:-1])


def _unescaped(match: re.Match[str]) -> str:
    code = match[1]
    if code[0] in "uU" and len(code) > 1:
        return chr(int(code[1:], 16))
    return {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", "e": "\x1b"}.get(code, code)
