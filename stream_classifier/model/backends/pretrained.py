"""The Hugging Face model of a checked directory, loaded: safetensors only, no code of the directory's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from stream_classifier.errors import ModelDirectoryError
from stream_classifier.model.directory import ModelDirectory

__all__ = ["load_pretrained", "quiet_transformers"]


def load_pretrained(directory: ModelDirectory, dtype: torch.dtype) -> Any:
    """The sequence-classification model on the CPU, for inference. Blocks.

    Raises:
        ModelDirectoryError: weights that do not make up the model, or a model that needs code of its own.
    """
    from transformers import AutoModelForSequenceClassification

    try:
        with quiet_transformers():
            model, info = AutoModelForSequenceClassification.from_pretrained(
                directory.path,
                dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except Exception as error:  # its own checks, torch's, safetensors' and those of every family have no common root
        reason = str(error).strip().split("\n")[0]
        problem = f"transformers does not load it ({type(error).__name__}: {reason})"
        fix = "check config.json and the weights, or save the model again with save_pretrained"
        raise ModelDirectoryError(directory.path, problem, fix) from error
    if missing := sorted(info["missing_keys"]):
        problem = f"its weights lack {', '.join(missing[:4])}, {len(missing)} tensors in all"
        raise ModelDirectoryError(directory.path, problem, "save the whole model, its head included")
    return model.eval()


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars (transformers draws one for loading weights; stderr is for log lines) and no advice."""
    from transformers.utils import logging as transformers_logging

    verbosity, shows_bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # transformers' own
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers' own
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if shows_bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]  # transformers' own
