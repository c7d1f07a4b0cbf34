"""Which parameter lies how deep in a model: what freezing, unfreezing and layer-wise learning rates go by.

Depth 0 is the embeddings, 1 to n the layers from the bottom, n + 1 the head: classifier, pooler, final norm. Parameters
are known by identity, so that a `Tail` that shares them with its model has the same depths.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from stream_classifier.errors import ConfigError
from training.settings import FitSettings

__all__ = ["Depths", "depths_of", "freeze_below", "freeze_encoder", "layer_stack", "needs_depths", "unfreeze_for_epoch"]

_OF_HEAD = ("pooler", "final_norm", "sequence_summary")


class Depths:
    """The depth of every parameter of a model.

    Attributes:
        num_layers: n above.
        shared_layers: the family has one layer that is run many times (ALBERT): it counts as one.
    """

    def __init__(self, depth_of: dict[int, int], *, num_layers: int, shared_layers: bool) -> None:
        self._depth_of = depth_of
        self.num_layers = num_layers
        self.shared_layers = shared_layers

    def of(self, parameter: nn.Parameter) -> int:
        """0 to `num_layers` + 1."""
        return self._depth_of[id(parameter)]


def depths_of(model: Any) -> Depths:
    """The depths of a PreTrainedModel for sequence classification, of any family with one stack of layers."""
    layers = layer_stack(model)
    blocks = list(layers) if layers is not None else [model.base_model.encoder]
    head = len(blocks) + 1
    depth_of = {id(parameter): head for parameter in model.parameters()}
    for name, parameter in model.base_model.named_parameters():
        if not any(part in name for part in _OF_HEAD):
            depth_of[id(parameter)] = 0
    for number, block in enumerate(blocks, start=1):
        depth_of |= {id(parameter): number for parameter in block.parameters()}
    return Depths(depth_of, num_layers=len(blocks), shared_layers=layers is None)


def layer_stack(model: Any) -> nn.ModuleList | None:
    """The stack of layers; None for a family that runs one layer many times."""
    num_layers = getattr(model.config, "num_hidden_layers", 0)
    for module in model.base_model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == num_layers:
            return module
    if hasattr(model.config, "num_hidden_groups"):
        return None
    raise ConfigError(f"the layers of a {model.config.model_type} model are not known; give another --base")


def needs_depths(settings: FitSettings) -> bool:
    """Whether anything is asked for that goes by depth."""
    return settings.freeze_encoder or settings.gradual_unfreezing > 0 or settings.layer_decay < 1


def freeze_encoder(module: nn.Module, depths: Depths) -> None:
    """Only the last layer and the head are trained from now on; the head alone where one layer is run many times."""
    freeze_below(module, depths, depths.num_layers + 1 if depths.shared_layers else depths.num_layers)


def freeze_below(module: nn.Module, depths: Depths, lowest: int) -> None:
    """Only parameters at `lowest` or above are trained from now on."""
    for parameter in module.parameters():
        parameter.requires_grad_(depths.of(parameter) >= lowest)


def unfreeze_for_epoch(module: nn.Module, depths: Depths, *, epoch: int, layers_per_epoch: int) -> int:
    """Gradual unfreezing (ULMFiT, arXiv:1801.06146): the head alone in epoch 1, then so many layers more each epoch.

    The embeddings come after the lowest layer. Returns the lowest depth that is trained.

        With 6 layers and 2 an epoch: the head; layers 5-6; 3-6; 1-6; all.
    """
    lowest = max(0, depths.num_layers + 1 - layers_per_epoch * (epoch - 1))
    freeze_below(module, depths, lowest)
    return lowest
