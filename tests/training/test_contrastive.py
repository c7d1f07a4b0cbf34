"""Contrastive learning: the loss by hand, and texts of one label that come together in what the classifier reads."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import training
from stream_classifier.errors import ConfigError
from tests.plugins.models import FAMILIES, make_directory
from tests.training.loops import encoder_of, rows_of, settings_of, weights_of
from training.contrastive import contrast, contrastive_loss
from training.rows import Rows, pad_tokens

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # importing DeBERTa


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_directory(tmp_path_factory.mktemp("contrast") / "tiny", labels=("x", "y"))


def run(module: Any, rows: Rows, *, num_steps: int, seed: int = 0) -> int:
    steps: list[int] = []
    collate = functools.partial(pad_tokens, pad_id=0)
    contrast(module, rows, num_steps=num_steps, collate=collate, seed=seed, dtype=torch.float32, advance=steps.append)
    return sum(steps)


def test_the_loss_is_that_of_the_paper() -> None:
    features = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0]])  # cosines: 1 between the first two, 0 to the third
    near = -math.log(math.e / (math.e + 1))  # each of the two: the other against the third
    assert contrastive_loss(features, torch.tensor([0, 0, 1]), temperature=1.0) == pytest.approx(near)
    second, third = math.log(math.e + 1), math.log(2)  # the third's two others are as far; the second's are not
    assert contrastive_loss(features, torch.tensor([0, 1, 1]), temperature=1.0) == pytest.approx((second + third) / 2)


def test_no_two_texts_of_one_label_are_no_loss_and_no_nan() -> None:
    features = torch.randn(3, 4, requires_grad=True)
    loss = contrastive_loss(features, torch.tensor([0, 1, 2]))
    loss.backward()
    assert loss == 0
    assert torch.isfinite(features.grad).all()


def test_texts_of_one_label_come_together_where_the_classifier_reads(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.contrastive._LEARNING_RATE", 3e-3)  # random weights have a long way to go
    module, rows = encoder_of(base, settings_of()).model, rows_of(16)
    batch = pad_tokens(rows, pad_id=0)
    labels = batch.pop("labels")

    def margin() -> float:
        read: list[torch.Tensor] = []
        hook = module.classifier.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
        module.eval()
        with torch.no_grad():
            module(**batch)
        hook.remove()
        unit = nn.functional.normalize(read[0], dim=-1)
        cosines, same = unit @ unit.T, labels[:, None] == labels
        return float(cosines[same].mean() - cosines[~same].mean())

    before, weights = margin(), weights_of(module)
    assert run(module, rows, num_steps=30) == 30
    assert margin() > before + 0.3
    assert torch.equal(module.classifier.weight, weights["classifier.weight"]), "the classifier itself is not trained"
    assert not torch.equal(module.bert.pooler.dense.weight, weights["bert.pooler.dense.weight"])


def test_equal_seeds_contrast_equally(base: Path) -> None:
    weights = []
    for seed in (1, 1, 2):
        module = encoder_of(base, settings_of()).model
        torch.manual_seed(0)
        run(module, rows_of(8), num_steps=3, seed=seed)
        weights.append(module.bert.pooler.dense.weight.detach().clone())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_classifier_that_is_found(family: str, tmp_path: Path) -> None:
    module = encoder_of(make_directory(tmp_path / family, family=family, labels=("x", "y")), settings_of()).model
    before = weights_of(module)
    run(module, rows_of(6), num_steps=1)
    assert any(not torch.equal(before[name], weight) for name, weight in weights_of(module).items())


def test_a_label_with_one_text_meets_itself_under_another_dropout(base: Path) -> None:
    module = encoder_of(base, settings_of(dropout=0.2)).model
    rows = [row for row in rows_of(40) if row["label"] == 0][:3] + [row for row in rows_of(40) if row["label"] == 1][:1]
    assert run(module, rows, num_steps=2) == 2


def test_a_fit_with_few_labels_contrasts_first(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("training.contrastive._LEARNING_RATE", 3e-3)
    caplog.set_level("INFO", "training")
    path = tmp_path / "rows.csv"
    lines = [
        f"{word} {n},{label}" for n in range(8) for word, label in (("match goal", "sport"), ("bank loan", "money"))
    ]
    path.write_text("text,label\n" + "\n".join(lines) + "\n")
    settings = training.preset("few-shot", base=str(base), learning_rate=3e-3, max_length=16, golden_texts=())
    result = training.fit(path, tmp_path / "model", settings=settings, validation=path)
    assert result.evaluation.accuracy == 1.0
    assert "contrasting" in caplog.text


def test_several_labels_a_text_are_refused(base: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,labels\n" + "a text,a|b\nb text,b\n" * 20)
    settings = training.FitSettings(base=str(base), contrastive_steps=5, max_length=16)
    with pytest.raises(ConfigError, match="needs one label a text"):
        training.fit(path, tmp_path / "model", settings=settings, validation=path)
