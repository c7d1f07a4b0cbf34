"""The contract of a backend: micro-batch → logits, for every backend on every device and dtype there is.

What only OpenVINO does is in test_openvino.py.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stream_classifier.errors import ConfigError, ModelDirectoryError, TransientError
from stream_classifier.model.backends.choice import open_backend
from stream_classifier.model.backends.torch import TorchBackend, pick_device, pick_dtype
from stream_classifier.model.classifier import Classifier
from stream_classifier.model.directory import read
from stream_classifier.model.protocols import Backend, TokenBatch
from stream_classifier.model.tokenization import TextTokenizer
from tests.plugins.models import TEXTS

_TOLERANCES = {"float32": 1e-4, "bfloat16": 0.05, "float16": 0.02}
_CUDA = pytest.mark.gpu
_OPENVINO = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed")


@pytest.fixture(scope="module")
def tokens(tiny_bert_dir: Path) -> TokenBatch:
    checked = read(tiny_bert_dir)
    return TextTokenizer(checked.tokenizer_path, max_length=checked.max_length).encode(TEXTS)


@pytest.fixture(scope="module")
def reference(tiny_bert_dir: Path, tokens: TokenBatch) -> Any:
    backend = TorchBackend(read(tiny_bert_dir), device="cpu", dtype="float32")
    return np.concatenate([backend.forward(tokens.take([i])) for i in range(len(tokens))])


@pytest.fixture(
    scope="module",
    params=[
        ("torch", "cpu", "float32"),
        ("torch", "cpu", "bfloat16"),
        pytest.param(("torch", "cuda", "float32"), marks=_CUDA),
        pytest.param(("torch", "cuda", "bfloat16"), marks=_CUDA),
        pytest.param(("torch", "cuda", "float16"), marks=_CUDA),
        pytest.param(("openvino", "cpu", "float32"), marks=_OPENVINO),
        pytest.param(("openvino", "cpu", "bfloat16"), marks=_OPENVINO),
    ],
    ids="-".join,
)
def backend(request: pytest.FixtureRequest, tiny_bert_dir: Path) -> Backend:
    name, device, dtype = request.param
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return open_backend(read(tiny_bert_dir), device=device, dtype=dtype, backend=name)


def test_it_says_what_it_is(backend: Backend, request: pytest.FixtureRequest) -> None:
    assert isinstance(backend, Backend)
    device = backend.device.partition(":")[0]
    assert f"[{backend.name}-{device}-{backend.dtype}]" in request.node.name
    assert backend.batch_tokens >= 64


def test_logits_are_float32_and_close_to_one_text_at_a_time(
    backend: Backend, tokens: TokenBatch, reference: Any
) -> None:
    logits = backend.forward(tokens)

    assert logits.dtype == np.float32
    assert logits.flags.c_contiguous
    np.testing.assert_allclose(logits, reference, atol=_TOLERANCES[backend.dtype])


def test_texts_of_equal_length_need_no_mask_and_get_the_same_answer(
    backend: Backend, tokens: TokenBatch, reference: Any
) -> None:
    logits = backend.forward(tokens.take([4, 4, 4]))

    np.testing.assert_allclose(logits, reference[[4, 4, 4]], atol=_TOLERANCES[backend.dtype])


def test_no_texts_give_no_rows(backend: Backend, tokens: TokenBatch) -> None:
    assert backend.forward(tokens.take([])).shape == (0, 3)


def test_answers_stay_as_they_were_given(backend: Backend, tokens: TokenBatch) -> None:
    first = backend.forward(tokens.take([0, 1]))
    kept = first.copy()
    backend.forward(tokens.take([2, 3]))

    np.testing.assert_array_equal(first, kept)


def test_neighbours_and_order_change_nothing(backend: Backend, tokens: TokenBatch) -> None:
    together = backend.forward(tokens)
    order = np.random.default_rng(0).permutation(len(tokens))

    np.testing.assert_allclose(backend.forward(tokens.take(order)), together[order], atol=_TOLERANCES[backend.dtype])


def test_torch_weights_are_in_the_dtype_and_on_the_device_it_says(backend: Backend) -> None:
    if not isinstance(backend, TorchBackend):
        pytest.skip("its weights are not to be seen")
    weight = next(backend._model.parameters())

    assert str(weight.dtype) == f"torch.{backend.dtype}"
    assert str(weight.device) == backend.device
    assert not backend._model.training


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: 9 bytes"),
    ],
    ids=["python", "cuda", "cpu"],
)
def test_out_of_memory_is_transient(
    tiny_bert_dir: Path, tokens: TokenBatch, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    backend = TorchBackend(read(tiny_bert_dir), device="cpu", dtype="float32")

    def fail(**inputs: Any) -> None:
        raise error

    monkeypatch.setattr(backend, "_model", fail)
    with pytest.raises(TransientError, match="out of memory on 8 texts"):
        backend.forward(tokens)


def test_a_real_failed_allocation_is_transient(
    tiny_bert_dir: Path, tokens: TokenBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = TorchBackend(read(tiny_bert_dir), device="cpu", dtype="float32")
    monkeypatch.setattr(backend, "_model", lambda **inputs: torch.empty(1 << 60, dtype=torch.uint8))

    with pytest.raises(TransientError):
        backend.forward(tokens)


def test_other_errors_of_the_model_go_through(tiny_bert_dir: Path, tokens: TokenBatch) -> None:
    backend = TorchBackend(read(tiny_bert_dir), device="cpu", dtype="float32")
    broken = TokenBatch(tokens.input_ids_T + 10_000, tokens.offsets, tokens.truncated_N)

    with pytest.raises(IndexError):
        backend.forward(broken)


def test_auto_dtype_is_what_the_cpu_computes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr("stream_classifier.model.backends.torch._cpu_has_bfloat16", lambda: True)
    assert pick_dtype("auto", cpu) is torch.bfloat16
    monkeypatch.setattr("stream_classifier.model.backends.torch._cpu_has_bfloat16", lambda: False)
    assert pick_dtype("auto", cpu) is torch.float32


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "mps", "cpu:", ""])
def test_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(ConfigError, match="device is"):
        pick_device(device)


@pytest.mark.parametrize("dtype", ["int8", "fp32", "float16", ""])
def test_dtype_that_a_cpu_does_not_compute_in_is_refused(dtype: str) -> None:
    with pytest.raises(ConfigError, match="dtype is"):
        pick_dtype(dtype, torch.device("cpu"))


def test_unknown_backend_is_refused(tiny_bert_dir: Path) -> None:
    with pytest.raises(ConfigError, match="backend is 'tensorrt'"):
        Classifier.load(tiny_bert_dir, backend="tensorrt")


def test_model_that_differs_from_its_golden_cases_is_served_in_float32_or_refused(
    tiny_bert_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    forward = TorchBackend.forward

    def differing(self: TorchBackend, batch: TokenBatch) -> Any:
        return forward(self, batch) + (0 if self.dtype == "float32" else np.array([1.0, 0.0, 0.0], dtype=np.float32))

    monkeypatch.setattr(TorchBackend, "forward", differing)
    monkeypatch.setattr("stream_classifier.model.backends.torch._cpu_has_bfloat16", lambda: True)

    assert Classifier.load(tiny_bert_dir, device="cpu", backend="torch").dtype == "float32"
    assert "served in float32" in caplog.text
    with pytest.raises(ModelDirectoryError, match="golden cases differ"):
        Classifier.load(tiny_bert_dir, device="cpu", dtype="bfloat16", backend="torch")


@pytest.mark.parametrize("name", ["torch", pytest.param("openvino", marks=_OPENVINO)])
def test_real_encoder_in_bfloat16_gives_the_labels_of_float32(name: str, minilm_dir: Path) -> None:
    exact = Classifier.load(minilm_dir, device="cpu", dtype="float32", backend="torch")
    rounded = Classifier.load(minilm_dir, device="cpu", dtype="bfloat16", backend=name)

    decisive = [i for i, p in enumerate(exact(TEXTS)) if p.scores[0].score - p.scores[1].score > 0.02]
    assert len(decisive) >= 6
    assert [rounded(TEXTS)[i].label for i in decisive] == [exact(TEXTS)[i].label for i in decisive]
    np.testing.assert_allclose(rounded.logits(TEXTS), exact.logits(TEXTS), atol=0.1)
