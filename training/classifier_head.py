"""The last linear layer of a model: features of a text in, logits out. And what it reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

__all__ = ["classifier_calls", "classifier_of"]


def classifier_of(module: nn.Module, num_labels: int) -> nn.Linear | None:
    """The last linear layer of a module that is as wide as `num_labels`; None where there is none.

    Whether what it gives are the logits, is known when the module has been called: see `classifier_calls`.
    """
    for part in reversed(list(module.modules())):
        if isinstance(part, nn.Linear) and part.out_features == num_labels:
            return part
    return None


@contextmanager
def classifier_calls(classifier: nn.Linear) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Within it, what each forward pass hands to the classifier and gets from it is appended to the list."""
    calls: list[tuple[Tensor, Tensor]] = []
    hook = classifier.register_forward_hook(lambda module, inputs, output: calls.append((inputs[0], output)))
    try:
        yield calls
    finally:
        hook.remove()
