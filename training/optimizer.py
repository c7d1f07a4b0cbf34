"""The optimizer's groups of parameters: which decay, and how fast each layer learns. The optimizer itself is AdamW."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import Any

from torch import nn

from training.layers import Depths

__all__ = ["parameter_groups"]


def parameter_groups(
    module: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float,
    layer_decay: float,
    depths: Depths | None,
    decayed: Collection[str],
) -> list[dict[str, Any]]:
    """Groups for an optimizer, those of the head first.

    Layer-wise decay as in ELECTRA (arXiv:2003.10555): the head learns at the full rate, the layer d below it at
    rate × decay^d, the embeddings slowest. With 6 layers and a decay of 0.8: 1, 0.8, 0.64 … 0.26, 0.21 of the rate.

    Args:
        module: frozen parameters are left out, unless they may be unfrozen later: give them as requiring gradients.
        depths: None: one rate for all.
        decayed: the names of the parameters with weight decay; biases and norms have none.
    """
    members: dict[tuple[int, bool], list[nn.Parameter]] = defaultdict(list)
    head = depths.num_layers + 1 if depths is not None else 0
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            below_head = head - depths.of(parameter) if depths is not None else 0
            members[below_head, name in decayed].append(parameter)
    return [
        {
            "params": parameters,
            "lr": learning_rate * layer_decay**below_head,
            "weight_decay": weight_decay if is_decayed else 0.0,
        }
        for (below_head, is_decayed), parameters in sorted(members.items(), key=lambda item: item[0])
    ]
