"""How long a training will take, from a step that is measured on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from training.contrastive import TEXTS_A_STEP
from training.linear_probe import MAX_TEXTS
from training.settings import FitSettings

__all__ = ["Speed", "Work", "duration", "measured_speed", "training_seconds"]

_MAX_TOKENS = 2048  # of the measured step, so that a large model on a CPU answers within seconds
_FORWARD_SHARE = 1 / 3  # of a step's arithmetic: the backward pass has twice the forward's
_TAIL_SHARE = 1 / 20  # of a step over the whole model: 1 s and 17 s an epoch, see tail.py


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds a token takes, padding not counted.

    Attributes:
        step_s: forward and backward through the whole model.
        forward_s: forward alone.
    """

    step_s: float
    forward_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a training goes over, and how much of the model it trains.

    Attributes:
        num_texts, num_tokens: of the training rows.
        num_validation_tokens: of the validation rows.
        num_layers: of the model.
        has_tail: whether a frozen encoder runs once a text: see tail.py.
        num_processes: that share the rows.
    """

    num_texts: int
    num_tokens: int
    num_validation_tokens: int
    num_layers: int
    has_tail: bool
    num_processes: int = 1


def training_seconds(speed: Speed, work: Work, settings: FitSettings) -> float:
    """Seconds that all epochs take, with the validation after each and with what comes before the first: contrastive
    learning, the encoding of a frozen encoder, the linear probe. About; measuring and writing the model come on top.
    """
    tokens_a_text = work.num_tokens / max(1, work.num_texts)
    before = settings.contrastive_steps * TEXTS_A_STEP * tokens_a_text * speed.step_s
    if settings.probes:
        before += min(work.num_texts, MAX_TEXTS) * tokens_a_text * speed.forward_s
    step_s, forward_s = speed.step_s, speed.forward_s
    if settings.freeze_encoder and work.has_tail:
        before += (work.num_tokens + work.num_validation_tokens) * speed.forward_s
        step_s, forward_s = _TAIL_SHARE * step_s, _TAIL_SHARE * forward_s
    elif settings.freeze_encoder:
        step_s = forward_s + (step_s - forward_s) / max(1, work.num_layers)
    elif settings.gradient_checkpointing:
        step_s += forward_s
    an_epoch = work.num_tokens * step_s + work.num_validation_tokens * forward_s
    return before + settings.max_epochs * an_epoch / work.num_processes


def measured_speed(
    model: Any,
    rows: Sequence[dict[str, Any]],
    *,
    collate: Callable[[Sequence[dict[str, Any]]], dict[str, torch.Tensor]],
    batch_size: int,
    dtype: torch.dtype,
    trains: bool = True,
) -> Speed:
    """Runs the model on rows of middling length, after a short pass that warms up. Weights and random state stay.

    Args:
        model: a Hugging Face model on its device, its gradients unset.
        rows: with `input_ids`, as `token_rows` makes them.
        trains: whether there is room for a backward pass; without, it is taken for twice the forward pass.
    """
    by_length = sorted(rows, key=lambda row: len(row["input_ids"]))
    num_tokens = sum(len(row["input_ids"]) for row in rows)
    num_rows = max(1, min(batch_size, len(rows), _MAX_TOKENS * len(rows) // max(1, num_tokens)))
    middle = max(0, len(rows) // 2 - num_rows // 2)
    batch = collate(by_length[middle : middle + num_rows])
    was_training = model.training
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.set_grad_enabled(trains):
        model.train()
        _step(model, {name: tensor[:2] for name, tensor in batch.items()}, device, dtype)
        seconds = _step(model, batch, device, dtype) / int(batch["attention_mask"].sum())
    model.train(was_training)
    model.zero_grad(set_to_none=True)
    return Speed(seconds, _FORWARD_SHARE * seconds) if trains else Speed(seconds / _FORWARD_SHARE, seconds)


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
    if logits.requires_grad:
        logits.float().sum().backward()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
