"""How long a training will take, from one step that is measured on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

__all__ = ["duration", "training_seconds"]

_MAX_TOKENS = 2048  # of the measured step, so that a large model on a CPU answers within seconds
_FORWARD_SHARE = 1 / 3  # of a step's arithmetic: the backward pass has twice the forward's


def training_seconds(
    model: Any,
    rows: Sequence[dict[str, Any]],
    *,
    num_validation_tokens: int,
    collate: Callable[[Sequence[dict[str, Any]]], dict[str, torch.Tensor]],
    batch_size: int,
    epochs: int,
    dtype: torch.dtype,
) -> float:
    """Seconds that `epochs` over `rows` take, with the validation after each; about, and without what is saved.

    Runs one forward and backward pass on rows of middling length, after a short one that warms up. Neither the weights
    nor torch's random state change.

    Args:
        model: a Hugging Face model on its device, its gradients unset.
        rows: with `input_ids`, as `token_rows` makes them.
    """
    by_length = sorted(rows, key=lambda row: len(row["input_ids"]))
    num_tokens = sum(len(row["input_ids"]) for row in rows)
    num_rows = max(1, min(batch_size, len(rows), _MAX_TOKENS * len(rows) // max(1, num_tokens)))
    middle = max(0, len(rows) // 2 - num_rows // 2)
    batch = collate(by_length[middle : middle + num_rows])
    was_training = model.training
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        model.train()
        _step(model, {name: tensor[:2] for name, tensor in batch.items()}, device, dtype)
        seconds = _step(model, batch, device, dtype)
    model.train(was_training)
    model.zero_grad(set_to_none=True)
    tokens_per_s = int(batch["attention_mask"].sum()) / seconds
    return epochs * (num_tokens + _FORWARD_SHARE * num_validation_tokens) / tokens_per_s


def duration(seconds: float) -> str:
    """A duration as people say it.

    >>> duration(40), duration(400), duration(9000)
    ('40 s', '7 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _step(model: Any, batch: dict[str, torch.Tensor], device: torch.device, dtype: torch.dtype) -> float:
    inputs = {name: tensor.to(device) for name, tensor in batch.items() if name != "labels"}
    _wait(device)
    start = time.perf_counter()
    with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        logits = model(**inputs).logits
    logits.float().sum().backward()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
