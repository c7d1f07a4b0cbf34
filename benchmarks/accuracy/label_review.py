"""Are the labels that look wrong wrong? On AG News with labels of people, of which the true ones are known.

    python -m benchmarks.accuracy.label_review [--folds 5] [--seed 0]

The ranking of `cross-validate`, by the loss of models that never saw the row, against confident learning's margins, the
loss of one model that was trained on the rows it judges, and chance. All of them share one frozen encoder.

N texts, L labels.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from benchmarks.accuracy.sets import folder_of
from benchmarks.report import RESULTS, environment, exit_with
from stream_classifier.model.calibration import SINGLE_LABEL, Calibration
from training.data import Columns, label_targets, labels_of
from training.folds import FrozenFolds, assign_folds
from training.intervals import bootstrap_interval
from training.label_review import margins, suspicions
from training.metrics import log_losses
from training.presets import preset
from training.reading import read_table

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Writes benchmarks/results/accuracy/label_review.json and prints a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy.label_review", description=__doc__)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    path = folder_of("ag_news") / "train_noisy.csv"
    given, gold = read_table(path), read_table(path, Columns(label="label_gold"))
    labels = labels_of(given)
    given_N, gold_N = label_targets(given, labels).astype(np.intp), label_targets(gold, labels).astype(np.intp)
    wrong_N = given_N != gold_N

    settings = preset("quick", seed=options.seed)
    models = FrozenFolds(given, labels, settings, show_progress=True)
    fold_N = assign_folds(given, options.folds, seed=options.seed)
    logits_NL = np.empty((len(given), len(labels)), dtype=np.float32)
    for fold in range(options.folds):
        out = np.flatnonzero(fold_N == fold)
        logits_NL[out] = models.logits(np.flatnonzero(fold_N != fold), out, seed=options.seed + fold)
    p_NL = Calibration(SINGLE_LABEL).probabilities(logits_NL)
    every = np.arange(len(given))
    own_NL = Calibration(SINGLE_LABEL).probabilities(models.logits(every, every, seed=options.seed))

    found = suspicions(p_NL, given_N)
    margins_NL = margins(p_NL, given_N)
    own_margins_N = margins_NL[every, given_N]
    margins_NL[every, given_N] = -np.inf
    rankings = {
        "cross-validate (loss, out of fold)": found.scores_N,
        "margins of confident learning": margins_NL.max(axis=1) - own_margins_N,
        "loss of one model on its own rows": log_losses(own_NL, given_N),
    }
    results: dict[str, Any] = {
        "environment": environment(),
        "rows": len(given),
        "wrong": int(wrong_N.sum()),
        "chance": float(wrong_N.mean()),
        "folds": options.folds,
        "seed": options.seed,
        "accuracy_on_given": float((p_NL.argmax(axis=1) == given_N).mean()),
        "accuracy_on_gold": float((p_NL.argmax(axis=1) == gold_N).mean()),
        "average_precision": {name: _average_precision(wrong_N, scores_N) for name, scores_N in rankings.items()},
        "flagged": {
            "rows": int(found.flagged_N.sum()),
            "precision": float(wrong_N[found.flagged_N].mean()),
            "recall": float(found.flagged_N[wrong_N].mean()),
            "suggestion_right": float((found.suggested_NL.argmax(axis=1) == gold_N)[found.flagged_N & wrong_N].mean()),
        },
    }
    target = RESULTS / "accuracy" / "label_review.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    print(f"{results['wrong']} of {results['rows']} labels are wrong ({results['chance']:.1%})")
    for name, value in results["average_precision"].items():
        low, high = value["interval"]
        print(f"{name:<38} average precision {value['value']:.3f} ({low:.3f}-{high:.3f})")
    flagged = results["flagged"]
    print(
        f"flagged: {flagged['rows']}, of these wrong {flagged['precision']:.1%}, of all wrong {flagged['recall']:.1%}"
    )
    return 0


def _average_precision(wrong_N: NDArray[np.bool_], scores_N: NDArray[np.float64]) -> dict[str, Any]:
    interval = bootstrap_interval(
        lambda weights_RN: np.array(
            [average_precision_score(wrong_N, scores_N, sample_weight=weights_N) for weights_N in weights_RN]
        ),
        len(wrong_N),
    )
    return {"value": float(average_precision_score(wrong_N, scores_N)), "interval": list(interval)}


if __name__ == "__main__":
    exit_with("benchmarks.accuracy.label_review", main)
