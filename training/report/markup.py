"""HTML that is escaped by construction: text goes in as text, and only `tag` makes markup."""

from __future__ import annotations

import html
import re
import unicodedata

__all__ = ["Markup", "breakable", "join", "plain", "prose", "share", "tag"]

_VOID = frozenset({"meta", "br", "wbr"})
_INVISIBLE = ("Cc", "Cs", "Cn")
_JOINTS = re.compile(r"([_\-./]+)")
_KEPT = "\n\t"
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # the direction of what follows


class Markup(str):
    """HTML as it is; any other string is text."""

    __slots__ = ()


def tag(name: str, /, *children: str | None, **attributes: str | int | bool | None) -> Markup:
    """An element. Children that are no Markup are escaped, attribute values always; None and False are left out.

    A trailing underscore goes (`class_`), others become hyphens (`aria_label`).

        >>> tag("a", "R&D <b>", href='"x"', class_="external")
        '<a href="&quot;x&quot;" class="external">R&amp;D &lt;b&gt;</a>'
    """
    shown = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{_escaped(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    inner = join(*children)
    return Markup(f"<{name}{shown}>" if name in _VOID else f"<{name}{shown}>{inner}</{name}>")


def join(*children: str | None) -> Markup:
    """The children one after another, as `tag` takes them."""
    return Markup("".join(c if isinstance(c, Markup) else _escaped(c) for c in children if c))


def plain(text: str, *, width: int | None = None) -> str:
    """A text without characters that a page cannot hold or show, cut to `width`."""
    cut = text if width is None or len(text) <= width else text[: width - 1] + "…"
    return "".join("\ufffd" if _is_hidden(c) else c for c in cut)


def prose(text: str) -> str:
    """A sentence of ours: no line begins with a per cent sign."""
    return text.replace(" %", "\u00a0%")


def breakable(name: str) -> Markup:
    """A name that may go on in the next line after an underscore, hyphen, dot or slash, as labels have them.

    >>> breakable("card_lost")
    'card_<wbr>lost'
    """
    return join(*(part if i % 2 == 0 else join(part, tag("wbr")) for i, part in enumerate(_JOINTS.split(name))))


def share(value: float | None, digits: int = 1) -> str:
    """In per cent, a dash where there is none."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def _is_hidden(character: str) -> bool:
    return character in _TURNING or (unicodedata.category(character) in _INVISIBLE and character not in _KEPT)


def _escaped(text: str) -> str:
    return html.escape(plain(text))
