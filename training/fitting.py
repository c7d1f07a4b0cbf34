"""Labelled rows to a model directory: read, split, train, calibrate, measure, write. Readable from top to bottom; every
step is a module of its own.
"""

from __future__ import annotations

import functools
import logging
import shutil
from dataclasses import dataclass, replace
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
from training.estimate import duration, training_seconds
from training.evaluation import Evaluation, evaluate_table
from training.export import check_target, finish, pick_golden, save_files, written_aside
from training.history import TrainingHistory
from training.layers import depths_of, freeze_below, needs_depths
from training.loop import LoopContext, train
from training.losses import TextLoss, class_weights
from training.normalisation import normalised
from training.parts import Parts, read_parts
from training.progress import bar
from training.recalibration import first_calibration
from training.rejection import first_rejection
from training.reporters import prepare_reporters
from training.rows import hidden_rows, pad_hidden, pad_tokens, token_rows
from training.settings import FitSettings
from training.tail import Tail, encode_below, has_tail

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
    prepare_reporters(settings.report_to, run_name=out.name)
    parts = read_parts(data, settings=settings, validation=validation, test=test)
    if parts.test is None:
        logger.info("there is no test file: the figures are those of the validation rows, which also choose the epoch")
    with written_aside(out) as aside, quiet_transformers():
        set_seed(settings.seed)
        encoder = load_encoder(
            settings.base or default_base(),
            parts.labels,
            problem_type=parts.problem_type,
            dropout=settings.dropout,
            classifier_dropout=settings.classifier_dropout,
        )
        encoder = replace(encoder, tokenizer=normalised(encoder.tokenizer, settings.normalisation))
        max_length = min(settings.max_length, encoder.max_length)
        save_files(encoder, aside)  # the tokenizer that serving will read is the one that training reads
        history = _train(encoder, parts, settings, max_length, aside, run_name=out.name, show_progress=show_progress)
        save_files(encoder, aside)

        logger.info("measuring")
        training = _summary(parts, settings, encoder.name, history)
        content: dict[str, Any] = {
            "task": settings.task,
            "positive_label": parts.positive_label,
            "max_length": max_length,
            "normalisation": list(settings.normalisation) or None,
            "text_join": TEXT_JOIN if len(settings.columns.text) > 1 else None,
            "training": training,
        }
        write_manifest(aside, content)
        calibration, p_NL = first_calibration(Classifier.load(aside), parts.validation)
        content["calibration"] = calibration
        write_manifest(aside, content)
        if settings.out_of_scope_label is not None:
            rejection = first_rejection(
                Classifier.load(aside),
                parts.validation,
                parts.outside,
                label=settings.out_of_scope_label,
                keep=settings.keep_in_scope,
            )
            content["thresholds"] = {"rejection": rejection}
            write_manifest(aside, content)
        measured_on, rows = ("validation", parts.validation) if parts.test is None else ("test", parts.test)
        evaluation = evaluate_table(
            Classifier.load(aside, name=out.name), rows, out_of_scope_label=settings.out_of_scope_label
        )
        content["training"] = {**training, "measured_on": measured_on, "figures": _figures(evaluation)}
        golden = settings.golden_texts
        golden_texts = pick_golden(parts.validation.texts, p_NL) if golden is None else golden
        card = model_card(out.name, labels=parts.labels, content=content)
        history.write(aside)
        digest = finish(aside, content, golden_texts=golden_texts, card=card)
    return FitResult(out, digest, evaluation, measured_on, history)


def _train(
    encoder: Encoder,
    parts: Parts,
    settings: FitSettings,
    max_length: int,
    directory: Path,
    *,
    run_name: str,
    show_progress: bool,
) -> TrainingHistory:
    tokenizer = TextTokenizer(
        directory / "tokenizer.json", max_length=max_length, vocab_size=encoder.model.config.vocab_size
    )
    train_tokens = tokenizer.encode(parts.train.texts)
    validation_tokens = tokenizer.encode(parts.validation.texts)
    train_targets, validation_targets = parts.targets(parts.train), parts.targets(parts.validation)
    device = pick_device(settings.device)
    dtype = pick_dtype(settings.dtype, device)
    model = encoder.model.to(device)
    depths = depths_of(model) if needs_depths(settings) else None
    context = LoopContext(directory / "work", device, dtype, show_progress=show_progress, run_name=run_name)
    loop: dict[str, Any] = {
        "settings": settings,
        "problem_type": parts.problem_type,
        "num_labels": len(parts.labels),
        "loss": _loss(parts, settings),
        "depths": depths,
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
                hidden_rows(train_hidden, train_targets),
                hidden_rows(validation_hidden, validation_targets),
                collate=pad_hidden,
                # So little to compute that autocast's copies would cost more than they save.
                context=replace(context, dtype=torch.float32),
                **loop,
            )
        if settings.freeze_encoder and depths is not None:
            if depths.shared_layers:
                family = model.config.model_type
                raise ConfigError(
                    f"--freeze-encoder: the layers of a {family} model are one and the same; leave it out"
                )
            freeze_below(model, depths, depths.num_layers)
        if settings.gradient_checkpointing and not model.supports_gradient_checkpointing:
            raise ConfigError(f"--gradient-checkpointing: a {model.config.model_type} model has none; leave it out")
        train_rows = token_rows(train_tokens, train_targets)
        collate = functools.partial(pad_tokens, pad_id=model.config.pad_token_id or 0)
        seconds = training_seconds(
            model,
            train_rows,
            num_validation_tokens=len(validation_tokens.input_ids_T),
            collate=collate,
            batch_size=settings.batch_size,
            epochs=settings.max_epochs,
            dtype=dtype,
        )
        logger.info("training will take about %s, less when it stops early", duration(seconds))
        return train(
            model,
            train_rows,
            token_rows(validation_tokens, validation_targets),
            collate=collate,
            context=context,
            **loop,
        )
    finally:
        model.to("cpu")
        shutil.rmtree(context.work_dir, ignore_errors=True)


def _loss(parts: Parts, settings: FitSettings) -> TextLoss:
    weights = None
    if settings.class_weights is not None:
        counts = parts.train.label_counts()
        weights = class_weights(
            settings.class_weights,
            labels=parts.labels,
            counts=[counts[label] for label in parts.labels],
            num_texts=len(parts.train),
            problem_type=parts.problem_type,
        )
    return TextLoss(
        parts.problem_type,
        smoothing=settings.label_smoothing,
        focal_gamma=settings.focal_gamma,
        class_weights=weights,
    )


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
