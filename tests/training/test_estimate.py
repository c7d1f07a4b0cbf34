"""The estimate of the time a training takes: in proportion to the work, and without a trace in the model."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from training import estimate
from training.estimate import training_seconds
from training.rows import pad_tokens


@pytest.fixture
def model(tiny_bert_dir: Path) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(tiny_bert_dir)


def rows(number: int) -> list[dict[str, Any]]:
    return [{"input_ids": np.arange(5, 15 + i % 7, dtype=np.int32), "label": i % 3} for i in range(number)]


def seconds(model: Any, number: int, epochs: int) -> float:
    return training_seconds(
        model,
        rows(number),
        num_validation_tokens=0,
        collate=functools.partial(pad_tokens, pad_id=0),
        batch_size=8,
        epochs=epochs,
        dtype=torch.float32,
    )


def test_weights_gradients_mode_and_random_state_stay(model: Any) -> None:
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    assert seconds(model, 20, 1) > 0
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.training
    assert torch.equal(torch.random.get_rng_state(), state)


def test_it_grows_with_rows_and_epochs(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []

    def step(model: Any, batch: dict[str, torch.Tensor], device: torch.device, dtype: torch.dtype) -> float:
        measured.append(len(batch["input_ids"]))
        return 1.0

    monkeypatch.setattr(estimate, "_step", step)
    assert seconds(model, 70, 2) == pytest.approx(2 * 70 / 8, rel=0.05)
    assert measured == [2, 8]
