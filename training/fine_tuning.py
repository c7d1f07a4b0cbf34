"""The weights of a fit: texts to rows, and the loop over the whole model or, with a frozen encoder, over its tail."""

from __future__ import annotations

import functools
import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from stream_classifier.errors import ConfigError
from stream_classifier.model.backends.torch import pick_device, pick_dtype
from stream_classifier.model.calibration import MULTI_LABEL, SINGLE_LABEL
from stream_classifier.model.protocols import TokenBatch
from stream_classifier.model.tokenization import TextTokenizer
from training.checkpoints import last_checkpoint
from training.contrastive import contrast
from training.data import Table
from training.encoder import Encoder
from training.estimate import Work, duration, measured_speed, training_seconds
from training.history import TrainingHistory
from training.interrupts import Interrupts
from training.layers import depths_of, freeze_encoder, needs_depths
from training.lesson import Lesson
from training.loop import LoopContext, train
from training.losses import TextLoss, class_weights
from training.parts import Parts
from training.processes import Processes
from training.progress import bar
from training.rows import Rows, hidden_rows, pad_hidden, pad_tokens, token_rows
from training.settings import FitSettings
from training.sharding import check_sharding
from training.tail import Tail, encode_below, has_tail
from training.work_dir import check_space

__all__ = ["fine_tune", "text_loss"]

logger = logging.getLogger(__name__)


def fine_tune(
    encoder: Encoder,
    parts: Parts,
    settings: FitSettings,
    *,
    work_dir: Path,
    interrupts: Interrupts,
    run_name: str = "fit",
    show_progress: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    lesson: Lesson | None = None,
    last_epoch: int | None = None,
) -> TrainingHistory:
    """Trains the encoder's model in place, on the device that the settings say, and leaves it on the CPU.

    With `settings.fsdp` only the main process's model is trained; those of the others are left without weights.

    Args:
        work_dir: for checkpoints; one that is there is gone on from.
        interrupts, run_name, show_progress, callbacks, last_epoch: see `loop.LoopContext`.
        lesson: what a teacher says of the training texts, and more texts; not with a frozen encoder.

    Raises:
        ConfigError: what the settings ask for is not there: a device, a dtype, room, a layer to freeze.
        TrainingError, Interrupted: see `loop.train`.
    """
    with tempfile.TemporaryDirectory(prefix="stream-training-") as folder:
        encoder.tokenizer.save_pretrained(folder)
        tokenizer = TextTokenizer(
            Path(folder) / "tokenizer.json",
            max_length=min(settings.max_length, encoder.max_length),
            vocab_size=encoder.model.config.vocab_size,
        )
    train_tokens = tokenizer.encode([*parts.train.texts, *(() if lesson is None else lesson.unlabelled)])
    validation_tokens = tokenizer.encode(parts.validation.texts)
    train_targets, validation_targets = parts.targets(parts.train), parts.targets(parts.validation)
    device = pick_device(settings.device)
    dtype = pick_dtype(settings.dtype, device)
    if settings.fsdp:
        check_sharding(device, dtype)
    # What is divided is put on its devices layer by layer: there may be no room for all of it on one.
    model = encoder.model if settings.fsdp else encoder.model.to(device)
    depths = depths_of(model) if needs_depths(settings) else None
    if settings.gradient_checkpointing and not model.supports_gradient_checkpointing:
        raise ConfigError(f"--gradient-checkpointing: a {model.config.model_type} model has none; leave it out")
    context = LoopContext(
        work_dir,
        device,
        dtype,
        interrupts=interrupts,
        show_progress=show_progress,
        run_name=run_name,
        callbacks=callbacks,
        last_epoch=last_epoch,
    )
    loop: dict[str, Any] = {
        "settings": settings,
        "problem_type": parts.problem_type,
        "num_labels": len(parts.labels),
        "loss": text_loss(parts.train, parts.labels, settings),
        "depths": depths,
    }
    try:
        is_new = last_checkpoint(work_dir) is None
        if is_new and not settings.fsdp:
            num_layers = 1 if depths is None else depths.num_layers
            _tell_time(model, (train_tokens, validation_tokens), settings, context=context, num_layers=num_layers)
        # A tail's checkpoints lack the layers below, which contrastive learning changes too: it is done again, equally.
        tail_alone = settings.freeze_encoder and has_tail(model)
        if settings.contrastive_steps and (tail_alone or is_new):
            _contrast(model, token_rows(train_tokens, train_targets), parts, settings, dtype, shown=show_progress)
        if tail_alone:
            logger.info("encoding: the layers below the last run once a text")
            num_tokens = len(train_tokens.input_ids_T) + len(validation_tokens.input_ids_T)
            with bar(num_tokens, "encoding", unit="token", shown=show_progress) as progress:
                encode = functools.partial(encode_below, model, dtype=dtype, advance=progress.update)
                train_hidden, validation_hidden = encode(train_tokens), encode(validation_tokens)
            tail = Tail(model)
            _check_space(tail, work_dir, settings)
            return train(
                tail,
                hidden_rows(train_hidden, train_targets),
                hidden_rows(validation_hidden, validation_targets),
                collate=pad_hidden,
                # So little to compute that autocast's copies would cost more than they save.
                context=replace(context, dtype=torch.float32),
                **loop,
            )
        if settings.freeze_encoder and depths is not None:
            freeze_encoder(model, depths)
        _check_space(model, work_dir, settings)
        module: torch.nn.Module = model
        train_rows = token_rows(train_tokens, train_targets if lesson is None else lesson.targets(train_targets))
        collate: Callable[..., dict[str, torch.Tensor]] = functools.partial(
            pad_tokens, pad_id=model.config.pad_token_id or 0
        )
        if lesson is not None:
            module, train_rows, collate = lesson.module(model), lesson.annotated(train_rows), lesson.collated(collate)
            loop["loss"] = lesson.loss(loop["loss"], problem_type=parts.problem_type)
        return train(
            module,
            train_rows,
            token_rows(validation_tokens, validation_targets),
            collate=collate,
            context=context,
            **loop,
        )
    finally:
        if not settings.fsdp:  # divided, it never left the CPU
            model.to("cpu")


def _tell_time(
    model: Any, tokens: tuple[TokenBatch, TokenBatch], settings: FitSettings, *, context: LoopContext, num_layers: int
) -> None:
    train_tokens, validation_tokens = tokens
    speed = measured_speed(
        model,
        token_rows(train_tokens, np.zeros(len(train_tokens), dtype=np.intp)),
        collate=functools.partial(pad_tokens, pad_id=model.config.pad_token_id or 0),
        batch_size=settings.batch_size,
        dtype=context.dtype,
        trains=not settings.freeze_encoder,  # there may be no room for it then
    )
    work = Work(
        num_texts=len(train_tokens),
        num_tokens=len(train_tokens.input_ids_T),
        num_validation_tokens=len(validation_tokens.input_ids_T),
        num_layers=num_layers,
        has_tail=has_tail(model),
        num_processes=Processes.started().count,
    )
    if context.last_epoch is not None:
        settings = replace(settings, epochs=context.last_epoch)
    seconds = training_seconds(speed, work, settings)
    logger.info("training will take about %s, less when it stops early", duration(seconds))


def _contrast(model: Any, rows: Rows, parts: Parts, settings: FitSettings, dtype: torch.dtype, *, shown: bool) -> None:
    if parts.problem_type == MULTI_LABEL:
        raise ConfigError("--contrastive-steps needs one label a text, and these texts have several; leave it out")
    logger.info("contrasting: texts of one label are drawn together")
    with bar(settings.contrastive_steps, "contrasting", unit="step", shown=shown) as progress:
        contrast(
            model,
            rows,
            num_steps=settings.contrastive_steps,
            collate=functools.partial(pad_tokens, pad_id=model.config.pad_token_id or 0),
            seed=settings.seed,
            dtype=dtype,
            advance=progress.update,
        )


def text_loss(train: Table, labels: Sequence[str], settings: FitSettings) -> TextLoss:
    """The loss that the settings ask for, for the rows to train on."""
    problem_type = MULTI_LABEL if train.multi_label else SINGLE_LABEL
    weights = None
    if settings.class_weights is not None:
        counts = train.label_counts()
        weights = class_weights(
            settings.class_weights,
            labels=labels,
            counts=[counts[label] for label in labels],
            num_texts=len(train),
            problem_type=problem_type,
        )
    return TextLoss(
        problem_type,
        smoothing=settings.label_smoothing,
        focal_gamma=settings.focal_gamma,
        class_weights=weights,
    )


def _check_space(module: torch.nn.Module, work_dir: Path, settings: FitSettings) -> None:
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in module.parameters()]
    check_space(
        work_dir,
        num_parameters=sum(size for size, _ in sizes),
        num_trained=sum(size for size, is_trained in sizes if is_trained),
        num_copies=2 if settings.fsdp or settings.average_decay else 1,
    )
