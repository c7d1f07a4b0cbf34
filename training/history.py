"""How a fit went, epoch by epoch: kept in the result, and as history.json in the model directory for its report.

history.json is not among the files that loading reads: it holds times, so that equal fits have unequal ones and still
equal digests.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from stream_classifier.errors import ConfigError

__all__ = ["HISTORY_NAME", "EpochRecord", "TrainingHistory", "read_history"]

HISTORY_NAME = "history.json"
_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """One pass over the training rows, and the validation rows after it.

    Attributes:
        epoch: counted from 1.
        steps: of the optimizer, in this epoch.
        train_loss: mean over the steps of what is minimised: with smoothing, class weights or focal loss not the
            likelihood, so not to be compared with `validation_loss` then.
        validation_loss: mean negative log-likelihood in nats, of raw logits; never smoothed or weighted. It and the
            figures below are those of the moving average of the weights, where there is one.
        accuracy, macro_f1: on the validation rows, shares in 0-1. With several labels a text, accuracy is the share of
            texts whose labels are all right.
        learning_rate: the highest group's at the last step.
        grad_norm: mean over the steps of the gradient's norm before clipping.
        max_grad_norm: the largest one.
        tokens_per_s: tokens trained on a second, padding not counted; None where the epoch was only evaluated.
        seconds: spent training (a resumed epoch: since the checkpoint), evaluation not counted.
    """

    epoch: int
    steps: int
    train_loss: float
    validation_loss: float
    accuracy: float
    macro_f1: float
    learning_rate: float
    grad_norm: float
    max_grad_norm: float
    tokens_per_s: float | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class TrainingHistory:
    """All epochs of a fit.

    Attributes:
        epochs: in order; at least one.
        best_epoch: the one whose weights were kept, counted from 1.
        metric: what "best" was judged by: "macro_f1", "accuracy" or "loss".
        max_epochs: as many were allowed; fewer were run when it stopped getting better.
    """

    epochs: tuple[EpochRecord, ...]
    best_epoch: int
    metric: str
    max_epochs: int

    @property
    def num_epochs(self) -> int:
        """Epochs run."""
        return len(self.epochs)

    @property
    def best(self) -> EpochRecord:
        """The epoch whose weights were kept."""
        return self.epochs[self.best_epoch - 1]

    @property
    def stopped_early(self) -> bool:
        """Whether it stopped because it got no better."""
        return self.num_epochs < self.max_epochs

    def as_dict(self) -> dict[str, Any]:
        """The JSON object of history.json."""
        return {
            "schema": _SCHEMA,
            "metric": self.metric,
            "best_epoch": self.best_epoch,
            "max_epochs": self.max_epochs,
            "stopped_early": self.stopped_early,
            "epochs": [asdict(epoch) for epoch in self.epochs],
        }

    def write(self, directory: Path) -> None:
        """Writes history.json."""
        text = json.dumps(self.as_dict(), indent=2, allow_nan=False)
        (directory / HISTORY_NAME).write_text(text + "\n", "utf-8")

    @classmethod
    def from_log(cls, log: Sequence[Mapping[str, Any]], *, metric: str, max_epochs: int) -> TrainingHistory:
        """From the log of a Trainer that logs every step, evaluates every epoch and adds what `loop.train` adds.

        Nothing else is needed, and the log is in every checkpoint: a resumed fit has its whole history.
        """
        steps: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
        times: dict[int, Mapping[str, Any]] = {}
        evaluations: dict[int, Mapping[str, Any]] = {}
        for entry in log:
            epoch = math.ceil(entry["epoch"])  # Trainer counts 0.25, 0.5 … 1 in the first epoch
            if "grad_norm" in entry:
                steps[epoch].append(entry)
            elif "tokens_per_s" in entry:
                times[epoch] = entry
            elif "eval_nll" in entry:
                evaluations[epoch] = entry
        epochs = tuple(_record(n, steps[n], times.get(n, {}), found) for n, found in sorted(evaluations.items()))
        return cls(epochs, best_epoch(epochs, metric), metric, max_epochs)


def best_index(values: Sequence[float], metric: str) -> int:
    """Which epoch is the best by `metric`: the first of the lowest losses; of equal F1s or accuracies the last.

    Few validation rows have few different F1s, and what was trained for longer, at a falling rate, is more likely the
    better of two equals.

    >>> best_index([0.5, 0.7, 0.7], "macro_f1"), best_index([0.0, 0.0], "macro_f1"), best_index([0.2, 0.1], "loss")
    (2, 1, 1)
    """
    if metric == "loss":
        return values.index(min(values))
    return len(values) - 1 - list(reversed(values)).index(max(values))


def best_epoch(epochs: Sequence[EpochRecord], metric: str) -> int:
    """The epoch that `best_index` chooses, counted from 1; of `epochs`, at least one."""
    name = "validation_loss" if metric == "loss" else metric
    return epochs[best_index([getattr(record, name) for record in epochs], metric)].epoch


def read_history(directory: str | Path) -> TrainingHistory:
    """The history of a model directory, or of its history.json.

    Raises:
        ConfigError: there is none, or one that cannot be read.
    """
    path = Path(directory)
    if path.is_dir():
        path = path / HISTORY_NAME
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file; models made by stream-training fit have one")
    try:
        content = json.loads(path.read_text("utf-8"))
        names = {field.name for field in fields(EpochRecord)}
        epochs = tuple(EpochRecord(**{name: epoch[name] for name in names}) for epoch in content["epochs"])
        return TrainingHistory(epochs, content["best_epoch"], content["metric"], content["max_epochs"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: it is no history of a fit ({error!r}); fit the model again to get one") from error


def _record(
    epoch: int, steps: Sequence[Mapping[str, Any]], times: Mapping[str, Any], evaluation: Mapping[str, Any]
) -> EpochRecord:
    norms = [float(step["grad_norm"]) for step in steps]
    return EpochRecord(
        epoch=epoch,
        steps=len(steps),
        train_loss=sum(step["loss"] for step in steps) / len(steps),
        validation_loss=evaluation["eval_nll"],
        accuracy=evaluation["eval_accuracy"],
        macro_f1=evaluation["eval_macro_f1"],
        learning_rate=steps[-1]["learning_rate"],
        grad_norm=sum(norms) / len(norms),
        max_grad_norm=max(norms),
        tokens_per_s=times.get("tokens_per_s"),
        seconds=times.get("seconds"),
    )
