"""A model divided among the processes (FSDP2, arXiv:2304.11277): each holds a share of its weights, their gradients and
AdamW's means, and a layer is whole only while it computes.

Trainer and accelerate do it. Here is what they are told, and what they lack: processes on a CPU, and a way back to a
model that is whole. That way is the best checkpoint, which the main process writes from the gathered weights.
"""

from __future__ import annotations

import copy
import logging
import os
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import nn
from transformers import TrainerCallback, TrainingArguments

from stream_classifier.errors import ConfigError
from training.layers import layer_stack

__all__ = ["TellShares", "check_sharding", "complete_setup", "set_sharding", "without_weights"]

logger = logging.getLogger(__name__)


def check_sharding(device: torch.device, dtype: torch.dtype) -> None:
    """Refuses what a model cannot be divided for.

    Raises:
        ConfigError: float16, whose small gradients are scaled otherwise there; the CPU beside a GPU, which torch takes.
    """
    if dtype == torch.float16:
        raise ConfigError("--fsdp does not compute in float16; give --dtype bfloat16 or --dtype float32")
    if device.type == "cpu" and torch.cuda.is_available():
        raise ConfigError("--fsdp takes the GPUs where there are any; leave --device out, or set CUDA_VISIBLE_DEVICES=")


def set_sharding(arguments: TrainingArguments, model: Any, dtype: torch.dtype) -> None:
    """Has a Trainer with these arguments (`fsdp=True` among them) divide a PreTrainedModel, layer by layer.

    All is said to accelerate's plugin itself: `fsdp_config` of TrainingArguments has no key for some of it, and read
    another part of it in each release. The layers are named because several families name none, and would be whole on
    every device while a step runs. Gradients are added up in float32, where accelerate would do it in `dtype`.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy  # torch 2.6

    layers = layer_stack(model)
    arguments.fsdp_plugin_args = {
        "fsdp_version": 2,
        "reshard_after_forward": True,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "transformer_cls_names_to_wrap": None if layers is None else sorted({type(layer).__name__ for layer in layers}),
        "state_dict_type": "FULL_STATE_DICT",
        "cpu_ram_efficient_loading": False,
        "mixed_precision_policy": MixedPrecisionPolicy(
            param_dtype=None if dtype == torch.float32 else dtype, reduce_dtype=torch.float32
        ),
    }


def complete_setup(accelerator: Accelerator, arguments: TrainingArguments) -> None:
    """Has an Accelerator that Trainer made divide models on the CPU too, and takes back what it set for other models.

    accelerate (1.15, `AcceleratorState`) takes the plugin for GPUs alone and goes on without a word, each process with
    the whole model; torch's fully_shard and all that accelerate does with it work on gloo as well.
    """
    if arguments.device.type == "cpu":
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(**arguments.fsdp_plugin_args)
        accelerator.state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
    os.environ.pop("ACCELERATE_USE_FSDP", None)  # every Accelerator of this process would divide from now on


def without_weights(module: nn.Module) -> nn.Module:
    """A module with the weights of `module`, which is left without any, until a state dict is assigned to it.

    So what is divided is another object than what is whole again afterwards, and no weight is in memory twice.
    """
    divided = copy.deepcopy(module, {id(weight): weight for weight in module.parameters()})
    module.load_state_dict({name: weight.to("meta") for name, weight in module.state_dict().items()}, assign=True)
    return divided


class TellShares(TrainerCallback):
    """Says how much of the model this process holds; all of it would mean that nothing was divided."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        from torch.distributed.tensor import DTensor  # torch 2.5

        weights = list(kwargs["model"].parameters())
        held = sum((weight.to_local() if isinstance(weight, DTensor) else weight).numel() for weight in weights)
        of = sum(weight.numel() for weight in weights)
        logger.info("each of %d processes holds %.1f %% of %d parameters", args.world_size, 100 * held / of, of)
