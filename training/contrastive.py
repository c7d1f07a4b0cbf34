"""Supervised contrastive learning (arXiv:2004.11362) before a fit with few labels: texts of one label are drawn
together, those of others pushed apart, in the very numbers that the model's classifier reads.

48 texts make 1,128 pairs: far more to learn from than 48 labels (SetFit, arXiv:2209.11055). SetFit compares means of
all tokens, which an ordinary sequence-classification model does not read; here it is what goes into its last linear
layer, behind the pooler, so that the model stays one that plain Hugging Face loads.

    B texts of a batch, E width of the classifier's input.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stream_classifier.errors import ConfigError, TrainingError
from training.classifier_head import classifier_calls, classifier_of
from training.optimizer import parameter_groups
from training.rows import Rows

__all__ = ["TEXTS_A_STEP", "contrast", "contrastive_loss"]

TEXTS_A_STEP = 48
"""At most; of as many labels as there are, up to 16."""

_TEMPERATURE = 0.1
_LEARNING_RATE = 1e-4
_WARMUP_SHARE = 0.1
_MAX_LABELS = 16


def contrast(
    model: Any,
    rows: Rows,
    *,
    num_steps: int,
    collate: Callable[[Sequence[dict[str, Any]]], dict[str, Tensor]],
    seed: int,
    dtype: torch.dtype,
    advance: Callable[[int], object],
) -> None:
    """Trains the parameters of `model` below its classifier that require gradients, in place. Blocks.

    Args:
        model: a PreTrainedModel for sequence classification, on the device to train on.
        rows: with one label each; see rows.py.
        num_steps: of the optimizer, each on 48 texts of at most 16 labels.
        collate: rows to a padded batch.
        dtype: of autocast; float32 for none.
        advance: called with 1 after each step, for a progress bar.

    Raises:
        ConfigError: the model's classifier is not known.
        TrainingError: the loss is not a number.
    """
    device = next(model.parameters()).device
    classifier = classifier_of(model, model.config.num_labels)
    if classifier is None:
        raise ConfigError(f"--contrastive-steps: the classifier of a {model.config.model_type} model is not known")
    names = {name for name, parameter in model.named_parameters() if parameter.ndim > 1}
    groups = parameter_groups(
        model, learning_rate=_LEARNING_RATE, weight_decay=0.01, layer_decay=1.0, depths=None, decayed=names
    )
    optimizer = torch.optim.AdamW(groups, lr=_LEARNING_RATE, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, num_steps))
    was_training = model.training
    model.train()
    with classifier_calls(classifier) as calls:
        for step, batch in enumerate(_batches(rows, num_steps=num_steps, seed=seed)):
            inputs = {name: tensor.to(device) for name, tensor in collate(batch).items()}
            labels_B = inputs.pop("labels")
            with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
                model(**inputs)
            features_BE, _ = calls.pop()
            loss = contrastive_loss(features_BE.reshape(len(labels_B), -1), labels_B)
            if not torch.isfinite(loss):
                raise TrainingError(f"the contrastive loss is {loss.item()} at step {step + 1}; try --dtype float32")
            loss.backward()  # type: ignore[no-untyped-call]  # torch's lacks annotations
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            advance(1)
    model.train(was_training)


def contrastive_loss(features_BE: Tensor, labels_B: Tensor, *, temperature: float = _TEMPERATURE) -> Tensor:
    """The mean over texts that share their label with another of -log softmax(cosine / temperature) at those others.

    A float32 scalar; 0 where no two texts share a label.
    """
    unit_BE = nn.functional.normalize(features_BE.float(), dim=-1)
    itself_BB = torch.eye(len(labels_B), dtype=torch.bool, device=labels_B.device)
    scores_BB = (unit_BE @ unit_BE.T / temperature).masked_fill(itself_BB, -torch.inf)
    same_BB = (labels_B[:, None] == labels_B) & ~itself_BB
    num_same_B = same_BB.sum(dim=1)
    log_p_BB = scores_BB.log_softmax(dim=1).masked_fill(~same_BB, 0.0)
    loss_B = -log_p_BB.sum(dim=1) / num_same_B.clamp(min=1)
    return loss_B.sum() / (num_same_B > 0).sum().clamp(min=1)


def _batches(rows: Rows, *, num_steps: int, seed: int) -> Iterator[Rows]:
    """Texts of some labels, as many of each; a label with few texts gives them several times, under other dropouts."""
    of_label: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        of_label[int(row["label"])].append(row)
    labels = sorted(of_label)
    generator = np.random.default_rng([seed, 1])
    num_labels = min(len(labels), _MAX_LABELS)
    texts_a_label = max(2, TEXTS_A_STEP // num_labels)
    for _ in range(num_steps):
        batch: Rows = []
        for label in generator.choice(labels, size=num_labels, replace=False):
            found = of_label[int(label)]
            picked = generator.choice(len(found), size=texts_a_label, replace=len(found) < texts_a_label)
            batch.extend(found[i] for i in picked)
        yield batch


def _rate(step: int, num_steps: int) -> float:
    warmup = max(1, math.ceil(_WARMUP_SHARE * num_steps))
    return min((step + 1) / warmup, (num_steps - step) / max(1, num_steps - warmup))
