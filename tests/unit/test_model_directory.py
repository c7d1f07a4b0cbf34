"""A good model directory loads; broken in any one way it is refused, with the file and the fix."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from stream_classifier.errors import ModelDirectoryError
from stream_classifier.model import directory
from stream_classifier.model.classifier import Classifier
from stream_classifier.model.manifest import canonical_json, manifest_digest
from tests.plugins.model_files import edit, edit_and_list, list_again, refused
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

    assert "there is no such file" in refused(plain, name)


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "golden.jsonl"]
)
def test_listed_file_that_was_changed_is_refused(model: Path, name: str) -> None:
    with (model / name).open("ab") as file:
        file.write(b" ")

    assert "its SHA-256 is" in refused(model, name)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "golden.jsonl"])
def test_listed_file_that_is_gone_is_refused(model: Path, name: str) -> None:
    (model / name).unlink()

    assert "it is not there" in refused(model, name)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "model.safetensors", "golden.jsonl"])
def test_file_that_loading_reads_must_be_listed(model: Path, name: str) -> None:
    files = json.loads((model / "classifier.json").read_text("utf-8"))["files"]
    edit(model / "classifier.json", files={key: value for key, value in files.items() if key != name})

    assert "does not list it under files" in refused(model, name)


@pytest.mark.parametrize("name", ["README.md", "report.html", "notes.txt", "training_args.bin"])
def test_other_files_are_ignored(model: Path, name: str) -> None:
    (model / name).write_bytes(b"anything")

    assert directory.read(model).digest


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

    edit(plain / "config.json", **changes)

    assert re.search(problem, refused(plain, "config.json"))


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b'{"a": NaN}', b'{"a": 1, "a": 2}', b"\xff\xfe", b'{"a": "\\ud800"}']
)
@pytest.mark.parametrize("name", ["config.json", "classifier.json"])
def test_broken_json_is_refused(model: Path, name: str, content: bytes) -> None:
    (model / name).write_bytes(content)

    refused(model, name)


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
    edit(model / "classifier.json", **changes)

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
    edit(model / "classifier.json", files={**files, name: "0" * 64})

    assert "files" in refused(model, "classifier.json")


def test_digest_follows_the_content_and_not_its_layout(model: Path) -> None:
    path = model / "classifier.json"
    content = json.loads(path.read_text("utf-8"))
    before = directory.digest(model)
    path.write_text(json.dumps(dict(reversed(content.items())), indent=7), "utf-8")
    assert directory.digest(model) == before

    edit(path, thresholds={"default": 0.25})
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
    edit(path / "tokenizer_config.json", model_max_length=tokenizer_says)

    assert directory.read(path).max_length == expected


def test_positions_that_leave_room_for_no_token_are_refused(tmp_path: Path) -> None:
    path = make_directory(tmp_path / "model", family="roberta")
    edit(path / "config.json", max_position_embeddings=2)

    assert "reads no token" in refused(path, "config.json")


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
    list_again(model)

    assert "line" in refused(model, "golden.jsonl")


def test_model_whose_answers_differ_from_the_golden_ones_is_refused(model: Path) -> None:
    lines = [json.loads(line) for line in (model / "golden.jsonl").read_text("utf-8").splitlines()]
    for line in lines:
        line["logits"][0] += 0.5
    (model / "golden.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    list_again(model)

    with pytest.raises(ModelDirectoryError, match="golden cases differ") as caught:
        Classifier.load(model, device="cpu")
    assert caught.value.path.name == "golden.jsonl"


def test_exchanged_weights_are_seen_by_the_golden_cases_too(model: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    tensors["classifier.weight"] = -tensors["classifier.weight"]
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    list_again(model)

    with pytest.raises(ModelDirectoryError, match="golden cases differ"):
        Classifier.load(model, device="cpu")


def test_tokenizer_of_another_model_is_refused(model: Path) -> None:
    edit_and_list(model, "config.json", vocab_size=5)

    with pytest.raises(ModelDirectoryError, match="the model has 5 embeddings"):
        Classifier.load(model, device="cpu")


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
