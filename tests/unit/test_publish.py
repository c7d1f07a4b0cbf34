"""A model directory that is replaced or finished is whole, or as it was."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from stream_classifier.errors import ConfigError, ModelDirectoryError
from stream_classifier.model import directory
from stream_classifier.model.publish import replace_directory, write_manifest


@pytest.fixture
def model(tiny_bert_dir: Path, tmp_path: Path) -> Path:
    """A copy of a complete model directory, to replace."""
    return Path(shutil.copytree(tiny_bert_dir, tmp_path / "model"))


def test_replacing_puts_the_new_directory_where_the_old_one_was(
    model: Path, tiny_bert_dir: Path, tmp_path: Path
) -> None:
    aside = Path(shutil.copytree(tiny_bert_dir, tmp_path / "aside"))
    digest = write_manifest(aside, {"task": "intent"})
    replace_directory(aside, model)

    assert directory.read(model).digest == digest
    assert not aside.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_weights_may_be_read_by_whoever_may_read_the_rest(model: Path, tiny_bert_dir: Path, tmp_path: Path) -> None:
    aside = Path(shutil.copytree(tiny_bert_dir, tmp_path / "aside"))
    (aside / "model.safetensors").chmod(0o600)
    (aside / "config.json").chmod(0o644)
    replace_directory(aside, model)

    assert {path.stat().st_mode & 0o777 for path in model.iterdir()} == {0o644}


def test_what_is_beside_it_stays_and_the_old_one_comes_back_if_the_new_one_cannot_come(
    model: Path, tiny_bert_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup = Path(shutil.copytree(model, tmp_path / "model.old"))
    aside = Path(shutil.copytree(tiny_bert_dir, tmp_path / "aside"))
    before, rename = directory.read(model).digest, Path.rename

    def fails_for_the_new_one(path: Path, target: Path) -> Path:
        if path == aside:
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", fails_for_the_new_one)
        with pytest.raises(KeyboardInterrupt):
            replace_directory(aside, model)
    assert directory.read(model).digest == before

    replace_directory(aside, model)
    assert backup.is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "model.old"]


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
