"""A student made of its teacher: fewer of the layers, evenly spaced, with embeddings, pooler and head as they are."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from stream_classifier.errors import ConfigError

__all__ = ["kept_layers", "reorder_labels", "with_layers"]


def kept_layers(num_layers: int, num_kept: int) -> tuple[int, ...]:
    """Which of the teacher's layers a student has, counted from 1: the first, the last, and evenly spaced between.

    >>> kept_layers(6, 3), kept_layers(12, 4), kept_layers(6, 1)
    ((1, 3, 6), (1, 5, 8, 12), (6,))

    Raises:
        ConfigError: there are not so many.
    """
    if not 1 <= num_kept < num_layers:
        raise ConfigError(
            f"layers is {num_kept}, the teacher has {num_layers}; give a number from 1 to {num_layers - 1}"
        )
    if num_kept == 1:
        return (num_layers,)
    return tuple(int(layer) for layer in np.floor(np.linspace(1, num_layers, num_kept)).astype(int))


def with_layers(model: Any, layers: Sequence[int]) -> Any:
    """A new model of the same family with copies of these layers of `model`, counted from 1; `model` stays as it is.

    Raises:
        ConfigError: a family that runs one layer many times, or whose layers are not one stack.
    """
    prefix = _layers_prefix(model)
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = len(layers)
    for name in ("layer_types",):  # those of the layers that are left follow from their places
        if getattr(config, name, None) is not None:
            setattr(config, name, [getattr(config, name)[layer - 1] for layer in layers])
    with torch.random.fork_rng():
        student = type(model)(config)
    state = {}
    for name, tensor in model.state_dict().items():
        if not name.startswith(prefix):
            state[name] = tensor
            continue
        number, _, rest = name.removeprefix(prefix).partition(".")
        for place, layer in enumerate(layers):
            if int(number) == layer - 1:
                state[f"{prefix}{place}.{rest}"] = tensor
    missing, unexpected = student.load_state_dict(state, strict=False)
    if missing or unexpected:
        seen = [*missing, *unexpected][0]
        raise ConfigError(f"the layers of a {config.model_type} model differ from each other ({seen}); give --base")
    return student


def reorder_labels(model: Any, order: Sequence[int]) -> None:
    """Puts the rows of the last linear layer into another order, in place: row i becomes what `order[i]` was.

    Raises:
        ConfigError: there is no such layer.
    """
    heads = [
        module for module in model.modules() if isinstance(module, nn.Linear) and module.out_features == len(order)
    ]
    if not heads:
        raise ConfigError(f"the head of a {model.config.model_type} model is not known; give --base")
    with torch.no_grad():
        for parameter in heads[-1].parameters():
            parameter.copy_(parameter[list(order)])


def _layers_prefix(model: Any) -> str:
    """The name of the stack of layers with a dot, as the state dict has it."""
    num_layers = getattr(model.config, "num_hidden_layers", 0)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == num_layers and num_layers > 1:
            return f"{name}."
    raise ConfigError(f"a {model.config.model_type} model has no stack of layers to choose from; give --base")
