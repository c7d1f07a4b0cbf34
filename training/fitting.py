"""Labelled rows to a model directory: read, split, train, calibrate, measure, write. Readable from top to bottom; every
step is a module of its own.
"""

from __future__ import annotations

import functools
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from stream_classifier.errors import ConfigError
from stream_classifier.model.backends.torch import pick_device, pick_dtype
from stream_classifier.model.classifier import Classifier
from stream_classifier.model.publish import write_manifest
from stream_classifier.model.tokenization import TextTokenizer
from training.card import model_card
from training.data import TEXT_JOIN
from training.encoder import Encoder, default_base, load_encoder, quiet_transformers
from training.evaluation import Evaluation, evaluate_table
from training.export import check_target, finish, pick_golden, save_files, written_aside
from training.history import TrainingHistory
from training.loop import pad_tokens, token_rows, train
from training.parts import Parts, read_parts
from training.progress import bar
from training.recalibration import first_calibration
from training.settings import FitSettings
from training.tail import Tail, encode_below, has_tail, pad_hidden

__all__ = ["FitResult", "fit"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FitResult:
    """What a fit made.

    Attributes:
        path: the model directory.
        digest: of the model, "sha256:…".
        evaluation: its figures, measured through `Classifier`.
        measured_on: the rows of the figures: "test", or "validation" where there are none.
        history: how the training went.
    """

    path: Path
    digest: str
    evaluation: Evaluation
    measured_on: str
    history: TrainingHistory


def fit(
    data: str | Path,
    out: str | Path,
    *,
    settings: FitSettings | None = None,
    validation: str | Path | None = None,
    test: str | Path | None = None,
    overwrite: bool = False,
    show_progress: bool = False,
) -> FitResult:
    """Fine-tunes a model on labelled texts and writes its directory. Blocks for minutes or hours.

    The seeds of Python, numpy and torch are set. Interrupted, it leaves nothing behind.

    Args:
        data: a file (CSV, TSV, JSON lines, Parquet), or a folder with train, validation and test files.
        out: the model directory to make; complete or not there.
        settings: how; None: the defaults.
        validation, test: files of their own; before those of a folder. Without one for validation a part of the rows is
            kept for it; without one for test the figures are those of the validation rows.
        overwrite: whether a model directory at `out` is replaced.
        show_progress: whether bars are shown on standard error when it is a terminal.

    Raises:
        ConfigError: data, settings, base or place that cannot be used, before anything is trained.
    """
    out = Path(out)
    check_target(out, overwrite=overwrite)
    settings = settings or FitSettings()
    parts = read_parts(data, settings=settings, validation=validation, test=test)
    if parts.test is None:
        logger.info("there is no test file: the figures are those of the validation rows, which also choose the epoch")
    with written_aside(out) as aside, quiet_transformers():
        set_seed(settings.seed)
        encoder = load_encoder(settings.base or default_base(), parts.labels)
        max_length = min(settings.max_length, encoder.max_length)
        save_files(encoder, aside)  # the tokenizer that serving will read is the one that training reads
        history = _train(encoder, parts, settings, max_length, aside, show_progress=show_progress)
        save_files(encoder, aside)

        logger.info("measuring")
        training = _summary(parts, settings, encoder.name, history)
        content: dict[str, Any] = {
            "task": settings.task,
            "positive_label": parts.positive_label,
            "max_length": max_length,
            "text_join": TEXT_JOIN if len(settings.columns.text) > 1 else None,
            "training": training,
        }
        write_manifest(aside, content)
        calibration, p_NL = first_calibration(Classifier.load(aside), parts.validation)
        content["calibration"] = calibration
        write_manifest(aside, content)
        measured_on, rows = ("validation", parts.validation) if parts.test is None else ("test", parts.test)
        evaluation = evaluate_table(Classifier.load(aside, name=out.name), rows)
        content["training"] = {**training, "measured_on": measured_on, "figures": _figures(evaluation)}
        golden = settings.golden_texts
        golden_texts = pick_golden(parts.validation.texts, p_NL) if golden is None else golden
        card = model_card(out.name, labels=parts.labels, content=content)
        history.write(aside)
        digest = finish(aside, content, golden_texts=golden_texts, card=card)
    return FitResult(out, digest, evaluation, measured_on, history)


def _train(
    encoder: Encoder, parts: Parts, settings: FitSettings, max_length: int, directory: Path, *, show_progress: bool
) -> TrainingHistory:
    tokenizer = TextTokenizer(
        directory / "tokenizer.json", max_length=max_length, vocab_size=encoder.model.config.vocab_size
    )
    train_tokens = tokenizer.encode(parts.train.texts)
    validation_tokens = tokenizer.encode(parts.validation.texts)
    train_labels, validation_labels = parts.indices(parts.train), parts.indices(parts.validation)
    device = pick_device("auto")
    dtype = pick_dtype("auto", device)
    model = encoder.model.to(device)
    work_dir = directory / "work"
    loop: dict[str, Any] = {
        "settings": settings,
        "num_labels": len(parts.labels),
        "work_dir": work_dir,
        "device": device,
        "show_progress": show_progress,
    }
    try:
        if settings.freeze_encoder and has_tail(model):
            logger.info("encoding: the layers below the last run once a text")
            num_tokens = len(train_tokens.input_ids_T) + len(validation_tokens.input_ids_T)
            with bar(num_tokens, "encoding", unit="token", shown=show_progress) as progress:
                encode = functools.partial(encode_below, model, dtype=dtype, advance=progress.update)
                train_hidden, validation_hidden = encode(train_tokens), encode(validation_tokens)
            return train(
                Tail(model),
                _hidden_rows(train_hidden, train_labels),
                _hidden_rows(validation_hidden, validation_labels),
                collate=pad_hidden,
                dtype=torch.float32,  # so little to compute that autocast's copies would cost more than they save
                **loop,
            )
        if settings.freeze_encoder:
            _freeze_below_last_layer(encoder)
        return train(
            model,
            token_rows(train_tokens, train_labels),
            token_rows(validation_tokens, validation_labels),
            collate=functools.partial(pad_tokens, pad_id=model.config.pad_token_id or 0),
            dtype=dtype,
            **loop,
        )
    finally:
        model.to("cpu")
        shutil.rmtree(work_dir, ignore_errors=True)


def _hidden_rows(hidden: list[torch.Tensor], labels: list[int]) -> list[dict[str, Any]]:
    return [{"hidden": states_SE, "label": label} for states_SE, label in zip(hidden, labels, strict=True)]


def _freeze_below_last_layer(encoder: Encoder) -> None:
    """For families that `Tail` does not know: the same parameters are trained, and the whole model runs every time."""
    layers = next(
        (
            module
            for module in encoder.model.base_model.modules()
            if isinstance(module, torch.nn.ModuleList) and len(module) == encoder.model.config.num_hidden_layers
        ),
        None,
    )
    if layers is None:
        family = encoder.model.config.model_type
        raise ConfigError(f"--freeze-encoder: the last layer of a {family} model is not known; leave it out")
    encoder.model.base_model.requires_grad_(False)
    layers[-1].requires_grad_(True)
    if (pooler := getattr(encoder.model.base_model, "pooler", None)) is not None:
        pooler.requires_grad_(True)


def _summary(parts: Parts, settings: FitSettings, base: str, history: TrainingHistory) -> dict[str, Any]:
    """No times and no paths in it: the same fit gives the same digest."""
    return {
        "base": base,
        "freeze_encoder": settings.freeze_encoder,
        "num_train": len(parts.train),
        "num_validation": len(parts.validation),
        "num_test": 0 if parts.test is None else len(parts.test),
        "epochs": history.num_epochs,
        "best_epoch": history.best_epoch,
        "learning_rate": settings.top_learning_rate,
        "batch_size": settings.batch_size,
        "max_length": settings.max_length,
        "weight_decay": settings.weight_decay,
        "warmup_share": settings.warmup_share,
        "seed": settings.seed,
    }


def _figures(evaluation: Evaluation) -> dict[str, Any]:
    names = ("n", "accuracy", "macro_f1", "weighted_f1", "nll", "brier", "ece", "ece_noise_floor")
    figures = evaluation.as_dict()
    return {name: figures[name] for name in names}
