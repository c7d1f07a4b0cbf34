"""The last linear layer of a model: features of a text in, logits out. And what it reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

__all__ = ["classifier_inputs", "classifier_of"]


def classifier_of(module: nn.Module, num_labels: int) -> nn.Linear | None:
    """The last linear layer of a module that gives `num_labels` logits; None where it is not known."""
    for part in reversed(list(module.modules())):
        if isinstance(part, nn.Linear) and part.out_features == num_labels:
            return part
    return None


@contextmanager
def classifier_inputs(classifier: nn.Linear) -> Iterator[list[Tensor]]:
    """Within it, what each forward pass hands to the classifier is appended to the list."""
    read: list[Tensor] = []
    hook = classifier.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
    try:
        yield read
    finally:
        hook.remove()
