"""The oracle: the stream, `classify`, `evaluate` and Classifier give the same answers on the same texts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stream_classifier import Classifier
from tests.plugins.brokers import Broker, Record
from tests.plugins.workers import Worker

WORDS = ["shares", "fell", "after", "the", "match", "while", "parliament", "voted", "on", "a", "new", "phone", "budget"]
TEXTS = [" ".join(WORDS[(i * 7 + j) % len(WORDS)] for j in range(1 + (i * i) % 90)) for i in range(60)]
TEXTS += ["", "naïve café, 東京 and 🙂", "nul \x00 inside", "word " * 3000]


def compare(answer: dict[str, Any], expected: dict[str, Any], tolerance: float) -> None:
    """Equal but for the noise that the company in a micro-batch adds to floating-point numbers."""
    exact = {key: value for key, value in expected.items() if key not in ("score", "scores", "sentiment_score")}
    assert {key: answer[key] for key in exact} == exact
    assert answer["score"] == pytest.approx(expected["score"], abs=tolerance)
    scores = {item["label"]: item["score"] for item in expected["scores"]}
    assert {item["label"]: item["score"] for item in answer["scores"]} == pytest.approx(scores, abs=tolerance)


def evaluated(model: Path, texts: list[str], labels: list[str], folder: Path) -> dict[str, Any]:
    """What `stream-training evaluate` says of the texts when these labels are the true ones."""
    rows = folder / "rows.jsonl"
    pairs = zip(texts, labels, strict=True)
    rows.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in pairs))
    command = [sys.executable, "-m", "training", "evaluate", str(model), str(rows), "--dtype", "float32", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def test_stream_command_line_evaluation_and_classifier_agree(
    embedded_broker: Broker,
    start_worker: Callable[..., Worker],
    unique_name: Callable[[str], str],
    minilm_dir: Path,
    tmp_path: Path,
) -> None:
    settings = {"dtype": "float32", "top_k": -1, "threshold": 0.5}
    classifier = Classifier.load(minilm_dir, **settings)
    expected = [prediction.as_dict() for prediction in classifier(TEXTS)]
    assert expected[-1]["truncated"]

    source = unique_name("source")
    embedded_broker.create_topic(source, partitions=1)
    embedded_broker.produce(source, [Record(text.encode()) for text in TEXTS])
    model = {"model": str(minilm_dir), "source": source, **settings}
    classifiers = [
        {**model, "name": "topics", "sink": f"{source}.topics"},
        {**model, "name": "strict", "sink": f"{source}.strict", "threshold": 1.0, "batch": {"max_tokens": 300}},
    ]
    worker = start_worker(embedded_broker, classifiers=classifiers)

    def results_of(classifier: str) -> list[Any]:
        return embedded_broker.consume_all(f"{source}.{classifier}", count=len(TEXTS), timeout_s=120)

    streamed = [json.loads(r.value) for r in results_of("topics")]
    strict = [json.loads(r.value) for r in results_of("strict")]
    assert worker.metric("tokens_total", classifier="topics") > len(TEXTS)
    assert worker.stop() == 0

    lines = tmp_path / "texts.jsonl"
    lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    command = [sys.executable, "-m", "stream_classifier", "classify", str(minilm_dir), str(lines)]
    command += ["--dtype", "float32", "--top-k", "-1", "--threshold", "0.5", "--text-pointer", "/text"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    classified = [json.loads(line) for line in done.stdout.splitlines()]

    assert len(streamed) == len(strict) == len(classified) == len(TEXTS)
    for row, prediction in enumerate(expected):
        compare(streamed[row], prediction, 1e-4)
        compare(classified[row], prediction, 1e-4)
        compare(strict[row], {**prediction, "decision": "uncertain"}, 1e-4)
        assert streamed[row]["source"]["offset"] == row
        for result in (streamed[row], strict[row], classified[row]):
            assert result["model"] == {"name": minilm_dir.name, "digest": classifier.digest}

    rows = [row for row, text in enumerate(TEXTS) if text]  # rows without a text are not evaluated
    labels = [streamed[row]["label"] for row in rows]
    figures = evaluated(minilm_dir, [TEXTS[row] for row in rows], labels, tmp_path)
    assert figures["n"] == len(rows)
    assert figures["near_tie_margin"] == 2e-3
    assert figures["near_ties"] < len(rows) / 2
    assert figures["n"] - round(figures["accuracy"] * figures["n"]) <= figures["near_ties"]
