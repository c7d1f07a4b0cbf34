"""What the OpenVINO backend adds to the contract: every family converted, nothing written or sent, memory that ends,
and what "auto" takes with and without it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stream_classifier.errors import ConfigError, TransientError
from stream_classifier.model import publish
from stream_classifier.model.backends.openvino import ConversionError, OpenVinoBackend
from stream_classifier.model.backends.torch import TorchBackend
from stream_classifier.model.classifier import Classifier
from stream_classifier.model.directory import read
from stream_classifier.model.tokenization import TextTokenizer
from tests.plugins.models import FAMILIES, TEXTS, make_directory

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed"),
    # transformers' deberta_v2 module still scripts its functions when it is imported
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
]


@pytest.fixture
def not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were no OpenVINO: it is neither found nor imported."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else find_spec(name))
    monkeypatch.setitem(sys.modules, "openvino", None)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_converted_and_answers_as_torch_does(family: str, tmp_path: Path) -> None:
    checked = read(make_directory(tmp_path / family, family=family))
    tokens = TextTokenizer(checked.tokenizer_path, max_length=checked.max_length).encode(TEXTS)
    backend = OpenVinoBackend(checked, dtype="float32")
    reference = TorchBackend(checked, device="cpu", dtype="float32")

    np.testing.assert_allclose(backend.forward(tokens), reference.forward(tokens), atol=1e-4)
    np.testing.assert_allclose(backend.forward(tokens.take([3])), reference.forward(tokens.take([3])), atol=1e-4)


def test_auto_takes_it_on_a_cpu_and_says_so(tiny_bert_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream_classifier.model.backends.torch._cpu_has_bfloat16", lambda: True)
    classifier = Classifier.load(tiny_bert_dir, device="cpu")

    assert (classifier.backend, classifier.device, classifier.dtype) == ("openvino", "cpu", "bfloat16")
    assert not classifier.check_golden().failed


def test_auto_takes_torch_where_it_is_not_installed(tiny_bert_dir: Path, not_installed: None) -> None:
    assert Classifier.load(tiny_bert_dir, device="cpu").backend == "torch"


def test_by_name_it_is_refused_where_it_is_not_installed(tiny_bert_dir: Path, not_installed: None) -> None:
    with pytest.raises(ConfigError, match=r"pip install 'stream-classifier\[openvino\]'"):
        Classifier.load(tiny_bert_dir, backend="openvino")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "cuda"}, "device is 'cuda', OpenVINO runs on the CPU"),
        ({"dtype": "float16"}, "dtype is 'float16'"),
        ({"dtype": "int4"}, "dtype is 'int4'"),
        ({"dtype": "int8"}, "has no int8 form; make one with stream-training quantize"),
    ],
    ids=str,
)
def test_what_it_does_not_have_is_refused(tiny_bert_dir: Path, settings: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Classifier.load(tiny_bert_dir, backend="openvino", **settings)


def test_a_conversion_that_answers_otherwise_is_left_to_torch(
    tiny_bert_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A trace that has taken the shape of its example for a constant gives such answers."""
    forward = OpenVinoBackend.forward
    monkeypatch.setattr(OpenVinoBackend, "forward", lambda self, batch: forward(self, batch)[::-1])

    assert Classifier.load(tiny_bert_dir, device="cpu").backend == "torch"
    assert "its logits differ from torch's" in caplog.text
    with pytest.raises(ConversionError, match='serve it with backend = "torch"'):
        Classifier.load(tiny_bert_dir, backend="openvino")


def test_a_model_that_cannot_be_converted_is_left_to_torch(
    tiny_bert_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import openvino

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no translation for aten::new_thing\nand more lines")

    monkeypatch.setattr(openvino, "convert_model", fail)

    assert Classifier.load(tiny_bert_dir, device="cpu").backend == "torch"
    assert "OpenVINO does not convert it (RuntimeError: no translation for aten::new_thing)" in caplog.text


def test_golden_cases_that_differ_are_served_by_torch_in_float32(
    tiny_bert_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("stream_classifier.model.backends.torch._cpu_has_bfloat16", lambda: True)
    monkeypatch.setattr(OpenVinoBackend, "_check_conversion", lambda *_: None)
    forward = OpenVinoBackend.forward
    monkeypatch.setattr(OpenVinoBackend, "forward", lambda self, batch: forward(self, batch) + np.eye(1, 3, dtype="f4"))
    classifier = Classifier.load(tiny_bert_dir, device="cpu")

    assert (classifier.backend, classifier.dtype) == ("torch", "float32")
    assert "on openvino in bfloat16" in caplog.text


def test_an_answer_that_was_not_computed_is_no_answer(tiny_bert_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO gives the last answer again when memory is short: whatever its shape, it must not be taken."""
    checked = read(tiny_bert_dir)
    tokens = TextTokenizer(checked.tokenizer_path, max_length=checked.max_length).encode(TEXTS)
    backend = OpenVinoBackend(checked, dtype="float32")
    request = backend._request

    class Stale:
        def __init__(self) -> None:
            self.outputs: Any = None

        def infer(self, inputs: Any, **options: Any) -> Any:
            if self.outputs is None:
                self.outputs = request.infer(inputs, **options)
            return self.outputs

    monkeypatch.setattr(backend, "_request", Stale())
    assert np.isfinite(backend.forward(tokens.take([0, 1]))).all()
    with pytest.raises(TransientError, match="out of memory on 2 texts"):
        backend.forward(tokens.take([2, 3]))
    with pytest.raises(TransientError, match="out of memory on 3 texts"):
        backend.forward(tokens.take([2, 3, 4]))


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory as Linux has them")
def test_memory_that_ends_is_transient_and_the_next_small_batch_is_answered(tiny_bert_dir: Path) -> None:
    program = f"""
import resource
import numpy as np
from stream_classifier.errors import TransientError
from stream_classifier.model.backends.openvino import OpenVinoBackend
from stream_classifier.model.directory import read
from stream_classifier.model.protocols import TokenBatch

def texts(number, length):
    return TokenBatch.from_lists([np.full(length, 7, np.int32)] * number, [False] * number)

backend = OpenVinoBackend(read({str(tiny_bert_dir)!r}), dtype="float32")
first = backend.forward(texts(2, 5))
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + (100 << 20), resource.RLIM_INFINITY))
large = None
try:
    large = backend.forward(texts(40_000, 64))
except TransientError as error:
    print(str(error)[:13])
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(np.array_equal(backend.forward(texts(2, 5)), first))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.split("\n")[:2] == ["out of memory", "True"], done.stderr[-2000:]


def test_nothing_is_sent_or_written(tiny_bert_dir: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in tiny_bert_dir.rglob("*")}
    program = (
        "import sys; from stream_classifier import Classifier\n"
        f"print(Classifier.load({str(tiny_bert_dir)!r}, backend='openvino')(['a text'])[0].label)\n"
        "print(sorted(name for name in sys.modules if name.startswith('openvino_telemetry') and sys.modules[name]))"
    )
    env = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120, env=env, cwd=tmp_path
    )

    assert done.stdout.splitlines()[1] == "[]"
    assert list(tmp_path.iterdir()) == []
    assert {path: path.stat().st_mtime_ns for path in tiny_bert_dir.rglob("*")} == before


def test_it_computes_on_as_many_threads_as_torch(tiny_bert_dir: Path) -> None:
    import torch

    backend = OpenVinoBackend(read(tiny_bert_dir), dtype="float32")
    compiled = backend._compiled

    assert compiled.get_property("INFERENCE_NUM_THREADS") == torch.get_num_threads()
    assert compiled.get_property("ENABLE_CPU_PINNING") is False


def test_a_golden_text_bears_the_rounding_of_both_backends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_directory(tmp_path / "model", content={"task": "free"})
    content = {"task": "free"}
    texts = [case.text for case in read(model).golden]
    reference = publish._reference

    class Moved:
        def __init__(self, classifier: Classifier) -> None:
            self.classifier, self.backend = classifier, classifier.backend

        def logits(self, asked: list[str]) -> Any:
            return self.classifier.logits(asked) + 3 * (np.array(asked) == texts[1])[:, None] * [1, 0, 0]

    def moved(directory: Path, **placement: str) -> Any:
        found = reference(directory, **placement)
        return Moved(found) if placement.get("backend") == "auto" else found

    monkeypatch.setattr(publish, "_reference", moved)
    publish.finish_directory(model, content, golden_texts=texts)
    assert [case.text for case in read(model).golden] == [text for text in texts if text != texts[1]]


@pytest.mark.parametrize("has_openvino", [True, False])
def test_a_golden_text_is_rounded_once_by_each_backend_there_is(
    has_openvino: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if not has_openvino:
        request.getfixturevalue("not_installed")
    model = make_directory(tmp_path / "model", content={"task": "free"})
    texts, logits = [case.text for case in read(model).golden], Classifier.logits
    asked: list[str] = []

    def noted(self: Classifier, texts: list[str]) -> Any:
        if self.dtype == "bfloat16":
            asked.append(self.backend)
        return logits(self, texts)

    monkeypatch.setattr(Classifier, "logits", noted)
    publish.finish_directory(model, {"task": "free"}, golden_texts=texts)
    assert asked == (["torch", "openvino"] if has_openvino else ["torch"])
