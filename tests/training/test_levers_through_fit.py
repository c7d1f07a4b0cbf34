"""Settings as `fine_tune` gets them, from a table to what the model sees and learns.

Each test fails when its setting is dropped on the way. What a lever does by itself is in test_levers.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import TrainerCallback

from tests.plugins.models import make_directory
from tests.plugins.tables import random_texts, write_rows
from tests.training.loops import settings_of, weights_of
from training.data import Columns
from training.encoder import Encoder, quiet_transformers, starting_encoder
from training.fine_tuning import fine_tune
from training.history import TrainingHistory
from training.interrupts import Interrupts
from training.layers import depths_of
from training.parts import Parts, read_parts
from training.settings import FitSettings

COUNTS = {"film": 24, "match": 6, "phone": 2}
Expected = Callable[[NDArray[np.float64], NDArray[np.intp]], float]


@pytest.fixture(scope="module", params=["bert", "distilbert"])
def either(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose tail can be trained alone, and one that is frozen layer by layer."""
    return make_directory(tmp_path_factory.mktemp("either") / request.param, family=request.param)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_directory(tmp_path_factory.mktemp("base") / "tiny")


def settings_for(base: Path, **changes: Any) -> FitSettings:
    return settings_of(base=str(base), device="cpu", **changes)


class Batches(TrainerCallback):
    """What the module is given in the steps of training, and its weights before the first."""

    def __init__(self) -> None:
        self.second_ids: Counter[int] = Counter()
        self.num_padded = 0
        self.start: dict[str, torch.Tensor] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.start = weights_of(kwargs["model"])
        kwargs["model"].register_forward_pre_hook(self._look, with_kwargs=True)

    def _look(self, module: torch.nn.Module, _: Any, inputs: dict[str, torch.Tensor]) -> None:
        if module.training:
            real_BS = inputs["real_BS"] if "real_BS" in inputs else inputs["attention_mask"]
            self.num_padded += int((real_BS == 0).sum())
            if "input_ids" in inputs:
                self.second_ids.update(inputs["input_ids"][:, 1].tolist())


def started(folder: Path, settings: FitSettings, counts: Mapping[str, int]) -> tuple[Encoder, Parts]:
    """What a fit begins with, on so many texts of each label, whose first word it is."""

    def table(name: str, counts: Mapping[str, int], seed: int) -> Path:
        labels = [label for label, count in counts.items() for _ in range(count)]
        texts = random_texts(len(labels), seed=seed)
        firsts = [f"{label.replace('|', ' ')} {text}" for label, text in zip(labels, texts, strict=True)]
        return write_rows(folder / name, firsts, labels)

    parts = read_parts(
        table("train.csv", counts, 0), settings=settings, validation=table("valid.csv", dict.fromkeys(counts, 2), 1)
    )
    with quiet_transformers():
        return starting_encoder(settings, parts.labels, parts.problem_type), parts


def tune(
    encoder: Encoder, parts: Parts, settings: FitSettings, folder: Path, *callbacks: TrainerCallback
) -> TrainingHistory:
    with quiet_transformers():
        return fine_tune(encoder, parts, settings, work_dir=folder, interrupts=Interrupts(), callbacks=callbacks)


def seen(folder: Path, settings: FitSettings, counts: Mapping[str, int]) -> tuple[Batches, Encoder]:
    """What one epoch sees."""
    batches = Batches()
    folder.mkdir()
    encoder, parts = started(folder, settings, counts)
    tune(encoder, parts, settings, folder, batches)
    return batches, encoder


def logits_of(encoder: Encoder, texts: list[str]) -> NDArray[np.float64]:
    encoder.model.eval()
    with torch.no_grad():
        tokens = encoder.tokenizer(texts, padding=True, return_tensors="pt")
        logits_NL = encoder.model(tokens["input_ids"], attention_mask=tokens["attention_mask"]).logits
    return logits_NL.double().numpy()


def own(log_p_NL: NDArray[np.float64], truth_N: NDArray[np.intp]) -> NDArray[np.float64]:
    return log_p_NL[np.arange(len(truth_N)), truth_N]


def plain(log_p_NL: NDArray[np.float64], truth_N: NDArray[np.intp]) -> float:
    return float(-own(log_p_NL, truth_N).mean())


def smoothed(log_p_NL: NDArray[np.float64], truth_N: NDArray[np.intp]) -> float:
    return float((-0.7 * own(log_p_NL, truth_N) - 0.3 * log_p_NL.mean(axis=1)).mean())


def focal(log_p_NL: NDArray[np.float64], truth_N: NDArray[np.intp]) -> float:
    log_p_N = own(log_p_NL, truth_N)
    return float(((1 - np.exp(log_p_N)) ** 2 * -log_p_N).mean())


def weighted(*weights: float) -> Expected:
    return lambda log_p_NL, truth_N: float(
        np.average(-own(log_p_NL, truth_N), weights=np.array(weights, dtype=np.float64)[truth_N])
    )


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, plain),
        ({"label_smoothing": 0.3}, smoothed),
        ({"focal_gamma": 2.0}, focal),
        ({"class_weights": "balanced"}, weighted(32 / (3 * 24), 32 / (3 * 6), 32 / (3 * 2))),
        ({"class_weights": {"match": 5.0}}, weighted(1, 5, 1)),
    ],
    ids=["plain", "label_smoothing", "focal_gamma", "balanced", "class_weights"],
)
def test_the_loss_of_the_first_step_is_the_one_asked_for(
    base: Path, tmp_path: Path, change: dict[str, Any], expected: Expected, frozen: bool
) -> None:
    settings = settings_for(base, batch_size=32, freeze_encoder=frozen, **change)
    encoder, parts = started(tmp_path, settings, COUNTS)
    logits_NL = logits_of(encoder, parts.train.texts)
    log_p_NL = logits_NL - np.log(np.exp(logits_NL).sum(axis=1, keepdims=True))
    truth_N = np.array(parts.indices(parts.train))
    history = tune(encoder, parts, settings, tmp_path)
    assert history.epochs[0].steps == 1
    assert history.epochs[0].train_loss == pytest.approx(expected(log_p_NL, truth_N), rel=1e-4)
    assert not change or expected(log_p_NL, truth_N) != pytest.approx(plain(log_p_NL, truth_N), rel=0.01)


def test_several_labels_a_text_are_smoothed_focused_and_weighted_too(base: Path, tmp_path: Path) -> None:
    columns = Columns(label="label", multi_label=True)
    settings = settings_for(
        base, batch_size=32, columns=columns, label_smoothing=0.2, focal_gamma=2.0, class_weights="balanced"
    )
    encoder, parts = started(tmp_path, settings, {"film": 20, "film|match": 8, "phone": 4})
    p_NL = 1 / (1 + np.exp(-logits_of(encoder, parts.train.texts)))
    true_NL = parts.targets(parts.train) > 0.5
    targets_NL = np.where(true_NL, 0.9, 0.1)
    losses_NL = -targets_NL * np.log(p_NL) - (1 - targets_NL) * np.log(1 - p_NL)
    losses_NL *= np.where(true_NL, 1 - p_NL, p_NL) ** 2
    losses_NL *= np.where(true_NL, [4 / 28, 24 / 8, 28 / 4], 1)
    assert tune(encoder, parts, settings, tmp_path).epochs[0].train_loss == pytest.approx(losses_NL.mean(), rel=1e-4)


def test_a_label_that_every_text_has_is_learned_with_balanced_weights_too(base: Path, tmp_path: Path) -> None:
    settings = settings_for(
        base, batch_size=32, columns=Columns(label="label", multi_label=True), class_weights="balanced", epochs=5
    )
    encoder, parts = started(tmp_path, settings, {"film": 20, "film|match": 12})
    before_N = logits_of(encoder, parts.train.texts)[:, 0]
    tune(encoder, parts, settings, tmp_path)
    assert (logits_of(encoder, parts.train.texts)[:, 0] > before_N + 0.05).all()


@pytest.mark.parametrize(("lever", "value"), [("class_weights", "balanced"), ("balanced_sampling", True)])
def test_rare_labels_count_as_much_in_the_probe_that_the_fit_begins_with(
    base: Path, tmp_path: Path, lever: str, value: Any
) -> None:
    lead = {}
    for name, change in (("plain", {}), ("even", {lever: value})):
        settings = settings_for(base, linear_probe=True, **change)
        batches, _ = seen(tmp_path / name, settings, {"film": 40, "match": 4})
        lead[name] = float(batches.start["classifier.bias"] @ torch.tensor([1.0, -1.0]))
    assert lead["plain"] > lead["even"] + 0.01, "the frequent label is no longer the one to bet on"


def test_freezing_leaves_all_below_the_last_layer_as_it_was(either: Path, tmp_path: Path) -> None:
    for frozen, expected in ((False, {0, 1, 2, 3}), (True, {2, 3})):
        settings = settings_for(either, freeze_encoder=frozen)
        folder = tmp_path / str(frozen)
        folder.mkdir()
        encoder, parts = started(folder, settings, COUNTS)
        before, depths = weights_of(encoder.model), depths_of(encoder.model)
        tune(encoder, parts, settings, folder)
        moved = {
            depths.of(parameter)
            for name, parameter in encoder.model.named_parameters()
            if not torch.equal(before[name], parameter)
        }
        assert moved == expected


@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_the_dropout_of_the_head_alone_changes_what_is_learned(family: str, tmp_path: Path) -> None:
    base = make_directory(tmp_path / family, family=family)
    losses = {}
    for share in (None, 0.0, 0.9):
        settings = settings_for(base, classifier_dropout=share)
        encoder, parts = started(tmp_path, settings, COUNTS)
        folder = tmp_path / str(share)
        folder.mkdir()
        losses[share] = tune(encoder, parts, settings, folder).epochs[0].train_loss
    assert losses[None] == losses[0.0], "as --dropout, which is 0 here"
    assert losses[0.9] != pytest.approx(losses[0.0], rel=1e-3)


def test_balanced_sampling_draws_every_label_equally_often(base: Path, tmp_path: Path) -> None:
    counts = {"film": 180, "match": 20}
    drawn = {}
    for balanced in (False, True):
        settings = settings_for(base, batch_size=32, balanced_sampling=balanced)
        batches, encoder = seen(tmp_path / str(balanced), settings, counts)
        ids = encoder.tokenizer.convert_tokens_to_ids(list(counts))
        drawn[balanced] = [batches.second_ids[i] for i in ids]
    assert drawn[False] == [180, 20]
    assert sum(drawn[True]) == 200
    assert drawn[True] == pytest.approx([100, 100], abs=30), "four standard deviations"


@pytest.mark.parametrize("frozen", [False, True])
def test_batches_of_similar_length_hold_less_padding(base: Path, tmp_path: Path, frozen: bool) -> None:
    padded = {}
    for grouped in (False, True):
        settings = settings_for(base, batch_size=4, freeze_encoder=frozen, group_by_length=grouped)
        batches, _ = seen(tmp_path / str(grouped), settings, {"film": 64, "match": 64})
        padded[grouped] = batches.num_padded
    assert 0 < padded[True] < padded[False] / 2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("frozen", [False, True])
def test_layers_compute_in_the_dtype_asked_for_in_every_part_of_a_fit(
    base: Path, tmp_path: Path, dtype: str, frozen: bool
) -> None:
    settings = settings_for(base, dtype=dtype, freeze_encoder=frozen, linear_probe=not frozen, contrastive_steps=1)
    encoder, parts = started(tmp_path, settings, COUNTS)
    layer = encoder.model.bert.encoder.layer
    lowest: set[torch.dtype] = set()
    last: set[torch.dtype] = set()
    layer[0].attention.self.query.register_forward_hook(lambda *call: lowest.add(call[2].dtype))
    layer[1].intermediate.dense.register_forward_hook(lambda *call: last.add(call[2].dtype))
    tune(encoder, parts, settings, tmp_path)
    asked_for = getattr(torch, dtype)
    assert lowest == {asked_for}
    assert last == ({asked_for, torch.float32} if frozen else {asked_for}), "a tail by itself is not worth the copies"
