"""An adapted base guesses better, keeps its pooler, and is a base to fit from; texts are found and refused by line."""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

import training
from stream_classifier.errors import ConfigError
from tests.plugins.commands import Commands
from tests.plugins.models import make_directory
from tests.training.test_checkpoints import limited_files
from training import adaptation
from training.cli import cli
from training.encoder import load_encoder, quiet_transformers
from training.texts import read_texts


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_directory(tmp_path_factory.mktemp("base") / "tiny", labels=("x", "y"))


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences in which every word tells the next."""
    draw, path = random.Random(0), tmp_path_factory.mktemp("texts") / "texts.txt"
    words = ["match", "ended", "two", "to", "one", "shares", "fell", "after", "bank", "warning", "rose", "again"]
    starts = [draw.randrange(len(words)) for _ in range(300)]
    lines = [" ".join(words[(start + i) % len(words)] for i in range(5 + n % 8)) for n, start in enumerate(starts)]
    path.write_text("\n".join(lines) + "\n\n")
    return path


@pytest.fixture(scope="module")
def adapted(base: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> training.Adaptation:
    settings = training.AdaptSettings(epochs=30, learning_rate=5e-3, max_length=32)
    return training.adapt(str(base), texts, tmp_path_factory.mktemp("out") / "adapted", settings=settings)


def test_it_guesses_masked_words_better(adapted: training.Adaptation) -> None:
    assert adapted.loss_after < adapted.loss_before - 1
    assert adapted.num_texts < 300, "equal texts count once"


def test_it_is_a_base_with_the_pooler_it_had_and_a_head_for_masked_words(
    base: Path, adapted: training.Adaptation
) -> None:
    from transformers import AutoModelForMaskedLM

    before, after = load_file(base / "model.safetensors"), load_file(adapted.path / "model.safetensors")
    assert torch.equal(before["bert.pooler.dense.weight"], after["bert.pooler.dense.weight"])
    name = "bert.encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(before[name], after[name])
    with quiet_transformers():
        encoder = load_encoder(str(adapted.path), ["a", "b"])
        _, loading = AutoModelForMaskedLM.from_pretrained(adapted.path, output_loading_info=True)
    assert torch.equal(encoder.model.bert.pooler.dense.weight, before["bert.pooler.dense.weight"])
    assert torch.equal(encoder.model.bert.encoder.layer[0].attention.self.query.weight, after[name])
    assert not loading["missing_keys"]


def test_it_says_what_it_was_made_of_and_leaves_no_work(adapted: training.Adaptation) -> None:
    assert "`tiny`, adapted to" in (adapted.path / "README.md").read_text()
    assert [path.name for path in adapted.path.parent.iterdir()] == ["adapted"]
    assert not list(adapted.path.glob("*.bin"))


def test_the_command_adapts_a_table_and_prints_json(base: Path, tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    table.write_text("title,body\n" + "".join(f"match {n},the bank fell {n}\n" for n in range(20)))
    arguments = ["adapt", str(base), str(table), "--out", str(tmp_path / "out"), "--text-column", "title,body"]
    done = CliRunner().invoke(cli, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.splitlines()[-1])["num_texts"] == 40


def test_texts_are_those_of_a_file_once_and_in_order(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("two\n\none\ntwo\n")
    (tmp_path / "rows.jsonl").write_text('{"text": "naïve 🙂"}\n{"text": 3.5}\n{"text": ""}\n')
    assert read_texts(tmp_path / "texts.txt") == ["two", "one"]
    assert read_texts(tmp_path / "rows.jsonl") == ["naïve 🙂"]


@pytest.mark.parametrize(("name", "content"), [("a.txt", b"\n\n"), ("a.txt", b"\xff\xfe"), ("a.csv", b"label\nx\n")])
def test_files_without_texts_are_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=name):
        read_texts(tmp_path / name)
    with pytest.raises(ConfigError, match=r"gone\.csv"):
        read_texts(tmp_path / "gone.csv")


def test_a_base_without_a_mask_token_is_refused(base: Path, texts: Path, tmp_path: Path) -> None:
    copy = tmp_path / "maskless"
    copy.mkdir()
    for path in base.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    config = json.loads((copy / "tokenizer_config.json").read_text())
    config.pop("mask_token")
    (copy / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="no mask token"):
        training.adapt(str(copy), texts, tmp_path / "out")
    assert not (tmp_path / "out.work").exists()


def limited_when_the_base_is_saved(limit: int) -> None:
    save = adaptation._save

    def save_with_little_room(*arguments: Any) -> None:
        limited_files(limit)
        save(*arguments)

    adaptation._save = save_with_little_room  # in a process of its own


def test_a_full_disk_is_a_line_that_says_how_to_go_on(base: Path, texts: Path, tmp_path: Path) -> None:
    commands = Commands(tmp_path / "log")
    arguments = ["adapt", str(base), str(texts), f"--out={tmp_path / 'out'}", "--epochs=1", "--device=cpu"]
    room = (base / "model.safetensors").stat().st_size
    for limit, problem in (
        (partial(limited_files, room // 2), "the checkpoint of step "),
        (partial(limited_files, room + 20_000), "the checkpoint of step "),
        (partial(limited_when_the_base_is_saved, room // 2), "the base cannot be saved"),
    ):
        done = commands.run(arguments, limit)
        assert done.code == 1
        assert problem in done.last_line
        assert "free some space, and give the same command with --resume" in done.last_line
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "out").exists()
    assert commands.run([*arguments, "--resume"]).code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "out"]
