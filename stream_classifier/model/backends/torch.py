"""Micro-batches to logits with torch and the directory's Hugging Face model, on a CPU or a CUDA device.

A micro-batch is padded to its longest text; keeping texts of similar length together is packing.py's work. Models come
from safetensors only and run no code of their directory.

    N texts, S tokens of the longest of them, L labels.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from stream_classifier.errors import ConfigError, TransientError
from stream_classifier.model.backends.first_token import read_first_token_only
from stream_classifier.model.backends.pretrained import load_pretrained
from stream_classifier.model.directory import ModelDirectory
from stream_classifier.model.protocols import TokenBatch

__all__ = ["INT8", "TorchBackend", "pick_device", "pick_dtype"]

logger = logging.getLogger(__name__)

INT8 = "torch-int8"
"""The int8 form's name in classifier.json; it is made of the weights whenever they are loaded."""

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class TorchBackend:
    """A sequence-classification model on one device.

    Args:
        directory: a checked model directory.
        device: "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:N".
        dtype: "auto" (what the device computes in fastest), "float32", "bfloat16", "float16", or on a CPU "int8" where
            `stream-training quantize --backend torchao` has found that the model bears it.

    Raises:
        ConfigError: a device or dtype that is not there, or torchao is not installed.
        ModelDirectoryError: weights that do not make up the model, or a model that needs code of its own.
    """

    name = "torch"

    def __init__(self, directory: ModelDirectory, *, device: str = "auto", dtype: str = "auto") -> None:
        self._device = pick_device(device)
        self._int8 = _takes_int8(directory, dtype, self._device)
        self._dtype = pick_dtype("auto" if self._int8 else dtype, self._device)
        model = load_pretrained(directory, self._dtype)
        self._num_labels = len(directory.labels)
        self._pad_id = int(getattr(model.config, "pad_token_id", None) or 0)
        read_first_token_only(model)
        if self._int8:
            _quantize(model)
        self._model = model.to(self._device)
        self._pinned = self._device.type == "cuda"

    @property
    def device(self) -> str:
        """ "cpu" or "cuda:N"."""
        return str(self._device)

    @property
    def dtype(self) -> str:
        """ "float32", "bfloat16", "float16" or "int8"."""
        return "int8" if self._int8 else str(self._dtype).removeprefix("torch.")

    @property
    def batch_tokens(self) -> int:
        """Tokens, padding included, of a micro-batch: enough to keep the device busy, no more, for short waits.

        On a 2-core CPU a 6-layer, 384-wide BERT in bfloat16 answered 332, 341, 333, 323 and 304 texts/s with 512, 1024,
        2048, 4096 and 8192 tokens: beyond the cache, larger is slower.
        """
        return 16384 if self._pinned else 1024

    def forward(self, batch: TokenBatch) -> NDArray[np.float32]:
        """Logits, float32 `[N, L]`. Whatever the texts' neighbours are, theirs differ by rounding alone.

        Raises:
            TransientError: out of memory; fewer texts may fit.
        """
        if len(batch) == 0:
            return np.empty((0, self._num_labels), dtype=np.float32)
        with torch.inference_mode(), _out_of_memory_is_transient(batch):
            logits_NL = self._model(**self._inputs(batch)).logits
            answer_NL: NDArray[np.float32] = logits_NL.float().cpu().numpy()
            return answer_NL

    def _inputs(self, batch: TokenBatch) -> dict[str, torch.Tensor]:
        """The padded ids `[N, S]` and, where lengths differ, the mask; copies to a device are queued."""
        lengths_N = batch.lengths_N
        shape = (len(batch), int(lengths_N.max()))
        ids_NS = torch.full(shape, self._pad_id, dtype=torch.int64, pin_memory=self._pinned)
        real_NS = np.arange(shape[1]) < lengths_N[:, None]
        ids_NS.numpy()[real_NS] = batch.input_ids_T
        inputs = {"input_ids": ids_NS}
        if int(lengths_N.min()) < shape[1]:
            mask_NS = torch.empty(shape, dtype=torch.int64, pin_memory=self._pinned)
            mask_NS.numpy()[:] = real_NS
            inputs["attention_mask"] = mask_NS
        return {name: tensor.to(self._device, non_blocking=True) for name, tensor in inputs.items()}


def pick_device(device: str) -> torch.device:
    """The device of that name, or the best one for "auto".

    Raises:
        ConfigError: there is no such device here.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        picked = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device is {device!r}; give auto, cpu, cuda or cuda:0") from error
    if picked.type == "cpu":
        return torch.device("cpu")
    if picked.type != "cuda":
        raise ConfigError(f"device is {device!r}, which is not supported; give auto, cpu, cuda or cuda:0")
    num_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = 0 if picked.index is None else picked.index
    if index >= num_devices:
        raise ConfigError(f'device is {device!r}, there are {num_devices} CUDA devices; give device = "auto" or "cpu"')
    return torch.device("cuda", index)


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The dtype of that name, or for "auto" the fastest that the device computes in natively.

    Raises:
        ConfigError: there is no such dtype, or the device cannot compute in it.
    """
    if dtype == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
        return torch.bfloat16 if _cpu_has_bfloat16() else torch.float32
    if dtype not in _DTYPES:
        raise ConfigError(f"dtype is {dtype!r}; give auto, {', '.join(_DTYPES)}")
    if dtype == "float16" and device.type == "cpu":
        raise ConfigError('dtype is \'float16\', which CPUs only emulate; give dtype = "bfloat16" or "float32"')
    return _DTYPES[dtype]


def _takes_int8(directory: ModelDirectory, dtype: str, device: torch.device) -> bool:
    """Whether the linear layers are to be int8: asked for by name, or the form is there and torchao installed."""
    has_form = directory.form(INT8) is not None
    if dtype == "auto":
        return has_form and device.type == "cpu" and importlib.util.find_spec("torchao") is not None
    if dtype != "int8":
        return False
    if device.type != "cpu":
        raise ConfigError(
            f'dtype is \'int8\', which is for CPUs; give device = "cpu", or dtype = "bfloat16" on {device}'
        )
    if not has_form:
        fix = "make one with stream-training quantize --backend torchao, or leave dtype out"
        raise ConfigError(f"dtype is 'int8', and {directory.path} has no int8 form for torch; {fix}")
    return True


def _quantize(model: torch.nn.Module) -> None:
    """Linear layers in int8, activations quantized text by text as they come."""
    try:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
    except ImportError as error:
        fix = "pip install 'stream-classifier[torchao]', or leave dtype out"
        raise ConfigError(f"dtype is 'int8', which needs torchao, and it is not installed ({error}); {fix}") from error
    quantize_(model, Int8DynamicActivationInt8WeightConfig())


def _cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices itself; emulated, it is slower than float32."""
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        supported = getattr(torch.cpu, name, None)
        if supported is not None and supported():
            return True
    return False


@contextmanager
def _out_of_memory_is_transient(batch: TokenBatch) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not _is_out_of_memory(error):
            raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        message = f"out of memory on {len(batch)} texts, the longest {int(batch.lengths_N.max())} tokens; use less work"
        raise TransientError(message) from error


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error)  # the CPU's allocator has no exception of its own
    return "DefaultCPUAllocator" in text or "can't allocate memory" in text or "CUBLAS_STATUS_ALLOC_FAILED" in text
