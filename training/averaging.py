"""The exponential moving average of the weights: a mean of about the last 1 / (1 - decay) steps.

The last step's weights still follow the noise of its few texts; their mean does not, is right more often on texts it
has not seen, and is less sure of itself (Polyak and Juditsky 1992; arXiv:1803.05407). The optimizer goes on from the
last step's weights; the mean is what is measured and kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback

__all__ = ["WeightAverage"]

_LAST_STEP = "last_step.safetensors"


class WeightAverage(TrainerCallback):
    """Keeps the mean beside the module's own weights, and changes places with them.

    Args:
        module: whose parameters are averaged; frozen ones are their own mean.
        decay: share of the old mean in the new one, lower in the first steps, whose weights are soon left behind.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._parameters = dict(module.named_parameters())
        self._decay = decay
        self._others: dict[str, torch.Tensor] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not self._others:
            self._others = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        steps = state.global_step
        share = 1 - min(self._decay, (1 + steps) / (10 + steps))
        for name, parameter in self._parameters.items():
            self._others[name].lerp_(parameter.detach(), share)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within it the module has the mean."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def save_last_step(self, folder: Path) -> None:
        """The last step's weights, beside the mean that the checkpoint has; called within `in_place`."""
        save_file(self._others, folder / _LAST_STEP)

    def resume(self, checkpoint: Path) -> None:
        """From the module as the checkpoint has it, which is the mean, back to the last step's weights."""
        last = load_file(checkpoint / _LAST_STEP)
        self._others = {name: last[name].to(parameter.device) for name, parameter in self._parameters.items()}
        self._swap()

    def _swap(self) -> None:
        for name, parameter in self._parameters.items():
            parameter.data, self._others[name] = self._others[name], parameter.data
