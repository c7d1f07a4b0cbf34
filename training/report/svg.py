"""matplotlib figures as SVG elements of an HTML page: its fonts, its colours in light and dark, no ids that clash.

matplotlib is loaded when the first figure is made: nothing else of training needs it.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from training.report.markup import plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FAINT", "INK", "LINE", "SERIES", "drawing", "figure", "inline_svg"]

# Colours that stand for the page's own: matplotlib needs numbers, the page has another set when it is dark.
INK, LINE, FAINT = "#000001", "#000002", "#000003"
SERIES = tuple(f"#00001{i}" for i in range(8))
_VARIABLES = {INK: "--ink", LINE: "--line", FAINT: "--faint"} | {
    colour: f"--series-{i}" for i, colour in enumerate(SERIES)
}

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "{http://www.w3.org/1999/xlink}href"
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be read out, searched and scaled
    "svg.hashsalt": "report",  # equal figures give equal files
    "text.parse_math": False,  # labels may have dollars
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": LINE,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.5,
    "grid.alpha": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
}
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_FAMILY = re.compile(r"font-family: [^;]*;? ?")


@contextmanager
def drawing() -> Iterator[None]:
    """Within it, figures look as the page wants them; matplotlib's settings are as they were afterwards."""
    import matplotlib

    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        # The browser has the glyphs that the font used for measuring lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def figure(width: float = 3.7, height: float = 2.7, **grid: Any) -> tuple[Figure, Any]:
    """A figure of so many inches, and its axes: as `subplots` gives them."""
    from matplotlib.figure import Figure  # not pyplot: no window system, no global figures

    made = Figure(figsize=(width, height), layout="constrained")
    return made, made.subplots(**grid)


def inline_svg(made: Figure, *, name: str, title: str, description: str) -> str:
    """The figure as an `<svg>` element.

    Args:
        made: the figure.
        name: of letters, unlike that of any other figure of the page: its ids start with it.
        title, description: what it is, and what it shows: read out instead of it.
    """
    buffer = io.BytesIO()
    made.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    # What matplotlib just wrote, nobody else's XML.
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):  # the page has a style for all
                parent.remove(child)
    _rename_ids(root, name)
    for element in root.iter():
        element.tail = None
        if element.tag != f"{{{_SVG}}}text":
            element.text = None
        if "style" in element.attrib:
            element.set("style", _without_family(_recoloured(element.attrib["style"])))
    width, height = (float(n) for n in root.attrib["viewBox"].split()[2:])
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.set("id", name)
    root.set("role", "img")
    root.set("style", f"max-width:{width * 96 / 72:.0f}px;aspect-ratio:{width:.0f}/{height:.0f}")
    root.set("aria-labelledby", f"{name}-title {name}-description")
    for tag, text in (("desc", description), ("title", title)):
        element = ElementTree.Element(
            f"{{{_SVG}}}{tag}", {"id": f"{name}-{'title' if tag == 'title' else 'description'}"}
        )
        element.text = plain(text)
        root.insert(0, element)
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    return ElementTree.tostring(root, encoding="unicode")


def _rename_ids(root: ElementTree.Element, name: str) -> None:
    """Ids that something refers to get the figure's name, the others go."""
    used: set[str] = set()
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == _XLINK:
                used.add(value.removeprefix("#"))
            used.update(_REFERENCE.findall(value))
    for element in root.iter():
        if "id" in element.attrib:
            own = element.attrib.pop("id")
            if own in used:
                element.set("id", f"{name}-{own}")
        for key, value in list(element.attrib.items()):
            if key == _XLINK:
                element.set(key, f"#{name}-{value.removeprefix('#')}")
            elif "url(#" in value:
                element.set(key, _REFERENCE.sub(rf"url(#{name}-\1)", value))


def _recoloured(style: str) -> str:
    for colour, variable in _VARIABLES.items():
        style = style.replace(colour, f"var({variable})")
    return style


def _without_family(style: str) -> str:
    """The size of the font stays, the family is the page's."""
    return _FAMILY.sub("", style)
