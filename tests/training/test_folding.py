"""`export --fold-calibration`: plain Transformers gives the probabilities that `Classifier` gave before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import training
from stream_classifier import Classifier
from stream_classifier.errors import ConfigError, TrainingError
from stream_classifier.model.calibration import MULTI_LABEL
from stream_classifier.model.directory import read
from stream_classifier.model.manifest import read_json_object
from tests.plugins.models import FAMILIES, TEXTS, make_directory
from tests.plugins.tables import make_telling_directory, write_honest_rows
from training.card import model_card
from training.cli import cli

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # importing DeBERTa

BY_LABEL: dict[str, Any] = {"method": "vector", "scale": [0.5, 1.5, 0.8], "bias": [0.4, -0.3, 0.0]}
TEMPERATURE: dict[str, Any] = {"method": "temperature", "scale": 0.37}


def by_plain_transformers(path: Path, *, multi_label: bool = False) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(path)
    options = {"return_tensors": "pt", "truncation": True, "max_length": 64}
    model = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32)
    with torch.inference_mode():
        logits_NL = torch.cat([model(**tokenizer(text, **options)).logits for text in TEXTS]).double()
    return (logits_NL.sigmoid() if multi_label else logits_NL.softmax(dim=1)).numpy()


def by_classifier(path: Path) -> Any:
    classifier = Classifier.load(path, device="cpu", dtype="float32", backend="torch")
    return read(path).calibration.probabilities(classifier.logits(TEXTS))


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_transformers_gives_the_calibrated_probabilities(family: str, tmp_path: Path) -> None:
    model = make_directory(tmp_path / "model", family=family, content={"calibration": BY_LABEL})
    result = training.export(model, tmp_path / "copy", fold_calibration=True)
    expected = by_classifier(model)
    assert np.abs(by_plain_transformers(model) - expected).max() > 0.05, "the calibration changes something"
    np.testing.assert_allclose(by_plain_transformers(tmp_path / "copy"), expected, atol=1e-5)
    np.testing.assert_allclose(by_classifier(tmp_path / "copy"), expected, atol=1e-5)
    assert result.max_difference < 1e-5
    changed = [
        name
        for name, tensor in load_file(tmp_path / "copy" / "model.safetensors").items()
        if not torch.equal(tensor, load_file(model / "model.safetensors")[name])
    ]
    assert len(changed) == 2, "weight and bias of the last layer, and nothing else"


def test_several_labels_a_text(tmp_path: Path) -> None:
    model = make_directory(tmp_path / "model", problem_type=MULTI_LABEL, content={"calibration": BY_LABEL})
    training.export(model, tmp_path / "copy", fold_calibration=True)
    np.testing.assert_allclose(
        by_plain_transformers(tmp_path / "copy", multi_label=True), by_classifier(model), atol=1e-5
    )


def test_thresholds_figures_and_golden_cases_belong_to_the_copy(tmp_path: Path) -> None:
    model = make_telling_directory(tmp_path / "model", content={})
    rows = write_honest_rows(tmp_path / "rows.csv", model, temperature=2.5)
    training.calibrate(model, rows, method="temperature")
    training.thresholds(model, rows, training.Goal(precision=0.6))
    training.write_report(model, rows)
    before = training.evaluate(model, rows, dtype="float32")
    training.export(model, tmp_path / "copy", fold_calibration=True)

    after = training.evaluate(tmp_path / "copy", rows, dtype="float32")
    assert after.coverage == pytest.approx(before.coverage, abs=2 / 600), "a threshold may be the score of a row"
    assert after.nll == pytest.approx(before.nll, abs=1e-6)
    content = read_json_object(tmp_path / "copy" / "classifier.json")
    calibration = content["calibration"]
    assert (calibration["scale"], calibration["bias"]) == (1.0, 0.0)
    assert calibration["method"] == "temperature, folded into the last layer"
    assert content["thresholds"] == read_json_object(model / "classifier.json")["thresholds"]
    assert "logits of these probabilities" in (tmp_path / "copy" / "README.md").read_text("utf-8")
    report, old = ((path / "report.html").read_text("utf-8") for path in (tmp_path / "copy", model))
    confidence = old.split("Mean confidence ")[1][:6]
    assert f"Mean confidence {confidence}" in report, "the measured logits are those of the copy"
    training.export(model, tmp_path / "copy", fold_calibration=True, overwrite=True)
    with pytest.raises(ConfigError, match="has no calibration to write into the weights; stream-training calibrate"):
        training.export(tmp_path / "copy", tmp_path / "again", fold_calibration=True)


def test_weights_in_bfloat16_stay_so(tmp_path: Path) -> None:
    model = make_directory(tmp_path / "model", content={"calibration": TEMPERATURE}, golden_texts=())
    weights = {name: tensor.bfloat16() for name, tensor in load_file(model / "model.safetensors").items()}
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    write(model, read_json_object(model / "classifier.json"))
    result = training.export(model, tmp_path / "copy", fold_calibration=True)
    assert {tensor.dtype for tensor in load_file(tmp_path / "copy" / "model.safetensors").values()} == {torch.bfloat16}
    assert result.max_difference < 1e-2


def write(model: Path, content: dict[str, Any]) -> None:
    from stream_classifier.model.publish import write_manifest

    write_manifest(model, {key: value for key, value in content.items() if key not in ("schema", "files")})


def test_forms_of_the_old_weights_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = make_directory(tmp_path / "model", content={"calibration": TEMPERATURE})
    content = read_json_object(model / "classifier.json")
    write(model, {**content, "backends": {"torch-int8": {"tolerance": 0.1}}})
    result = training.export(model, tmp_path / "copy", fold_calibration=True)
    assert result.forms_left_out == ("torch-int8",)
    assert "torch-int8 is left out" in caplog.text
    assert not read_json_object(tmp_path / "copy" / "classifier.json").get("backends")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({}, "has no calibration to write into the weights; stream-training calibrate"),
        ({"calibration": {"method": "none"}}, "has no calibration to write into the weights"),
        (
            {"calibration": TEMPERATURE, "thresholds": {"rejection": {"score": "energy", "threshold": 1.0}}},
            "by the probability first: stream-training thresholds .*model ROWS --keep-in-scope 0.95 .*max_prob",
        ),
    ],
)
def test_what_cannot_be_folded_is_refused(content: dict[str, Any], problem: str, tmp_path: Path) -> None:
    model = make_directory(tmp_path / "model", content=content)
    with pytest.raises(ConfigError, match=problem):
        training.export(model, tmp_path / "copy", fold_calibration=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_a_copy_that_answers_otherwise_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_directory(tmp_path / "model", content={"calibration": TEMPERATURE})
    monkeypatch.setattr("training.folding._fold", lambda *arguments, **named: None)
    with pytest.raises(TrainingError, match="the copy answers otherwise: a probability differs by 0"):
        training.export(model, tmp_path / "copy", fold_calibration=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_a_layer_that_is_not_among_the_weights_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even of a calibration too slight to show in the answers."""
    calibration = {"method": "vector", "scale": 1.0001, "bias": [0.0, 0.0001, 0.0]}
    model = make_directory(tmp_path / "model", content={"calibration": calibration})
    monkeypatch.setattr("training.folding._last_layer", lambda *_: "head")
    with pytest.raises(
        TrainingError, match=r"the weights have no head\.bias and no head\.weight to write the calibration"
    ):
        training.export(model, tmp_path / "copy", fold_calibration=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_it_is_not_folded_over_its_source(tmp_path: Path) -> None:
    model = make_directory(tmp_path / "model", content={"calibration": TEMPERATURE})
    before = (model / "model.safetensors").read_bytes()
    for out in (model, model / ".." / "model"):
        command = ["export", str(model), "--out", str(out), "--fold-calibration", "--overwrite"]
        with pytest.raises(ConfigError, match="is the model itself, whose raw weights would be lost; give another"):
            CliRunner().invoke(cli, command, catch_exceptions=False)
    assert (model / "model.safetensors").read_bytes() == before


def test_a_calibration_that_changes_nothing_is_none_whatever_its_shape(tmp_path: Path) -> None:
    same: dict[str, Any] = {"method": "vector", "scale": [1.0, 1.0, 1.0], "bias": [0.0, 0.0, 0.0]}
    model = make_directory(tmp_path / "model", content={"calibration": same})
    assert "logits of these probabilities" in model_card("m", labels=("a", "b", "c"), content={"calibration": same})
    with pytest.raises(ConfigError, match="has no calibration to write into the weights"):
        training.export(model, tmp_path / "copy", fold_calibration=True)


def test_the_command_line(tmp_path: Path) -> None:
    model = make_directory(tmp_path / "model", content={"calibration": TEMPERATURE})
    command = ["export", str(model), "--out", str(tmp_path / "copy")]
    with pytest.raises(ConfigError, match="give --fold-calibration"):
        CliRunner().invoke(cli, command, catch_exceptions=False)
    done = CliRunner().invoke(cli, [*command, "--fold-calibration", "--json"], catch_exceptions=False)
    figures = json.loads(done.stdout)
    assert figures["path"] == str(tmp_path / "copy")
    assert figures["method"] == "temperature"
    assert figures["digest"] == Classifier.load(tmp_path / "copy").digest
    with pytest.raises(ConfigError, match="is there already; give another one, or --overwrite"):
        CliRunner().invoke(cli, [*command, "--fold-calibration"], catch_exceptions=False)
    shutil.rmtree(tmp_path / "copy")
    shown = CliRunner().invoke(cli, [*command, "--fold-calibration"], catch_exceptions=False)
    assert "temperature is in the weights; probabilities differ by" in shown.output
