"""Cheap changes of a text: typing errors, case, words left out or in another order. Seeded, and without a model."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

__all__ = ["NOISE", "change_case", "drop_words", "swap_words", "typing_errors"]

_WORDS = re.compile(r"\S+|\s+")

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_NEIGHBOURS = {
    letter: "".join(row[max(0, i - 1) : i] + row[i + 1 : i + 2]) for row in _ROWS for i, letter in enumerate(row)
}


def typing_errors(text: str, rate: float, draw: random.Random) -> str:
    """A share `rate` of the letters, one at least, gone, doubled, swapped with the next, or the next key's instead."""
    letters = [i for i, character in enumerate(text) if character.isalpha()]
    characters = list(text)
    for i in draw.sample(letters, _number(len(letters), rate)):
        kind = draw.choice(("leave out", "double", "swap", "next key"))
        letter = characters[i]
        keys = _NEIGHBOURS.get(letter.lower(), "")
        if kind == "swap" and i + 1 < len(text) and text[i + 1].isalpha():
            characters[i], characters[i + 1] = characters[i + 1], letter
        elif kind == "next key" and keys:
            key = draw.choice(keys)
            characters[i] = key.upper() if letter.isupper() else key
        elif kind == "double":
            characters[i] = letter * 2
        else:
            characters[i] = ""
    return "".join(characters)


def change_case(text: str, rate: float, draw: random.Random) -> str:
    """A share `rate` of the words, one at least, in capitals, in small letters, or with a capital first."""
    pieces, words = _split(text)
    for i in draw.sample(words, _number(len(words), rate)):
        word = pieces[i]
        others = [form for form in (word.upper(), word.lower(), word.capitalize()) if form != word]
        pieces[i] = draw.choice(others) if others else word
    return "".join(pieces)


def drop_words(text: str, rate: float, draw: random.Random) -> str:
    """Without a share `rate` of the words, one at least, but never all of them."""
    pieces, words = _split(text)
    for i in draw.sample(words, min(_number(len(words), rate), max(0, len(words) - 1))):
        pieces[i] = ""
        if i + 1 < len(pieces):
            pieces[i + 1] = ""  # the space after it
        elif i > 0:
            pieces[i - 1] = ""
    return "".join(pieces)


def swap_words(text: str, rate: float, draw: random.Random) -> str:
    """A share `rate` of the words, one at least, change places with the next."""
    pieces, words = _split(text)
    for k in draw.sample(range(len(words) - 1), _number(len(words) - 1, rate)) if len(words) > 1 else ():
        i, j = words[k], words[k + 1]
        pieces[i], pieces[j] = pieces[j], pieces[i]
    return "".join(pieces)


NOISE: dict[str, Callable[[str, float, random.Random], str]] = {
    "typing": typing_errors,
    "case": change_case,
    "drop": drop_words,
    "swap": swap_words,
}
"""The changes by name."""


def _split(text: str) -> tuple[list[str], list[int]]:
    """Words and the space between them, and which of the pieces are words."""
    pieces = _WORDS.findall(text)
    return pieces, [i for i, piece in enumerate(pieces) if not piece.isspace()]


def _number(available: int, rate: float) -> int:
    """How many of those available a rate is: one at least, where there is one."""
    return min(available, max(1, round(available * rate)))
