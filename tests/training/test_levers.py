"""Every lever moves what it says it moves: each test fails when its setting is ignored."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import TrainerCallback

from stream_classifier.errors import ConfigError, TrainingError
from stream_classifier.model.calibration import MULTI_LABEL, SINGLE_LABEL
from tests.plugins.models import FAMILIES, make_directory
from tests.training.loops import encoder_of, optimizer_state, rows_of, run, settings_of, weights_of
from training.checkpoints import is_finished
from training.history import TrainingHistory
from training.layers import depths_of, freeze_below, unfreeze_for_epoch
from training.losses import TextLoss

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # importing DeBERTa


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_directory(tmp_path_factory.mktemp("levers") / "tiny", labels=("x", "y"))


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("families")
    return {family: make_directory(folder / family, family=family, labels=("x", "y")) for family in FAMILIES}


def first_gradient_norm(work_dir: Path) -> float:
    """Of the gradient that AdamW saw in its only step: its first mean is a tenth of it."""
    means = [state["exp_avg"] for state in optimizer_state(work_dir)["state"].values()]
    return 10 * float(torch.stack([mean.norm() for mean in means]).norm())


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize(("limit", "clipped"), [(0.01, True), (0.0, False), (1e6, False)])
def test_clipping_bounds_the_gradient_the_optimizer_sees(
    base: Path, tmp_path: Path, limit: float, clipped: bool
) -> None:
    settings = settings_of(max_grad_norm=limit)
    history = run(encoder_of(base, settings).model, rows_of(8), settings, tmp_path)
    norm = history.epochs[0].grad_norm
    assert norm > 0.05, "the history has the norm before clipping"
    assert first_gradient_norm(tmp_path) == pytest.approx(limit if clipped else norm, rel=1e-3)


@pytest.mark.parametrize("loss", [{}, {"class_weights": torch.tensor([1.0, 5.0])}, {"focal_gamma": 2.0}])
def test_accumulation_learns_as_from_the_big_batch(base: Path, tmp_path: Path, loss: dict[str, Any]) -> None:
    rows, weights, steps = rows_of(36), [], []
    for batch_size, accumulation in ((16, 1), (4, 4)):
        settings = settings_of(batch_size=batch_size, gradient_accumulation_steps=accumulation, max_grad_norm=0.0)
        module = encoder_of(base, settings).model
        text_loss = TextLoss(SINGLE_LABEL, **loss)
        history = run(module, rows, settings, tmp_path / str(batch_size), loss=text_loss)
        weights.append(weights_of(module))
        steps.append(history.epochs[0].steps)
    assert steps == [3, 3], "36 rows, 16 a step"
    for name in weights[0]:
        if name.endswith("key.bias"):
            continue  # adds the same to all scores of a query: its gradient is rounding alone, and Adam magnifies it
        torch.testing.assert_close(weights[0][name], weights[1][name], atol=2e-5, rtol=1e-4)


def test_accumulation_changes_the_number_of_steps(base: Path, tmp_path: Path) -> None:
    settings = settings_of(batch_size=4, gradient_accumulation_steps=3)
    assert run(encoder_of(base, settings).model, rows_of(40), settings, tmp_path).epochs[0].steps == 4


def test_the_moving_average_is_measured_and_kept_while_training_goes_on_from_the_last_step(
    base: Path, tmp_path: Path
) -> None:
    seen: dict[float, list[dict[str, torch.Tensor]]] = {0.0: [], 0.5: []}

    class Steps(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen[decay].append(weights_of(kwargs["model"]))

    histories = {}
    for decay in seen:
        settings = settings_of(epochs=2, patience=9, metric="loss", ema_decay=decay)
        module = encoder_of(base, settings).model
        mean = weights_of(module)
        histories[decay] = run(module, rows_of(40), settings, tmp_path / str(decay), callbacks=[Steps()])
    assert len(seen[0.5]) == 10
    assert not moved(seen[0.0][-1], seen[0.5][-1]), "the optimizer knows nothing of the mean"

    for step in range(1, 5 * histories[0.5].best_epoch + 1):
        share = 1 - min(0.5, (1 + step) / (10 + step))
        mean = {name: old + share * (seen[0.5][step - 1][name] - old) for name, old in mean.items()}
    torch.testing.assert_close(weights_of(module), mean)
    losses = {decay: [epoch.validation_loss for epoch in history.epochs] for decay, history in histories.items()}
    assert losses[0.0] != losses[0.5]


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_an_epoch_that_is_said_to_be_the_last_is_kept_whatever_the_validation_rows_say(
    base: Path, tmp_path: Path, decay: float
) -> None:
    settings = settings_of(epochs=4, patience=1, metric="accuracy", ema_decay=decay)
    swapped = [{**row, "label": 1 - row["label"]} for row in rows_of(16)]  # so that they get worse every epoch
    whole, ended = encoder_of(base, settings).model, encoder_of(base, settings).model
    at_epoch_end: list[dict[str, torch.Tensor]] = []

    class Epochs(TrainerCallback):
        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            at_epoch_end.append(weights_of(kwargs["model"]))

    run(whole, rows_of(16), replace(settings, patience=9), tmp_path / "whole", callbacks=[Epochs()])
    history = run(ended, rows_of(16), settings, tmp_path / "ended", validation=swapped, last_epoch=3)
    assert history.num_epochs == 3
    if decay:
        assert moved(at_epoch_end[2], weights_of(ended)), "it is their mean that is kept"
    else:
        torch.testing.assert_close(weights_of(ended), at_epoch_end[2], rtol=0, atol=0)


def test_layer_decay_gives_each_depth_its_rate_and_biases_no_decay(base: Path, tmp_path: Path) -> None:
    settings = settings_of(layer_decay=0.5, weight_decay=0.1, learning_rate=1e-3)
    module = encoder_of(base, settings).model
    run(module, rows_of(8), settings, tmp_path)
    groups = optimizer_state(tmp_path)["param_groups"]
    assert sorted({group["initial_lr"] for group in groups}) == pytest.approx([1.25e-4, 2.5e-4, 5e-4, 1e-3])
    parameters = dict(module.named_parameters())
    depths = depths_of(module)
    sizes = {
        (depth, decayed): sum(
            depths.of(parameter) == depth and (parameter.ndim > 1) == decayed for parameter in parameters.values()
        )
        for depth in range(4)
        for decayed in (True, False)
    }
    for group in groups:
        depth = 3 - round(torch.log2(torch.tensor(1e-3 / group["initial_lr"])).item())
        assert group["weight_decay"] in (0.0, 0.1)
        assert len(group["params"]) == sizes[depth, group["weight_decay"] > 0], "norms and biases are the vectors"


def test_one_rate_for_all_without_layer_decay(base: Path, tmp_path: Path) -> None:
    settings = settings_of(learning_rate=3e-3)
    run(encoder_of(base, settings).model, rows_of(8), settings, tmp_path)
    assert {group["initial_lr"] for group in optimizer_state(tmp_path)["param_groups"]} == {3e-3}


def test_schedulers_and_warm_up_shape_the_rate(base: Path, tmp_path: Path) -> None:
    rates: dict[str, list[float]] = {}

    class Rates(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if "learning_rate" in kwargs["logs"]:
                rates[name].append(kwargs["logs"]["learning_rate"] / 1e-3)

    for name in ("linear", "cosine", "constant"):
        rates[name] = []
        settings = settings_of(scheduler=name, warmup_share=0.2, batch_size=4)
        run(encoder_of(base, settings).model, rows_of(40), settings, tmp_path / name, callbacks=(Rates(),))
    assert rates["linear"] == pytest.approx([0, 0.5, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125])
    assert rates["constant"] == pytest.approx([0, 0.5, *[1] * 8])
    half = [0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * i / 8)))) for i in range(8)]
    assert rates["cosine"] == pytest.approx([0, 0.5, *half], abs=1e-6)


def test_freezing_moves_only_what_is_above(base: Path, tmp_path: Path) -> None:
    settings = settings_of()
    module = encoder_of(base, settings).model
    depths = depths_of(module)
    freeze_below(module, depths, 2)
    before = weights_of(module)
    run(module, rows_of(8), settings, tmp_path)
    names = moved(before, weights_of(module))
    assert all(".layer.1." in name or "pooler" in name or name.startswith("classifier") for name in names)
    assert any(".layer.1." in name for name in names)
    assert any(name.startswith("classifier") for name in names)


def test_gradual_unfreezing_adds_layers_epoch_by_epoch(base: Path, tmp_path: Path) -> None:
    trained: list[set[str]] = []

    class Trained(TrainerCallback):
        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            trained.append({n for n, p in kwargs["model"].named_parameters() if p.requires_grad})

    settings = settings_of(gradual_unfreezing=1, epochs=4, patience=4)
    module = encoder_of(base, settings).model
    before = weights_of(module)
    run(module, rows_of(8), settings, tmp_path, callbacks=(Trained(),))
    assert {name.split(".")[0] for name in trained[0]} == {"bert", "classifier"}
    assert all("pooler" in name or "classifier" in name for name in trained[0])
    assert any(".layer.1." in name for name in trained[1])
    assert not any(".layer.0." in name for name in trained[1])
    assert any(".layer.0." in name for name in trained[2])
    assert trained[3] == set(before), "at last the embeddings too"


@pytest.mark.parametrize(("epoch", "lowest"), [(1, 3), (2, 1), (3, 0), (9, 0)])
def test_unfreezing_two_layers_an_epoch(base: Path, epoch: int, lowest: int) -> None:
    module = encoder_of(base, settings_of()).model
    depths = depths_of(module)
    assert unfreeze_for_epoch(module, depths, epoch=epoch, layers_per_epoch=2) == lowest
    assert {depths.of(p) for p in module.parameters() if p.requires_grad} == set(range(lowest, 4))


@pytest.mark.parametrize("family", FAMILIES)
def test_depths_know_every_family(family: str, families: dict[str, Path]) -> None:
    module = encoder_of(families[family], settings_of()).model
    depths = depths_of(module)
    assert {depths.of(p) for p in module.parameters()} == set(range(depths.num_layers + 2))
    assert depths.num_layers == (1 if family == "albert" else 2)
    head = [name for name, parameter in module.named_parameters() if depths.of(parameter) == depths.num_layers + 1]
    assert any("classifier" in name for name in head)
    assert not any("layer." in name or "embeddings" in name for name in head)


@pytest.mark.parametrize("family", FAMILIES)
def test_dropout_reaches_every_module_of_every_family(family: str, families: dict[str, Path]) -> None:
    def probabilities(module: nn.Module) -> set[float]:
        return {child.p for child in module.modules() if isinstance(child, nn.Dropout)}

    module = encoder_of(families[family], settings_of(dropout=0.35)).model
    assert probabilities(module) == {0.35}
    module = encoder_of(families[family], settings_of(dropout=0.35, classifier_dropout=0.6)).model
    assert probabilities(module) == {0.35, 0.6}
    assert probabilities(module.base_model) == {0.35}
    own = encoder_of(families[family], settings_of(dropout=None)).model
    assert 0.35 not in probabilities(own)


def test_smoothing_and_focus_change_what_is_learned(base: Path, tmp_path: Path) -> None:
    losses = {}
    for name, change in (("plain", {}), ("smooth", {"label_smoothing": 0.9}), ("focal", {"focal_gamma": 3.0})):
        settings = settings_of(**change)
        losses[name] = run(encoder_of(base, settings).model, rows_of(8), settings, tmp_path / name).epochs[0].train_loss
    assert losses["smooth"] != pytest.approx(losses["plain"], rel=1e-3)
    assert losses["focal"] < 0.6 * losses["plain"]


@pytest.mark.parametrize(("metric", "best", "num_epochs"), [("loss", 1, 3), ("accuracy", 5, 5)])
def test_the_metric_chooses_the_epoch_that_is_kept(
    base: Path, tmp_path: Path, metric: str, best: int, num_epochs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = iter([(0.5, 0.1), (0.6, 0.2), (0.7, 0.3), (0.8, 0.3), (0.9, 0.3), (0.9, 0.4)])

    def scores(*_: Any) -> dict[str, float]:
        nll, accuracy = next(figures)
        return {"nll": nll, "accuracy": accuracy, "macro_f1": 0.0}

    monkeypatch.setattr("training.loop._scores", scores)
    settings = settings_of(metric=metric, epochs=6, patience=2)
    history = run(encoder_of(base, settings).model, rows_of(8), settings, tmp_path)
    assert history.best_epoch == best
    assert history.num_epochs == num_epochs, "two epochs of patience, and an equal is no gain"


def test_epochs_without_an_answer_are_no_end_and_the_last_of_them_is_kept(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several labels a text: the macro-F1 is 0 until the first label is given."""
    from safetensors.torch import load_file

    def fitted(name: str, f1: list[float]) -> tuple[TrainingHistory, str]:
        figures = iter(f1)
        monkeypatch.setattr(
            "training.loop._scores", lambda *_: {"nll": 0.5, "accuracy": 0.0, "macro_f1": next(figures)}
        )
        settings = settings_of(metric="macro_f1", epochs=len(f1), patience=2)
        module = encoder_of(base, settings).model
        history = run(module, rows_of(8), settings, tmp_path / name)
        kept = [
            checkpoint.name
            for checkpoint in (tmp_path / name).glob("checkpoint-*")
            if torch.equal(load_file(checkpoint / "model.safetensors")["classifier.bias"], module.classifier.bias)
        ]
        return history, kept[0]

    silent, kept = fitted("silent", [0.0, 0.0, 0.0, 0.0])
    assert (silent.num_epochs, silent.best_epoch, kept) == (4, 4, "checkpoint-4")
    late, kept = fitted("late", [0.0, 0.0, 0.0, 0.1, 0.1, 0.1, 0.2])
    assert (late.num_epochs, late.best_epoch, kept) == (6, 6, "checkpoint-6"), "patience counts from the first answer"


@pytest.mark.parametrize(("f1", "finished"), [([0.0, 0.0, 0.0], False), ([0.0, 0.1, 0.1, 0.1], True)])
def test_a_fit_that_gives_no_label_yet_is_gone_on_with(f1: list[float], finished: bool, tmp_path: Path) -> None:
    log = [{"eval_macro_f1": value, "eval_nll": 0.5, "epoch": i + 1} for i, value in enumerate(f1)]
    state = {"log_history": log, "epoch": float(len(f1)), "global_step": len(f1), "max_steps": 10}
    (tmp_path / "trainer_state.json").write_text(json.dumps(state))
    assert is_finished(tmp_path, settings_of(metric="macro_f1", epochs=10, patience=2)) == finished


def test_the_best_epoch_is_the_one_left_in_the_module(base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    settings = settings_of(epochs=3, metric="loss", learning_rate=0.05, patience=3)
    module = encoder_of(base, settings).model
    history = run(module, rows_of(8), settings, tmp_path)
    kept = load_file(tmp_path / f"checkpoint-{history.best_epoch}" / "model.safetensors")
    assert all(torch.equal(kept[name], parameter) for name, parameter in module.named_parameters())


def test_gradient_checkpointing_computes_layers_again(base: Path, tmp_path: Path) -> None:
    calls = {}
    for on in (False, True):
        settings = settings_of(gradient_checkpointing=on)
        module = encoder_of(base, settings).model
        calls[on] = 0

        def count(query: nn.Module, *_: Any, on: bool = on) -> None:
            calls[on] += query.training

        module.bert.encoder.layer[0].attention.self.query.register_forward_hook(count)
        run(module, rows_of(8), settings, tmp_path / str(on))
    assert calls == {False: 1, True: 2}


def test_bfloat16_is_what_layers_compute_in(base: Path, tmp_path: Path) -> None:
    seen = set()
    for dtype in (torch.float32, torch.bfloat16):
        settings = settings_of()
        module = encoder_of(base, settings).model
        module.bert.encoder.layer[0].attention.self.query.register_forward_hook(lambda *a: seen.add(a[2].dtype))
        run(module, rows_of(8), settings, tmp_path / str(dtype), dtype=dtype)
        assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    assert seen == {torch.float32, torch.bfloat16}


def test_several_labels_a_text_are_learned(base: Path, tmp_path: Path) -> None:
    settings = settings_of(epochs=6, batch_size=16, learning_rate=5e-3, patience=6)
    rows = rows_of(160, num_labels=3, multi_label=True)
    validation = rows_of(40, num_labels=3, multi_label=True, seed=5)
    module = encoder_of(base, settings, num_labels=3).model
    history = run(module, rows, settings, tmp_path, validation=validation, problem_type=MULTI_LABEL, num_labels=3)
    assert history.best.macro_f1 > 0.9
    assert history.best.accuracy > 0.9


@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_a_loss_that_is_no_number_stops_at_once_and_says_what_to_try(base: Path, tmp_path: Path) -> None:
    settings = settings_of(epochs=3, max_grad_norm=0.0)
    module = encoder_of(base, settings).model
    with torch.no_grad():
        module.classifier.weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"nan at step 1.*--learning-rate 0\.0002.*--max-grad-norm 1"):
        run(module, rows_of(32), settings, tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"metric": "f1"},
        {"scheduler": "step"},
        {"dropout": 1.0},
        {"label_smoothing": -0.1},
        {"layer_decay": 0.0},
        {"layer_decay": 1.1},
        {"max_grad_norm": -1.0},
        {"focal_gamma": float("inf")},
        {"class_weights": "rare"},
        {"class_weights": {"a": 0.0}},
        {"class_weights": "balanced", "balanced_sampling": True},
        {"freeze_encoder": True, "gradual_unfreezing": 1},
        {"freeze_encoder": True, "gradient_checkpointing": True},
        {"fsdp": True, "freeze_encoder": True},
        {"contrastive_steps": 5, "fsdp": True},
        {"ema_decay": 0.99, "fsdp": True},
        {"refit_all": True, "fsdp": True},
        {"gradient_accumulation_steps": 0},
        {"checkpoint_steps": 0},
        {"dtype": "int8"},
        {"device": "tpu"},
        {"report_to": ("comet",)},
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused_by_name(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes))):
        settings_of(**changes)
