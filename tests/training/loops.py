"""A loop over rows of token ids for a tiny model: what the tests of levers run and look into."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stream_classifier.model.calibration import SINGLE_LABEL
from training.encoder import Encoder, load_encoder, quiet_transformers
from training.history import TrainingHistory
from training.layers import depths_of
from training.loop import LoopContext, train
from training.losses import TextLoss
from training.rows import Rows, pad_tokens
from training.settings import FitSettings

STILL = {
    "dropout": 0.0,
    "dtype": "float32",
    "linear_probe": False,
    "epochs": 1,
    "warmup_share": 0.0,
    "batch_size": 8,
    "learning_rate": 1e-3,
}
"""Settings with which the same rows always have the same gradient, from the weights that the module comes with."""


def settings_of(**changes: Any) -> FitSettings:
    return FitSettings(**{**STILL, **changes})


def rows_of(count: int, *, num_labels: int = 2, seed: int = 0, multi_label: bool = False) -> Rows:
    """Rows of 4 to 12 ids; the label of a row is in its second id."""
    draw = np.random.default_rng(seed)
    rows: Rows = []
    for _ in range(count):
        label = draw.integers(num_labels)
        ids = np.concatenate([[2, 20 + label], draw.integers(30, 60, size=draw.integers(2, 10)), [3]])
        target = np.eye(num_labels, dtype=np.float32)[label] if multi_label else np.intp(label)
        rows.append({"input_ids": ids.astype(np.int32), "label": np.asarray(target)})
    return rows


def encoder_of(base: Path, settings: FitSettings, *, num_labels: int = 2) -> Encoder:
    torch.manual_seed(settings.seed)
    with quiet_transformers():
        return load_encoder(
            str(base),
            [f"label {i}" for i in range(num_labels)],
            dropout=settings.dropout,
            classifier_dropout=settings.classifier_dropout,
        )


def run(
    module: Any,
    rows: Rows,
    settings: FitSettings,
    work_dir: Path,
    *,
    validation: Rows | None = None,
    loss: TextLoss | None = None,
    problem_type: str = SINGLE_LABEL,
    num_labels: int = 2,
    **context: Any,
) -> TrainingHistory:
    """Trains `module` in place."""
    loss = loss or TextLoss(
        problem_type, smoothing=settings.label_smoothing, focal_gamma=settings.focal_gamma, class_weights=None
    )
    with quiet_transformers():
        return train(
            module,
            rows,
            validation or rows_of(16, num_labels=num_labels, seed=99),
            collate=functools.partial(pad_tokens, pad_id=0),
            settings=settings,
            problem_type=problem_type,
            num_labels=num_labels,
            loss=loss,
            context=replace(LoopContext(work_dir, torch.device("cpu"), torch.float32), **context),
            depths=depths_of(module),
        )


def weights_of(module: Any) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def optimizer_state(work_dir: Path) -> dict[str, Any]:
    """The optimizer of the last checkpoint."""
    last = max(work_dir.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    state: dict[str, Any] = torch.load(last / "optimizer.pt", weights_only=True)
    return state
