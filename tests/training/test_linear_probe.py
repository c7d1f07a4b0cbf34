"""The head that is fitted first: to what the base says, as scikit-learn would, and nothing below it moves."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from tests.plugins.models import FAMILIES, make_directory
from tests.training.loops import encoder_of, rows_of, run, settings_of
from training.classifier_head import classifier_of
from training.encoder import Encoder
from training.linear_probe import MAX_TEXTS, fit_head, probe_rows
from training.rows import Rows, pad_hidden, pad_tokens
from training.sampling import balanced_probabilities
from training.settings import FitSettings
from training.tail import Tail, has_tail


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_directory(tmp_path_factory.mktemp("probe") / "tiny", labels=("x", "y"))


def fitted(
    base: Path, rows: Rows, *, num_labels: int = 2, label_weights: torch.Tensor | None = None
) -> tuple[Encoder, dict[str, torch.Tensor]]:
    """An encoder whose head has been fitted, and its weights before."""
    encoder = encoder_of(base, settings_of(), num_labels=num_labels)
    before = {name: tensor.clone() for name, tensor in encoder.model.state_dict().items()}
    classifier = classifier_of(encoder.model, num_labels)
    assert classifier is not None
    fit_head(
        encoder.model,
        classifier,
        rows,
        collate=functools.partial(pad_tokens, pad_id=0),
        label_weights=label_weights,
        batch_size=8,
        dtype=torch.float32,
        advance=lambda number: None,
    )
    return encoder, before


def logits(encoder: Encoder, rows: Rows) -> np.ndarray[Any, np.dtype[np.float32]]:
    batch = pad_tokens(rows, pad_id=0)
    del batch["labels"]
    with torch.inference_mode():
        found: np.ndarray[Any, np.dtype[np.float32]] = encoder.model.eval()(**batch).logits.numpy()
    return found


def labels_of(rows: Rows) -> np.ndarray[Any, np.dtype[Any]]:
    return np.stack([row["label"] for row in rows])


def pooled(encoder: Encoder, rows: Rows) -> np.ndarray[Any, np.dtype[np.float32]]:
    batch = pad_tokens(rows, pad_id=0)
    with torch.inference_mode():
        output = encoder.model.eval().base_model(batch["input_ids"], attention_mask=batch["attention_mask"])
    return np.asarray(output.pooler_output.numpy())


@pytest.mark.parametrize("num_labels", [2, 3])
def test_the_head_is_the_logistic_regression_on_what_the_base_says(base: Path, num_labels: int) -> None:
    rows = rows_of(120, num_labels=num_labels)

    encoder, before = fitted(base, rows, num_labels=num_labels)

    features = pooled(encoder, rows)
    features = features / features.std()
    expected = LogisticRegression(C=0.1, max_iter=1000).fit(features, labels_of(rows)).predict_proba(features)
    found = torch.from_numpy(20 * logits(encoder, rows)).softmax(dim=1).numpy()
    np.testing.assert_allclose(found, expected, atol=2e-3)
    after = encoder.model.state_dict()
    assert [name for name in before if not torch.equal(before[name], after[name])] == [
        "classifier.weight",
        "classifier.bias",
    ]


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # of transformers' DeBERTa
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("is_frozen", [False, True])
def test_the_head_of_every_family_is_known(tmp_path: Path, family: str, is_frozen: bool) -> None:
    model = encoder_of(make_directory(tmp_path / family, family=family, labels=("x", "y")), settings_of()).model
    if is_frozen and not has_tail(model):
        pytest.skip("its last layer is not run alone")
    rows, module, collate = rows_of(40), model, functools.partial(pad_tokens, pad_id=model.config.pad_token_id)
    if is_frozen:
        width = model.config.hidden_size
        rows = [{"hidden": torch.randn(len(row["input_ids"]), width), "label": row["label"]} for row in rows]
        module, collate = Tail(model), pad_hidden
    classifier = classifier_of(module, 2)
    assert classifier is not None
    before = classifier.weight.clone()

    assert fit_head(
        module,
        classifier,
        rows,
        collate=collate,
        batch_size=8,
        label_weights=None,
        dtype=torch.bfloat16,
        advance=lambda number: None,
    )

    assert not torch.equal(classifier.weight, before)


def test_with_several_labels_a_text_each_has_a_regression_and_one_that_all_have_stays_as_it_was_drawn(
    base: Path,
) -> None:
    rows = rows_of(120, num_labels=3, multi_label=True)
    for row in rows:
        row["label"][2] = 1.0

    encoder, before = fitted(base, rows, num_labels=3)

    features = pooled(encoder, rows)
    features = features / features.std()
    found = torch.from_numpy(20 * logits(encoder, rows)).sigmoid().numpy()
    for label in (0, 1):
        regression = LogisticRegression(C=0.1, max_iter=1000).fit(features, labels_of(rows)[:, label])
        np.testing.assert_allclose(found[:, label], regression.predict_proba(features)[:, 1], atol=2e-3)
    after = encoder.model.classifier.weight.detach()
    assert torch.equal(after[2], before["classifier.weight"][2])
    assert not torch.equal(after[0], before["classifier.weight"][0])


def test_a_label_that_no_row_has_stays_as_it_was_drawn(base: Path) -> None:
    encoder, before = fitted(base, rows_of(60), num_labels=3)

    assert torch.equal(encoder.model.classifier.weight[2], before["classifier.weight"][2])


def test_where_all_rows_have_one_label_the_head_stays_as_it_was_drawn(base: Path) -> None:
    rows = [row for row in rows_of(60) if row["label"] == 1]

    encoder, before = fitted(base, rows)

    assert torch.equal(encoder.model.classifier.weight, before["classifier.weight"])


def test_labels_count_by_their_weights(base: Path) -> None:
    rows = rows_of(60)
    for i, row in enumerate(rows):  # nothing to learn but how many there are
        row["label"] = np.asarray(int(i % 6 == 0))
        row["input_ids"] = rows[0]["input_ids"]

    alike = 20 * logits(fitted(base, rows)[0], rows)[0]
    weighted = 20 * logits(fitted(base, rows, label_weights=torch.tensor([1.0, 5.0]))[0], rows)[0]

    assert alike[0] - alike[1] == pytest.approx(np.log(5), abs=0.05)
    assert weighted[0] - weighted[1] == pytest.approx(0, abs=0.05)


def test_the_rows_of_a_probe_are_not_too_many_and_drawn_as_those_of_an_epoch() -> None:
    rows = [{"label": np.asarray(label)} for label in [0, 1, 1]]
    many = [{"label": np.asarray(i % 2)} for i in range(MAX_TEXTS + 10)]
    rare = [{"label": np.asarray(int(i < 10))} for i in range(1000)]

    assert probe_rows(rows, seed=0) == rows
    drawn = probe_rows(many, seed=0)
    assert len({id(row) for row in drawn}) == MAX_TEXTS
    assert drawn == probe_rows(many, seed=0) != probe_rows(many, seed=1)
    balanced = probe_rows(rare, seed=0, probabilities=balanced_probabilities(labels_of(rare)))
    assert 400 < labels_of(balanced).sum() < 600


def test_training_goes_on_from_the_fitted_head(base: Path, tmp_path: Path) -> None:
    """With a learning rate that moves nothing, what comes out is the probe."""
    rows = rows_of(120)
    expected = fitted(base, rows)[0].model.state_dict()
    settings = settings_of(linear_probe=True, learning_rate=1e-12, ema_decay=0.0)
    module = encoder_of(base, settings).model

    run(module, rows, settings, tmp_path)

    torch.testing.assert_close(module.state_dict(), expected, atol=1e-5, rtol=1e-4)


class PoolsLogits(nn.Module):
    """As EuroBERT: the classifier reads every token."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(64, 8)
        self.classifier = nn.Linear(8, 2)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.classifier(self.embedding(input_ids)).mean(dim=1)}


class LooksLikeIt(PoolsLogits):
    """A layer within happens to be as wide as the labels are many, and the head is no linear layer."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.classifier(self.embedding(input_ids).mean(dim=1)).tanh()}


class NoNumber(PoolsLogits):
    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.classifier(torch.inf * self.embedding(input_ids).mean(dim=1))}


@pytest.mark.parametrize("kind", [PoolsLogits, LooksLikeIt, NoNumber])
def test_a_head_that_cannot_be_probed_stays_as_it_was_drawn(kind: type[PoolsLogits]) -> None:
    module = kind()
    before = module.classifier.weight.clone()
    sizes: list[int] = []

    is_fitted = fit_head(
        module,
        module.classifier,
        rows_of(20),
        collate=functools.partial(pad_tokens, pad_id=0),
        batch_size=8,
        label_weights=None,
        dtype=torch.float32,
        advance=sizes.append,
    )

    assert not is_fitted
    assert torch.equal(module.classifier.weight, before)
    assert sizes == ([8, 8, 4] if kind is NoNumber else [])


def test_it_is_the_default_unless_the_encoder_is_frozen_or_the_model_divided() -> None:
    assert FitSettings().resolved().linear_probe
    assert FitSettings(freeze_encoder=True, linear_probe=True).probes
    for settings in (FitSettings(fsdp=True), FitSettings(freeze_encoder=True), FitSettings(linear_probe=False)):
        assert not settings.probes


def test_a_head_that_is_not_known_is_trained_with_the_rest(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(linear_probe=True)
    module = encoder_of(base, settings).model
    monkeypatch.setattr("training.loop.classifier_of", lambda module, num_labels: None)

    with caplog.at_level(logging.INFO, "training"):
        run(module, rows_of(40), settings, tmp_path)

    assert "trained with the rest" in caplog.text
    assert classifier_of(nn.Sequential(nn.Linear(4, 3)), 2) is None
