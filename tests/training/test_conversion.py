"""A .bin becomes safetensors with the same answers; one that would run code is refused and runs none."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from stream_classifier.errors import ConfigError, TrainingError
from tests.plugins.models import make_directory
from training.cli import cli
from training.conversion import convert


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A base as it was published once: a pickle, with TensorFlow's names of the norms."""
    directory = make_directory(tmp_path / "published")
    weights = load_file(directory / "model.safetensors")
    renamed = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in weights.items()
    }
    torch.save(renamed, directory / "pytorch_model.bin")
    (directory / "model.safetensors").rename(tmp_path / "expected.safetensors")
    return directory


def test_the_converted_base_has_the_same_weights_and_loads(published: Path, tmp_path: Path) -> None:
    from training.encoder import load_encoder, quiet_transformers

    conversion = convert(published, tmp_path / "out")
    expected, actual = load_file(tmp_path / "expected.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)
    assert conversion.num_parameters == sum(tensor.numel() for tensor in expected.values())
    with quiet_transformers():
        assert load_encoder(str(tmp_path / "out"), ["a", "b", "c"]).tokenizer("the match").input_ids
    assert not list((tmp_path / "out").glob("*.bin"))


def test_shards_become_one_file(published: Path, tmp_path: Path) -> None:
    whole = torch.load(published / "pytorch_model.bin", weights_only=True)
    names = list(whole)
    for number, part in enumerate((names[:10], names[10:]), start=1):
        torch.save({name: whole[name] for name in part}, published / f"pytorch_model-0000{number}-of-00002.bin")
    (published / "pytorch_model.bin").unlink()
    (published / "pytorch_model.bin.index.json").write_text("{}")
    assert convert(published, tmp_path / "out").num_tensors == len(names)
    assert not (tmp_path / "out" / "pytorch_model.bin.index.json").exists()


class Evil:
    """What a pickle can do: run a command when it is opened."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_a_pickle_that_would_run_code_is_refused_and_runs_none(writer: str, published: Path, tmp_path: Path) -> None:
    content = {"weight": Evil(tmp_path / "mark")}
    path = published / "pytorch_model.bin"
    if writer == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(ConfigError, match="may run code when it is opened"):
        convert(published, tmp_path / "out")
    assert not (tmp_path / "mark").exists()
    assert not (tmp_path / "out").exists()


def test_weights_of_another_model_are_not_written(published: Path, tmp_path: Path) -> None:
    torch.save({"some.weight": torch.ones(2)}, published / "pytorch_model.bin")
    with pytest.raises(TrainingError, match="the weights lack"):
        convert(published, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_needs_no_conversion_and_what_has_nothing_is_refused(published: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="safetensors already"):
        convert(make_directory(tmp_path / "modern"), tmp_path / "out")
    (published / "pytorch_model.bin").unlink()
    with pytest.raises(ConfigError, match=r"there is no pytorch_model\.bin"):
        convert(published, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"there is no config\.json"):
        convert(tmp_path / "nothing", tmp_path / "out")


def test_the_command_says_what_it_wrote(published: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["convert", str(published), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "parameters" in done.output
    again = CliRunner().invoke(cli, ["convert", str(published), "--out", str(tmp_path / "out")])
    assert isinstance(again.exception, ConfigError)
    assert "is there already" in str(again.exception)
