"""Weights that are no safetensors, or not those of the directory, are refused before anything of them is read."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from stream_classifier.errors import ModelDirectoryError
from stream_classifier.model import directory
from stream_classifier.model.classifier import Classifier
from stream_classifier.model.publish import write_manifest
from tests.plugins.model_files import edit, refused
from tests.plugins.models import TEXTS


@pytest.fixture
def model(tiny_bert_dir: Path, tmp_path: Path) -> Path:
    """A copy of a complete model directory, to break."""
    return Path(shutil.copytree(tiny_bert_dir, tmp_path / "model"))


@pytest.fixture
def plain(model: Path) -> Path:
    """The same as Hugging Face would have saved it: no classifier.json."""
    (model / "classifier.json").unlink()
    (model / "golden.jsonl").unlink()
    return model


@pytest.mark.parametrize(
    "name", ["adapter.safetensors", "pytorch_model.bin", "x.pt", "checkpoint-1/model.safetensors", "m.onnx"]
)
def test_weights_that_are_not_listed_are_refused(model: Path, name: str) -> None:
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).write_bytes(b"weights")

    assert "not listed in classifier.json" in refused(model, Path(name).name)


class _Evil:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return exec, ("import stream_classifier; stream_classifier.evil = True",)


def test_pickle_weights_are_refused_and_never_opened(plain: Path) -> None:
    import stream_classifier

    (plain / "model.safetensors").unlink()
    (plain / "pytorch_model.bin").write_bytes(pickle.dumps(_Evil()))

    assert "pytorch_model.bin" in refused(plain, "model")
    with pytest.raises(ModelDirectoryError, match="convert it"):
        Classifier.load(plain, device="cpu")
    assert not hasattr(stream_classifier, "evil")


def test_listed_pickle_is_refused(model: Path) -> None:
    (model / "head.pkl").write_bytes(pickle.dumps([1]))
    files = json.loads((model / "classifier.json").read_text("utf-8"))["files"]
    edit(model / "classifier.json", files={**files, "head.pkl": directory.file_sha256(model / "head.pkl")})

    assert "it is a pickle" in refused(model, "head.pkl")


def test_pickle_beside_safetensors_of_a_plain_directory_is_not_looked_at(plain: Path) -> None:
    (plain / "pytorch_model.bin").write_bytes(pickle.dumps(_Evil()))

    assert Classifier.load(plain, device="cpu")(["a text"])


def test_adapter_is_refused(plain: Path) -> None:
    (plain / "adapter_config.json").write_text("{}")

    assert "merge it" in refused(plain, "model")


def test_code_of_the_directory_is_never_run(plain: Path) -> None:
    import stream_classifier

    (plain / "modeling_own.py").write_text("import stream_classifier\nstream_classifier.evil = True\nclass M: ...\n")
    own = {"AutoConfig": "modeling_own.M", "AutoModelForSequenceClassification": "modeling_own.M"}
    edit(plain / "config.json", auto_map=own, model_type="own")

    with pytest.raises(ModelDirectoryError, match="transformers does not load it"):
        Classifier.load(plain, device="cpu")
    assert not hasattr(stream_classifier, "evil")


@pytest.mark.parametrize("content", [b"", b"\x08\x00\x00\x00\x00\x00\x00\x00{", b"\xff" * 64])
def test_broken_safetensors_is_refused(plain: Path, content: bytes) -> None:
    (plain / "model.safetensors").write_bytes(content)

    assert "no safetensors file" in refused(plain, "model.safetensors")


def test_base_model_without_a_head_is_refused(plain: Path) -> None:
    tensors = load_file(plain / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if "classifier" not in k}, plain / "model.safetensors")

    assert "no classification head" in refused(plain, "model.safetensors")


def test_half_a_head_is_refused_rather_than_drawn_at_random(plain: Path) -> None:
    tensors = load_file(plain / "model.safetensors")
    del tensors["classifier.bias"]
    save_file(tensors, plain / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(ModelDirectoryError, match=r"lack classifier\.bias"):
        Classifier.load(plain, device="cpu")


def test_sharded_weights_load_and_are_checked(plain: Path) -> None:
    whole = Classifier.load(plain, device="cpu", dtype="float32").logits(TEXTS)
    tensors = load_file(plain / "model.safetensors")
    (plain / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"model-1-of-2.safetensors": names[::2], "model-2-of-2.safetensors": names[1::2]}
    for shard, held in shards.items():
        save_file({name: tensors[name] for name in held}, plain / shard, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: shard for shard, held in shards.items() for name in held}}
    (plain / "model.safetensors.index.json").write_text(json.dumps(index))
    write_manifest(plain, {})

    np.testing.assert_array_equal(Classifier.load(plain, device="cpu", dtype="float32").logits(TEXTS), whole)
    assert {"model.safetensors.index.json", *shards} <= set(directory.read(plain).manifest.files)  # type: ignore[union-attr]  # it was written above
    (plain / "model-2-of-2.safetensors").unlink()
    assert "no such file" in refused(plain, "model-2-of-2.safetensors")


@pytest.mark.parametrize(
    "shard", ["../model.safetensors", "/model.safetensors", "a/b.safetensors", "x.bin", 7, ["a"], {}]
)
def test_index_that_leads_elsewhere_is_refused(plain: Path, shard: Any) -> None:
    (plain / "model.safetensors").unlink()
    (plain / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))

    refused(plain, "model.safetensors.index.json")
