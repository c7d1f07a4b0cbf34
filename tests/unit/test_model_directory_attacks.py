"""A model directory as an attack: whatever its files hold, it is refused as one, or it loads; nothing of it is run."""

from __future__ import annotations

import contextlib
import json
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from stream_classifier.errors import ModelDirectoryError
from stream_classifier.model.classifier import Classifier
from stream_classifier.model.directory import read
from tests.plugins.models import make_directory

ODD_VALUES = (None, -1, 2**70, "x", [], {}, True, 1e308, [[[]]])


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model as the Hub has them: without classifier.json, so that no SHA-256 stands in the way."""
    directory = make_directory(tmp_path_factory.mktemp("attack") / "model", labels=("a", "b"))
    assert not (directory / "classifier.json").exists()
    return directory


def flipped(content: bytes, source: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(source.choice((1, 1, 4, 30))):
        # most of them where the structure is: at the beginning
        at = source.randrange(min(len(changed), 4000) if source.random() < 0.7 else len(changed))
        changed[at] ^= 1 << source.randrange(8)
    return bytes(changed)


def cut(content: bytes, source: random.Random) -> bytes:
    return content[: source.randrange(len(content))]


def grown(content: bytes, source: random.Random) -> bytes:
    at = source.randrange(len(content))
    return content[:at] + source.randbytes(8) + content[at:]


def of_another_type(content: bytes, source: random.Random) -> bytes:
    try:
        table = json.loads(content)
    except ValueError:  # the weights
        return flipped(content, source)
    return json.dumps({**table, source.choice(list(table)): source.choice(ODD_VALUES)}).encode()


@pytest.mark.parametrize("change", [flipped, cut, grown, of_another_type])
def test_changed_bytes_anywhere_load_or_are_refused(
    plain: Path, tmp_path: Path, change: Callable[[bytes, random.Random], bytes]
) -> None:
    source = random.Random(change.__name__)
    names = sorted(path.name for path in plain.iterdir() if path.is_file() and path.suffix != ".md")
    assert "model.safetensors" in names
    for number in range(25):
        directory = tmp_path / str(number)
        shutil.copytree(plain, directory)
        file = directory / source.choice(names)
        file.write_bytes(change(file.read_bytes(), source))
        # Anything but a refusal would be a crash that a supervisor repeats for ever.
        with contextlib.suppress(ModelDirectoryError):
            Classifier.load(directory, device="cpu", dtype="float32")(["a text", ""])
        shutil.rmtree(directory)


class Exploit:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]  # what a pickle calls


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", "pytorch_model.bin"])
def test_a_pickle_in_disguise_is_never_opened(plain: Path, tmp_path: Path, name: str) -> None:
    directory, sign = tmp_path / "model", tmp_path / "it ran"
    shutil.copytree(plain, directory)
    if name == "pytorch_model.bin":
        (directory / "model.safetensors").unlink()
    (directory / name).write_bytes(pickle.dumps(Exploit(sign)))
    with pytest.raises(ModelDirectoryError):
        Classifier.load(directory)
    assert not sign.exists()


@pytest.mark.parametrize(
    "header",
    [
        (2**40).to_bytes(8, "little"),
        (2**64 - 1).to_bytes(8, "little"),
        b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}',
        b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}',
        b"[" * 100_000,
    ],
    ids=["header of 2^40 bytes", "header of 2^64 bytes", "2^40 elements", "a negative shape", "nested"],
)
def test_weights_that_claim_to_be_huge_are_refused_before_memory_is_taken(
    plain: Path, tmp_path: Path, header: bytes
) -> None:
    directory = tmp_path / "model"
    shutil.copytree(plain, directory)
    content = header if len(header) == 8 else len(header).to_bytes(8, "little") + header
    (directory / "model.safetensors").write_bytes(content + b"\0" * 64)
    with pytest.raises(ModelDirectoryError):
        read(directory)


def test_a_model_without_layers_loads_or_is_refused(plain: Path, tmp_path: Path) -> None:
    directory = tmp_path / "model"
    shutil.copytree(plain, directory)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 0}))
    with contextlib.suppress(ModelDirectoryError):
        Classifier.load(directory, device="cpu", dtype="float32", backend="torch")(["a text"])


@pytest.mark.parametrize("label", ["a\nb", "a\x1b[2J", "\x00"])
def test_labels_with_control_characters_are_refused(plain: Path, tmp_path: Path, label: str) -> None:
    directory = tmp_path / "model"
    shutil.copytree(plain, directory)
    config = json.loads((directory / "config.json").read_text())
    config |= {"id2label": {"0": label, "1": "b"}, "label2id": {label: 0, "b": 1}}
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelDirectoryError, match="control characters"):
        read(directory)


def test_a_tokenizer_that_names_code_runs_none(plain: Path, tmp_path: Path) -> None:
    directory, sign = tmp_path / "model", tmp_path / "it ran"
    shutil.copytree(plain, directory)
    code = f"import pathlib\npathlib.Path({str(sign)!r}).touch()\nclass T: ...\n"
    (directory / "code.py").write_text(code)
    for name in ("tokenizer_config.json", "config.json"):
        table = json.loads((directory / name).read_text())
        table["auto_map"] = {"AutoTokenizer": ["code.T", "code.T"], "AutoModelForSequenceClassification": "code.T"}
        (directory / name).write_text(json.dumps(table))
    Classifier.load(directory)(["a text"])
    assert not sign.exists()
