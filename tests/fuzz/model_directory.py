"""Any file of a model directory: it is read and its tokenizer works, or it is refused as a ModelDirectoryError.

The first byte says which file the rest is; the others are those of a small model that loads. Where reading accepts a
changed config.json, the model itself is loaded too.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

from stream_classifier.errors import ModelDirectoryError
from stream_classifier.model import directory
from stream_classifier.model.classifier import Classifier
from stream_classifier.model.tokenization import TextTokenizer
from tests.fuzz.mutations import json_behind
from tests.plugins.models import make_directory

STRUCTURE = json_behind(1)
FILES = (
    *("classifier.json", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    *("golden.jsonl", "model.safetensors.index.json"),
)
_TEXTS = ["", "a text", "naïve 東京 \0 🙂" * 5, "\ud800"]
_FOLDER = tempfile.TemporaryDirectory(prefix="stream-classifier-fuzz-")


def fuzz(data: bytes) -> None:
    """As the package says."""
    name, content = FILES[data[0] % len(FILES) if data else 0], data[1:]
    path, files = _model()
    for stale in (file for file in path.iterdir() if file.name not in files):
        stale.unlink()
    if name == "model.safetensors.index.json":
        (path / "model.safetensors").unlink()
    elif name == "classifier.json":
        content = _filled(content, files=_sha256(path))
    elif name == "config.json":
        content = _filled(content, vocab_size=json.loads(files["config.json"])["vocab_size"])
    elif name == "golden.jsonl":
        (path / "golden.jsonl").write_bytes(content)
        (path / "classifier.json").write_bytes(_filled(b'{"schema": 1}', files=_sha256(path)))
    (path / name).write_bytes(content)
    try:
        with contextlib.suppress(ModelDirectoryError):
            _read(path, load=name == "config.json")
    finally:
        for changed in {name, "model.safetensors"} & set(files):
            (path / changed).write_bytes(files[changed])


def _read(path: Path, *, load: bool) -> None:
    found = directory.read(path)
    assert len(found.labels) >= 1
    tokens = TextTokenizer(found.tokenizer_path, max_length=found.max_length, vocab_size=found.vocab_size)
    batch = tokens.encode(_TEXTS)
    assert len(batch.offsets) == len(_TEXTS) + 1
    assert max(batch.offsets[1:] - batch.offsets[:-1]) <= found.max_length
    if load:
        Classifier.load(path, device="cpu", dtype="float32", backend="torch")(["a text", ""])


@functools.cache
def _model() -> tuple[Path, dict[str, bytes]]:
    """A small model without classifier.json, so that no SHA-256 stands in the way; and its files."""
    logging.disable(logging.WARNING)  # that it has no classifier.json
    path = make_directory(Path(_FOLDER.name) / "model", labels=("a", "b"))
    return path, {file.name: file.read_bytes() for file in path.iterdir()}


def _filled(content: bytes, **right: Any) -> bytes:
    """The JSON object with these values, which a corpus cannot know, where it says nothing of them."""
    try:
        document: Any = json.loads(content)
    except (ValueError, RecursionError):
        return content
    if not isinstance(document, dict) or document.keys() & right.keys():
        return content
    return json.dumps({**document, **right}).encode()


def _sha256(path: Path) -> dict[str, str]:
    return {file.name: directory.file_sha256(file) for file in path.iterdir() if file.name != "classifier.json"}
