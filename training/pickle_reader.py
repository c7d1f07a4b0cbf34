"""Opens pickled weights, in a process of its own, and writes their tensors as safetensors: what `convert` runs.

torch.load with weights_only runs no code of the file: its unpickler knows tensors and containers and refuses all else.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Sequence

__all__ = ["main"]

_REFUSED = 3


def main(arguments: Sequence[str]) -> int:
    """Arguments: the file to write, the pickles to read. Returns 0, or 3 with a line why a pickle is refused."""
    import torch
    from safetensors.torch import save_file

    target, *sources = arguments
    tensors: dict[str, torch.Tensor] = {}
    for source in sources:
        try:
            content = torch.load(source, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            sys.stderr.write(f"{source} holds more than tensors, or is broken ({_reason(error)})\n")
            return _REFUSED
        if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
            content = content["state_dict"]  # as Lightning writes it
        if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
            sys.stderr.write(f"{source} is no table of tensors\n")
            return _REFUSED
        # Tied tensors share memory, which safetensors does not have: each is written, and tied again when loaded.
        tensors |= {_name(name): tensor.contiguous().clone() for name, tensor in content.items()}
    save_file(tensors, target, metadata={"format": "pt"})
    return 0


def _name(name: str) -> str:
    """TensorFlow's names of a norm's weight and bias, which the first BERTs were published with."""
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
        if "LayerNorm" in name and name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _reason(error: Exception) -> str:
    """What torch says without its advice to open it all the same."""
    lines = [line.strip() for line in str(error).splitlines() if "GLOBAL" in line or "Unsupported" in line]
    return (lines[0] if lines else type(error).__name__)[:200]
