"""The demo's articles: the same on every machine, no text on both sides, categories by their folders' names."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from types import SimpleNamespace

import pytest

from stream_classifier.demo import news
from stream_classifier.errors import ConfigError


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of 40 articles in two categories, made last name first, with one text twice."""
    for category in ("tech", "business"):
        folder = tmp_path / "bbcnews" / "data" / category
        folder.mkdir(parents=True)
        for number in range(20, 0, -1):
            (folder / f"{number:03}.txt").write_text(f"{category} {number}\n\nA body.\n")
    (folder / "021.txt").write_text("business 1\n\nA body.\n")
    (folder / "022.txt").write_bytes(b"caf\xe9 business")
    monkeypatch.setattr(
        news.importlib.util, "find_spec", lambda name: SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    )
    return tmp_path


def test_every_article_is_on_one_side_once_with_its_folders_category(corpus: Path) -> None:
    table, number = news.training_table()
    trained = [news.Article(row["text"], row["label"]) for row in csv.DictReader(io.StringIO(table.decode()))]
    streamed = news.held_out()
    assert len(trained) == number
    assert len({article.text for article in [*trained, *streamed]}) == len(trained) + len(streamed) == 41
    assert all(article.category in article.text for article in [*trained, *streamed])
    assert 0 < len(streamed) < len(trained)


def test_the_order_of_the_file_system_changes_nothing(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = news.held_out(), news.training_table()
    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: reversed(list(listed(self))))
    assert (news.held_out(), news.training_table()) == before


def test_a_missing_corpus_is_refused_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(news.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'stream-classifier\[demo\]'"):
        news.held_out()
