"""Which backend runs a model directory: the one that is named, else the fastest that is installed for the device.

Measured on two cores with a 6-layer, 384-wide BERT (benchmarks/README.md): OpenVINO is faster than torch in each
precision, and int8 than bfloat16. On CUDA there is torch alone.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from importlib.metadata import entry_points

from stream_classifier.errors import ConfigError, ModelDirectoryError
from stream_classifier.model.directory import ModelDirectory
from stream_classifier.model.protocols import Backend

__all__ = ["ENTRY_POINT_GROUP", "open_backend"]

logger = logging.getLogger(__name__)

ENTRY_POINT_GROUP = "stream_classifier.backends"
"""Entry points that make a Backend, called as `make(directory, device=…, dtype=…)`."""

_INSTALL = "pip install 'stream-classifier[openvino]'"


def open_backend(directory: ModelDirectory, *, device: str, dtype: str, backend: str) -> Backend:
    """Loads the model of a directory. Blocks for seconds.

    Args:
        device, dtype: "auto", or by name.
        backend: "auto", "torch", "openvino", or an entry point of the group `stream_classifier.backends`.

    Raises:
        ConfigError: a backend, device or dtype that is not there, or that do not go together.
        ModelDirectoryError: a model that cannot be run.
    """
    if backend == "auto":
        return _fastest(directory, device=device, dtype=dtype)
    makers: dict[str, Callable[..., Backend]] = {"torch": _torch, "openvino": _openvino}
    found = entry_points(group=ENTRY_POINT_GROUP, name=backend)
    if backend not in makers and not found:
        raise ConfigError(f'backend is {backend!r}; give "auto", "torch" or "openvino"')
    make = makers[backend] if backend in makers else next(iter(found)).load()
    runner: Backend = make(directory, device=device, dtype=dtype)
    return runner


def _fastest(directory: ModelDirectory, *, device: str, dtype: str) -> Backend:
    if dtype == "float16" or not _is_cpu(device, dtype):
        return _torch(directory, device=device, dtype=dtype)
    has_int8 = directory.form("openvino-int8") is not None
    has_torch_int8 = directory.form("torch-int8") is not None
    if dtype == "int8" and has_torch_int8 and not has_int8:
        return _torch(directory, device="cpu", dtype=dtype)
    if importlib.util.find_spec("openvino") is None:
        if dtype == "int8" and has_int8 and not has_torch_int8:
            raise ConfigError(f"dtype is 'int8', which this model has for OpenVINO; {_INSTALL}, or leave dtype out")
        runner = _torch(directory, device="cpu", dtype=dtype)
        if has_int8 and runner.dtype != "int8":
            text = "%s has an int8 form for OpenVINO, which is not installed: it is served in %s; %s"
            logger.warning(text, directory.path, runner.dtype, _INSTALL)
        return runner
    try:
        return _openvino(directory, device="cpu", dtype=dtype)
    except ModelDirectoryError as error:
        from stream_classifier.model.backends.openvino import ConversionError

        if not isinstance(error, ConversionError):
            raise
        logger.warning("%s: %s; torch serves it", error.path, error.problem)
        return _torch(directory, device="cpu", dtype=dtype)


def _is_cpu(device: str, dtype: str) -> bool:
    """Whether the model is to run on the CPU: int8 does, everything else where there is no CUDA device."""
    from stream_classifier.model.backends.torch import pick_device

    return (device == "auto" and dtype == "int8") or pick_device(device).type == "cpu"


def _torch(directory: ModelDirectory, *, device: str, dtype: str) -> Backend:
    from stream_classifier.model.backends.torch import TorchBackend

    return TorchBackend(directory, device=device, dtype=dtype)


def _openvino(directory: ModelDirectory, *, device: str, dtype: str) -> Backend:
    from stream_classifier.model.backends.openvino import OpenVinoBackend

    return OpenVinoBackend(directory, device=device, dtype=dtype)
