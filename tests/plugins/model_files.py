"""Changes to the files of a model directory, and what is said of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stream_classifier.errors import ModelDirectoryError
from stream_classifier.model import directory

__all__ = ["edit", "edit_and_list", "list_again", "refused"]


def edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text("utf-8"))
    for key, value in changes.items():
        if value is ...:
            content.pop(key)
        else:
            content[key] = value
    path.write_text(json.dumps(content), "utf-8")


def edit_and_list(model: Path, name: str, **changes: Any) -> None:
    """Changes a file and lists it with its new SHA-256, so that only its content can be at fault."""
    edit(model / name, **changes)
    list_again(model)


def list_again(model: Path) -> None:
    manifest = json.loads((model / "classifier.json").read_text("utf-8"))
    files = {name: directory.file_sha256(model / name) for name in manifest["files"] if (model / name).is_file()}
    edit(model / "classifier.json", files=files)


def refused(model: Path, file: str) -> str:
    with pytest.raises(ModelDirectoryError) as caught:
        directory.read(model)
    assert caught.value.path.name == file
    assert caught.value.fix
    message = str(caught.value)
    assert "\n" not in message
    return message
