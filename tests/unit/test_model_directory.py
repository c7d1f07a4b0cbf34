"""A good model directory loads; broken in any one way it is refused, with the file and the fix."""

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

from stream_classifier.errors import ConfigError, ModelDirectoryError
from stream_classifier.model import directory
from stream_classifier.model.classifier import Classifier
from stream_classifier.model.golden import GoldenCase, compare, sample, unsteady
from stream_classifier.model.manifest import canonical_json, manifest_digest
from stream_classifier.model.publish import replace_directory, write_manifest
from tests.plugins.models import TEXTS, make_directory


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


def _edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text("utf-8"))
    for key, value in changes.items():
        if value is ...:
            content.pop(key)
        else:
            content[key] = value
    path.write_text(json.dumps(content), "utf-8")


def _edit_and_list(model: Path, name: str, **changes: Any) -> None:
    """Changes a file and lists it with its new SHA-256, so that only its content can be at fault."""
    _edit(model / name, **changes)
    _list_again(model)


def _list_again(model: Path) -> None:
    manifest = json.loads((model / "classifier.json").read_text("utf-8"))
    files = {name: directory.file_sha256(model / name) for name in manifest["files"] if (model / name).is_file()}
    _edit(model / "classifier.json", files=files)


def _refused(model: Path, file: str) -> str:
    with pytest.raises(ModelDirectoryError) as caught:
        directory.read(model)
    assert caught.value.path.name == file
    assert caught.value.fix
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_good_directory_gives_what_its_files_say(model: Path) -> None:
    found = directory.read(model)
    content = json.loads((model / "classifier.json").read_text("utf-8"))

    assert found.labels == ("sport", "business", "politics")
    assert found.problem_type == "single_label_classification"
    assert found.max_length == 64
    assert found.name == "model"
    assert found.digest == manifest_digest(content) == directory.digest(model)
    assert len(found.golden) > 0
    assert set(content["files"]) == {
        "config.json",
        "golden.jsonl",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_plain_directory_loads_with_a_warning_and_no_digest(plain: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = directory.read(plain)

    assert found.digest is None
    assert found.manifest is None
    assert found.golden == ()
    assert "no classifier.json" in caplog.text


def test_loading_writes_nothing(model: Path) -> None:
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in [model, *model.rglob("*")]}
    Classifier.load(model, device="cpu")(TEXTS)

    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in [model, *model.rglob("*")]} == before


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_missing_file_is_refused(plain: Path, name: str) -> None:
    (plain / name).unlink()

    assert "there is no such file" in _refused(plain, name)


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "golden.jsonl"]
)
def test_listed_file_that_was_changed_is_refused(model: Path, name: str) -> None:
    with (model / name).open("ab") as file:
        file.write(b" ")

    assert "its SHA-256 is" in _refused(model, name)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "golden.jsonl"])
def test_listed_file_that_is_gone_is_refused(model: Path, name: str) -> None:
    (model / name).unlink()

    assert "it is not there" in _refused(model, name)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "model.safetensors", "golden.jsonl"])
def test_file_that_loading_reads_must_be_listed(model: Path, name: str) -> None:
    files = json.loads((model / "classifier.json").read_text("utf-8"))["files"]
    _edit(model / "classifier.json", files={key: value for key, value in files.items() if key != name})

    assert "does not list it under files" in _refused(model, name)


@pytest.mark.parametrize("name", ["README.md", "report.html", "notes.txt", "training_args.bin"])
def test_other_files_are_ignored(model: Path, name: str) -> None:
    (model / name).write_bytes(b"anything")

    assert directory.read(model).digest


@pytest.mark.parametrize(
    "name", ["adapter.safetensors", "pytorch_model.bin", "x.pt", "checkpoint-1/model.safetensors", "m.onnx"]
)
def test_weights_that_are_not_listed_are_refused(model: Path, name: str) -> None:
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).write_bytes(b"weights")

    assert "not listed in classifier.json" in _refused(model, Path(name).name)


class _Evil:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return exec, ("import stream_classifier; stream_classifier.evil = True",)


def test_pickle_weights_are_refused_and_never_opened(plain: Path) -> None:
    import stream_classifier

    (plain / "model.safetensors").unlink()
    (plain / "pytorch_model.bin").write_bytes(pickle.dumps(_Evil()))

    assert "pytorch_model.bin" in _refused(plain, "model")
    with pytest.raises(ModelDirectoryError, match="convert it"):
        Classifier.load(plain, device="cpu")
    assert not hasattr(stream_classifier, "evil")


def test_listed_pickle_is_refused(model: Path) -> None:
    (model / "head.pkl").write_bytes(pickle.dumps([1]))
    files = json.loads((model / "classifier.json").read_text("utf-8"))["files"]
    _edit(model / "classifier.json", files={**files, "head.pkl": directory.file_sha256(model / "head.pkl")})

    assert "it is a pickle" in _refused(model, "head.pkl")


def test_pickle_beside_safetensors_of_a_plain_directory_is_not_looked_at(plain: Path) -> None:
    (plain / "pytorch_model.bin").write_bytes(pickle.dumps(_Evil()))

    assert Classifier.load(plain, device="cpu")(["a text"])


def test_adapter_is_refused(plain: Path) -> None:
    (plain / "adapter_config.json").write_text("{}")

    assert "merge it" in _refused(plain, "model")


def test_code_of_the_directory_is_never_run(plain: Path) -> None:
    import stream_classifier

    (plain / "modeling_own.py").write_text("import stream_classifier\nstream_classifier.evil = True\nclass M: ...\n")
    own = {"AutoConfig": "modeling_own.M", "AutoModelForSequenceClassification": "modeling_own.M"}
    _edit(plain / "config.json", auto_map=own, model_type="own")

    with pytest.raises(ModelDirectoryError, match="transformers does not load it"):
        Classifier.load(plain, device="cpu")
    assert not hasattr(stream_classifier, "evil")


@pytest.mark.parametrize("content", [b"", b"\x08\x00\x00\x00\x00\x00\x00\x00{", b"\xff" * 64])
def test_broken_safetensors_is_refused(plain: Path, content: bytes) -> None:
    (plain / "model.safetensors").write_bytes(content)

    assert "no safetensors file" in _refused(plain, "model.safetensors")


def test_base_model_without_a_head_is_refused(plain: Path) -> None:
    tensors = load_file(plain / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if "classifier" not in k}, plain / "model.safetensors")

    assert "no classification head" in _refused(plain, "model.safetensors")


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
    assert "no such file" in _refused(plain, "model-2-of-2.safetensors")


@pytest.mark.parametrize(
    "shard", ["../model.safetensors", "/model.safetensors", "a/b.safetensors", "x.bin", 7, ["a"], {}]
)
def test_index_that_leads_elsewhere_is_refused(plain: Path, shard: Any) -> None:
    (plain / "model.safetensors").unlink()
    (plain / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))

    _refused(plain, "model.safetensors.index.json")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"id2label": {"0": "a", "1": "b"}, "label2id": ...}, "2 labels, classifier.weight .* 3 rows"),
        ({"id2label": ..., "label2id": ...}, "2 labels, classifier.weight .* 3 rows"),
        ({"id2label": {"0": "a", "1": "b", "3": "c"}}, "a label is missing"),
        ({"id2label": {"0": "a", "1": "b", "x": "c"}}, "a label is missing"),
        ({"id2label": {"0": "a", "1": "a", "2": "c"}}, "there twice"),
        ({"id2label": {"0": "a", "1": "", "2": "c"}}, "empty"),
        ({"id2label": {"0": "a", "1": 7, "2": "c"}}, "no string"),
        ({"id2label": {}}, "names no labels"),
        ({"id2label": ["a", "b", "c"]}, "names no labels"),
        ({"label2id": {"sport": 1, "business": 0, "politics": 2}}, "not the inverse"),
        ({"label2id": {"sport": 0}}, "not the inverse"),
        ({"problem_type": "regression"}, "problem_type is 'regression'"),
        ({"problem_type": 3}, "problem_type is 3"),
        ({"id2label": {"0": "score"}, "label2id": ...}, "one label only"),
        ({"id2label": ..., "label2id": ..., "num_labels": "3"}, "num_labels is '3'"),
    ],
)
def test_config_that_does_not_fit_is_refused(plain: Path, changes: dict[str, Any], problem: str) -> None:
    import re

    _edit(plain / "config.json", **changes)

    assert re.search(problem, _refused(plain, "config.json"))


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b'{"a": NaN}', b'{"a": 1, "a": 2}', b"\xff\xfe", b'{"a": "\\ud800"}']
)
@pytest.mark.parametrize("name", ["config.json", "classifier.json"])
def test_broken_json_is_refused(model: Path, name: str, content: bytes) -> None:
    (model / name).write_bytes(content)

    _refused(model, name)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"schema": 2}, "schema is 2, this version reads 1"),
        ({"schema": "1"}, "schema is '1'"),
        ({"schema": True}, "schema is True"),
        ({"schema": ...}, "schema is None"),
        ({"treshold": 0.5}, "treshold"),
        ({"task": ""}, "task"),
        ({"task": 3}, "task"),
        ({"max_length": 65}, "max_length is 65, the model reads 64"),
        ({"max_length": 2}, "max_length"),
        ({"max_length": "64"}, "max_length"),
        ({"positive_label": "spam"}, "spam"),
        ({"thresholds": {"default": 1.5}}, "default"),
        ({"thresholds": {"default": "0.5"}}, "default"),
        ({"thresholds": {"labels": {"spam": 0.5}}}, "spam"),
        ({"thresholds": {"labels": {"sport": -0.1}}}, "sport"),
        ({"thresholds": {"operating_point": 0.5}}, "operating_point"),
        ({"thresholds": {"rejection": {"score": "guess", "threshold": 1.0}}}, "rejection"),
        ({"thresholds": {"rejection": {"score": "energy"}}}, "rejection"),
        ({"thresholds": {"unknown": 1}}, "unknown"),
        ({"calibration": {"method": "temperature", "scale": 0.0}}, "scale"),
        ({"calibration": {"method": "bias", "bias": [0.0, 1.0]}}, "bias"),
        ({"calibration": {"method": "bias", "scale": "1"}}, "scale"),
        ({"calibration": {"scale": 1.0}}, "method"),
        ({"files": ...}, "files"),
        ({"files": {}}, "does not list it"),
        ({"files": {"config.json": "abc"}}, "files"),
    ],
)
def test_classifier_json_that_does_not_hold_is_refused(model: Path, changes: dict[str, Any], problem: str) -> None:
    _edit(model / "classifier.json", **changes)

    with pytest.raises(ModelDirectoryError) as caught:
        directory.read(model)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "/etc/passwd",
        "a/../../secret",
        "./config.json",
        "a//b",
        "..",
        "",
        "C:\\x",
        "a\\b",
        "classifier.json",
        "a\0b",
    ],
)
def test_file_names_that_lead_elsewhere_are_refused(model: Path, name: str) -> None:
    files = json.loads((model / "classifier.json").read_text("utf-8"))["files"]
    _edit(model / "classifier.json", files={**files, name: "0" * 64})

    assert "files" in _refused(model, "classifier.json")


def test_digest_follows_the_content_and_not_its_layout(model: Path) -> None:
    path = model / "classifier.json"
    content = json.loads(path.read_text("utf-8"))
    before = directory.digest(model)
    path.write_text(json.dumps(dict(reversed(content.items())), indent=7), "utf-8")
    assert directory.digest(model) == before

    _edit(path, thresholds={"default": 0.25})
    assert directory.digest(model) != before


def test_canonical_json_is_sorted_compact_utf8() -> None:
    assert canonical_json({"b": [1, 0.5], "a": "ü"}) == '{"a":"ü","b":[1,0.5]}'.encode()


@pytest.mark.parametrize(
    ("family", "tokenizer_says", "expected"),
    [("bert", 64, 64), ("bert", 10**30, 64), ("bert", 32, 32), ("roberta", 10**30, 64), ("roberta", None, 64)],
)
def test_length_is_what_both_model_and_tokenizer_allow(
    tmp_path: Path, family: str, tokenizer_says: int | None, expected: int
) -> None:
    path = make_directory(tmp_path / "model", family=family)
    _edit(path / "tokenizer_config.json", model_max_length=tokenizer_says)

    assert directory.read(path).max_length == expected


def test_positions_that_leave_room_for_no_token_are_refused(tmp_path: Path) -> None:
    path = make_directory(tmp_path / "model", family="roberta")
    _edit(path / "config.json", max_position_embeddings=2)

    assert "reads no token" in _refused(path, "config.json")


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"text": "a"}',
        '{"text": 1, "logits": [1, 2, 3], "margin": 0}',
        '{"text": "a", "logits": [1, 2], "margin": 0}',
        '{"text": "a", "logits": [1, 2, NaN], "margin": 0}',
        '{"text": "a", "logits": [1, 2, 3], "margin": null}',
    ],
)
def test_golden_line_that_is_no_case_is_refused(model: Path, line: str) -> None:
    with (model / "golden.jsonl").open("a") as file:
        file.write(line + "\n")
    _list_again(model)

    assert "line" in _refused(model, "golden.jsonl")


def test_model_whose_answers_differ_from_the_golden_ones_is_refused(model: Path) -> None:
    lines = [json.loads(line) for line in (model / "golden.jsonl").read_text("utf-8").splitlines()]
    for line in lines:
        line["logits"][0] += 0.5
    (model / "golden.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    _list_again(model)

    with pytest.raises(ModelDirectoryError, match="golden cases differ") as caught:
        Classifier.load(model, device="cpu")
    assert caught.value.path.name == "golden.jsonl"


def test_exchanged_weights_are_seen_by_the_golden_cases_too(model: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    tensors["classifier.weight"] = -tensors["classifier.weight"]
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    _list_again(model)

    with pytest.raises(ModelDirectoryError, match="golden cases differ"):
        Classifier.load(model, device="cpu")


def test_tokenizer_of_another_model_is_refused(model: Path) -> None:
    _edit_and_list(model, "config.json", vocab_size=5)

    with pytest.raises(ModelDirectoryError, match="the model has 5 embeddings"):
        Classifier.load(model, device="cpu")


def _softmax(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def test_golden_case_holds_up_to_its_tolerance_and_may_flip_only_near_a_tie() -> None:
    cases = [GoldenCase("tie", (0.001, 0.0), 0.0), GoldenCase("clear", (2.0, 0.0), 0.76)]
    near = np.array([[0.0, 0.001], [2.0, 0.0]])
    far = np.array([[0.0, 0.1], [2.5, 0.0]])
    nan = np.array([[0.0, 0.001], [np.nan, 0.0]])

    assert not compare(cases, near, probabilities=_softmax, allowed=1e-3).failed
    assert compare(cases, far, probabilities=_softmax, allowed=1e-3).failed == (0, 1)
    assert compare(cases, nan, probabilities=_softmax, allowed=1e-3).failed == (1,)


def test_text_near_a_tie_is_unsteady_under_rounding_a_clear_one_is_not() -> None:
    logits = np.array([[0.0, 0.0], [6.0, 0.0]])

    assert unsteady(logits, logits + np.array([0.05, 0.0]), probabilities=_softmax).tolist() == [True, False]


def test_sample_is_spread_and_always_the_same() -> None:
    cases = [GoldenCase(str(i), (0.0,), 1.0) for i in range(30)]

    assert [case.text for case in sample(cases, 4)] == ["0", "10", "19", "29"]
    assert sample(cases[:3], 4) == cases[:3]
    assert [case.text for case in sample(cases, 1)] == ["0"]


def test_replacing_puts_the_new_directory_where_the_old_one_was(
    model: Path, tiny_bert_dir: Path, tmp_path: Path
) -> None:
    aside = Path(shutil.copytree(tiny_bert_dir, tmp_path / "aside"))
    digest = write_manifest(aside, {"task": "intent"})
    replace_directory(aside, model)

    assert directory.read(model).digest == digest
    assert not aside.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_directory_that_holds_something_else_is_not_replaced(model: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").write_text("years of work")

    with pytest.raises(ConfigError, match="no model directory"):
        replace_directory(model, home)
    assert (home / "thesis.txt").read_text() == "years of work"
    assert model.is_dir()


def test_manifest_that_could_not_be_read_back_is_not_written(model: Path) -> None:
    before = (model / "classifier.json").read_bytes()

    with pytest.raises(ModelDirectoryError):
        write_manifest(model, {"treshold": 0.5})
    assert (model / "classifier.json").read_bytes() == before


@pytest.mark.parametrize("name", ["./no/such", "a/b/c", "/no/such", "bad name", "-x", "./" + "x" * 300])
def test_path_that_is_not_there_is_refused_without_asking_the_hub(name: str) -> None:
    with pytest.raises(ModelDirectoryError, match="no such directory"):
        directory.read(name)


def test_hub_name_that_is_not_cached_is_refused_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    with pytest.raises(ModelDirectoryError, match="no such model could be had from the Hub"):
        directory.read("someone/some-model")


def test_file_is_no_directory(model: Path) -> None:
    with pytest.raises(ModelDirectoryError, match="it is a file"):
        directory.read(model / "model.safetensors")
