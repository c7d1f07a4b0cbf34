"""Micro-batches to logits with OpenVINO on a CPU: the directory's Hugging Face model, converted when it is loaded, or
the int8 form of it that `stream-training quantize` stored under backends/.

Nothing is written: the conversion stays in memory, OpenVINO's model cache is off, and its telemetry never loaded.

    N texts, S tokens of the longest of them, L labels.
"""

from __future__ import annotations

import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stream_classifier.errors import ConfigError, ModelDirectoryError, TransientError
from stream_classifier.model.backends.first_token import read_first_token_only
from stream_classifier.model.backends.pretrained import load_pretrained, quiet_transformers
from stream_classifier.model.backends.torch import pick_dtype
from stream_classifier.model.directory import ModelDirectory
from stream_classifier.model.protocols import TokenBatch

__all__ = ["INT8", "ConversionError", "OpenVinoBackend", "convert", "import_openvino"]

INT8 = "openvino-int8"
"""The int8 form's name in classifier.json, and its folder under backends/."""

# A NaN that no arithmetic makes: what it stands for was not computed.
_NOT_COMPUTED = np.uint32(0x7FC0D1ED)
# Logits of another trace differ by whole units; those of bfloat16 by up to 0.2 in models of 24 layers.
_CONVERTED_WITHIN = {"float32": 0.02, "bfloat16": 0.5}


class ConversionError(ModelDirectoryError):
    """OpenVINO cannot run this model, or answers otherwise than torch does."""


class OpenVinoBackend:
    """A sequence-classification model on the CPU, on as many threads as torch would use (OMP_NUM_THREADS).

    Args:
        directory: a checked model directory.
        device: "auto" or "cpu".
        dtype: "auto" (int8 where the directory has it, else what the CPU computes in fastest), "float32", "bfloat16" or
            "int8".

    Raises:
        ConfigError: OpenVINO is not installed, or a device or dtype that it does not have.
        ConversionError: OpenVINO cannot run the model.
        ModelDirectoryError: weights that do not make up the model.
    """

    name = "openvino"
    device = "cpu"

    def __init__(self, directory: ModelDirectory, *, device: str = "auto", dtype: str = "auto") -> None:
        if device not in ("auto", "cpu"):
            raise ConfigError(
                f'device is {device!r}, OpenVINO runs on the CPU; give device = "cpu" or backend = "torch"'
            )
        has_int8 = directory.form(INT8) is not None
        if dtype == "int8" and not has_int8:
            fix = "make one with stream-training quantize, or leave dtype out"
            raise ConfigError(f"dtype is 'int8', and {directory.path} has no int8 form; {fix}")
        openvino = import_openvino()
        self._num_labels = len(directory.labels)
        self.dtype = "int8" if has_int8 and dtype == "auto" else dtype
        if self.dtype == "int8":
            self._pad_id = _pad_id(directory)
            path = directory.path / "backends" / INT8 / "model.xml"
            try:
                model = openvino.Core().read_model(path)
            except RuntimeError as error:
                problem, fix = "OpenVINO does not read it", "make it again with stream-training quantize"
                raise ModelDirectoryError(path, problem, fix) from error
            self._compiled = _compiled(model, _rest_of_int8())
            self._request = self._compiled.create_infer_request()
            return
        self.dtype = str(pick_dtype(dtype, torch.device("cpu"))).removeprefix("torch.")
        pretrained = load_pretrained(directory, torch.float32)
        self._pad_id = int(getattr(pretrained.config, "pad_token_id", None) or 0)
        read_first_token_only(pretrained)
        self._compiled = _compiled(convert(pretrained, directory.path), self.dtype)
        self._request = self._compiled.create_infer_request()
        self._check_conversion(pretrained, directory.path)

    @property
    def batch_tokens(self) -> int:
        """Tokens, padding included, of a micro-batch.

        On one core a 6-layer, 384-wide BERT in bfloat16 answered 332, 341, 345, 350 and 359 texts per CPU second with
        512, 1024, 2048, 4096 and 8192 tokens: larger gains less than it adds to the wait.
        """
        return 1024

    def forward(self, batch: TokenBatch) -> NDArray[np.float32]:
        """Logits, float32 `[N, L]`. Whatever the texts' neighbours are, theirs differ by rounding alone.

        Raises:
            TransientError: out of memory; fewer texts may fit.
        """
        if len(batch) == 0:
            return np.empty((0, self._num_labels), dtype=np.float32)
        ids_NS, real_NS = batch.padded(self._pad_id)
        try:
            seen_NL = self._request.infer({0: ids_NS, 1: real_NS.astype(np.int64)}, share_outputs=True)[0]
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            raise self._out_of_memory(batch) from error
        answer_NL: NDArray[np.float32] = seen_NL.astype(np.float32)
        # When memory is short, 2026.4 gives the answer before this one again, and no error: hence it is marked.
        if answer_NL.shape != (len(batch), self._num_labels) or answer_NL.view(np.uint32).flat[0] == _NOT_COMPUTED:
            raise self._out_of_memory(batch)
        seen_NL.view(np.uint32).flat[:] = _NOT_COMPUTED
        return answer_NL

    def _out_of_memory(self, batch: TokenBatch) -> TransientError:
        """The error; and a way back: the shape of the last answer would not be computed again until another one is."""
        for length in (2, 3):
            ids_NS = np.full((1, length), self._pad_id)
            with suppress(MemoryError, RuntimeError):  # still no memory, as the error says
                self._request.infer({0: ids_NS, 1: np.ones_like(ids_NS)})
        longest = int(batch.lengths_N.max())
        return TransientError(f"out of memory on {len(batch)} texts, the longest {longest} tokens; use less work")

    def _check_conversion(self, pretrained: Any, path: Path) -> None:
        """Holds the converted model against torch's, in a shape that the conversion has not seen.

        What a trace takes for a constant is wrong in every other shape. Directories with golden cases are held against
        them too; this is for those without.
        """
        draws = np.random.default_rng(0)
        lengths = (11, 5, 23, 2, 17)
        rows = [draws.integers(0, pretrained.config.vocab_size, length).astype(np.int32) for length in lengths]
        batch = TokenBatch.from_lists(rows, [False] * len(rows))
        ids_NS, real_NS = batch.padded(self._pad_id)
        with torch.inference_mode():
            inputs = {
                "input_ids": torch.from_numpy(ids_NS),
                "attention_mask": torch.from_numpy(real_NS.astype(np.int64)),
            }
            expected_NL = pretrained(**inputs).logits.numpy()
        difference = float(np.abs(self.forward(batch) - expected_NL).max())
        if not difference <= _CONVERTED_WITHIN[self.dtype] * max(1.0, float(np.abs(expected_NL).max())):
            problem = f"converted to OpenVINO its logits differ from torch's by {difference:.2g}"
            raise ConversionError(path, problem, 'serve it with backend = "torch"')


def import_openvino() -> Any:
    """The package, without its telemetry, which would write into the home directory and call a server at conversions.

    In a process that has imported OpenVINO before, its user's choice stands.

    Raises:
        ConfigError: it is not installed.
    """
    if "openvino" not in sys.modules:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None: importing it fails
    try:
        import openvino
    except ImportError as error:
        fix = "pip install 'stream-classifier[openvino]', or give backend = \"torch\""
        raise ConfigError(f'backend = "openvino" needs OpenVINO, which is not installed ({error}); {fix}') from error
    return openvino


def convert(model: Any, path: Path) -> Any:
    """An openvino.Model of a Hugging Face model in float32: `input_ids` and `attention_mask` int64 `[N, S]` to logits.

    It shares the weights with `model`. `path` is for the error.

    Raises:
        ConversionError: OpenVINO does not know how.
    """
    openvino = import_openvino()
    example = {
        "input_ids": torch.full((2, 7), int(model.config.vocab_size) - 1),
        "attention_mask": torch.tensor([[1] * 7, [1] * 5 + [0] * 2]),
    }
    try:
        with warnings.catch_warnings(), quiet_transformers(), torch.inference_mode():
            warnings.simplefilter("ignore")  # the tracer's, of what might be constant: _check_conversion finds out
            return openvino.convert_model(_Logits(model), example_input=example)
    except Exception as error:  # its front end, the tracer and the model's own code have no common root
        reason = str(error).strip().split("\n")[0]
        problem = f"OpenVINO does not convert it ({type(error).__name__}: {reason[:200]})"
        raise ConversionError(path, problem, 'serve it with backend = "torch"') from error


class _Logits(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        logits_NL: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits_NL


def _compiled(model: Any, dtype: str) -> Any:
    options = {
        "PERFORMANCE_HINT": "LATENCY",  # one request at a time, on all threads
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[dtype],
        # Its threads would stay on the first cores, also those of a second worker and of this one's event loop.
        "ENABLE_CPU_PINNING": False,
    }
    return import_openvino().Core().compile_model(model, "CPU", options)


def _rest_of_int8() -> str:
    """What an int8 model computes in where it is not int8: softmax, layer norms."""
    return str(pick_dtype("auto", torch.device("cpu"))).removeprefix("torch.")


def _pad_id(directory: ModelDirectory) -> int:
    """Families that count positions from the padding read its id, masked or not."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(directory.path, local_files_only=True, trust_remote_code=False)
    return int(getattr(config, "pad_token_id", None) or 0)


def _is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    phrases = ("bad_alloc", "out of memory", "failed to allocate", "can't allocate", "cannot allocate")
    return isinstance(error, MemoryError) or any(phrase in text for phrase in phrases)
