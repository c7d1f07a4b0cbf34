"""Continued masked-language modelling (arXiv:2004.10964): a base reads unlabelled texts like those it will classify.

What comes out is a base again, with its pooler as it was and a masked-language head, which one is trained for where the
base has none: sentence encoders come without. `augment` uses that head, `fit --base` leaves it aside.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_callback import PrinterCallback

from stream_classifier.errors import ConfigError
from stream_classifier.model.backends.torch import pick_device, pick_dtype
from stream_classifier.model.publish import replace_directory
from stream_classifier.model.tokenization import without_surrogates
from training.adaptation_settings import AdaptSettings
from training.callbacks import DivergedError
from training.checkpoints import SaveInTime, last_checkpoint, saving
from training.data import Table
from training.encoder import base_errors, base_name, find_base, load_tokenizer, quiet_transformers
from training.interrupts import Interrupts
from training.model_files import check_target
from training.progress import bar
from training.rows import RowsDataset
from training.sampling import EpochSampler
from training.texts import read_texts
from training.work_dir import check_space, fingerprint, work_dir

__all__ = ["Adaptation", "adapt"]

logger = logging.getLogger(__name__)

_EVALUATION_SEED = 0  # the same tokens are masked before and after


@dataclass(frozen=True, slots=True)
class Adaptation:
    """What an adaptation made.

    Attributes:
        path: the new base.
        num_texts: read, those kept for measuring included.
        num_tokens: trained on in one epoch.
        loss_before, loss_after: mean negative log-likelihood of masked tokens in texts kept apart, in nats; before of
            a base that had no masked-language head: about ln(vocabulary).
    """

    path: Path
    num_texts: int
    num_tokens: int
    loss_before: float
    loss_after: float


def adapt(
    base: str,
    texts: str | Path,
    out: str | Path,
    *,
    settings: AdaptSettings | None = None,
    overwrite: bool = False,
    resume: bool = False,
    show_progress: bool = False,
) -> Adaptation:
    """Trains a base on texts without labels and writes the new base. Blocks for minutes or hours.

    Args:
        base: a directory or a Hub name, as for `FitSettings.base`.
        texts: a .txt file with one text a line, or a table with a column of texts.
        out: the directory to make; complete or not there.
        settings: how; None: the defaults.
        overwrite, resume, show_progress: as for `training.fit`; a resumed adaptation masks other tokens.

    Raises:
        ConfigError: a base, texts or a place that cannot be used.
        TrainingError: the loss is not a number any more, or the disk is full.
        Interrupted: a signal came; the message says how to go on.
    """
    out, settings = Path(out), settings or AdaptSettings()
    check_target(out, overwrite=overwrite, source=base)
    found = read_texts(Path(texts), settings.text_columns)
    rows = {"text": Table(str(texts), found, [()] * len(found))}
    base = find_base(base)
    made_from = {"base": base, **fingerprint(settings, rows, num_processes=1)}
    with (
        Interrupts().handled() as interrupts,
        work_dir(out, made_from, resume=resume, overwrite=overwrite) as work,
        quiet_transformers(),
    ):
        set_seed(settings.seed)
        tokenizer, model, pooler = _load(base)
        windows = _windows(tokenizer, found, settings)
        train, kept = _divided(windows, settings)
        check_space(work, num_parameters=model.num_parameters(), num_trained=model.num_parameters())
        device = pick_device(settings.device)
        dtype = pick_dtype(settings.dtype, device)
        model.to(device)
        before = _masked_loss(model, tokenizer, kept, settings, dtype)
        logger.info(
            "%d texts, %d tokens; the loss of masked tokens is %.3f before",
            len(found),
            sum(map(len, train)),
            before,
        )
        _train(model, tokenizer, train, settings, work, interrupts, dtype, shown=show_progress)
        after = _masked_loss(model, tokenizer, kept, settings, dtype)
        logger.info("the loss of masked tokens is %.3f after", after)
        model.to("cpu")
        adaptation = Adaptation(out, len(found), sum(map(len, train)), before, after)
        aside = work / "model"
        with saving("the base", aside):
            _save(model, tokenizer, pooler, aside, base, adaptation)
        replace_directory(aside, out)
    return adaptation


def _load(base: str) -> tuple[Any, Any, dict[str, Tensor]]:
    """The tokenizer, the model with a masked-language head, and the weights of the base's pooler, which that lacks."""
    tokenizer = load_tokenizer(base)
    if tokenizer.mask_token_id is None:
        raise ConfigError(f"{base}: its tokenizer has no mask token, so it cannot be adapted; give another base")
    options = {"dtype": torch.float32, "use_safetensors": True, "trust_remote_code": False, "output_loading_info": True}
    with base_errors(base):
        model, loading = AutoModelForMaskedLM.from_pretrained(base, **options)
        plain, plain_loading = AutoModel.from_pretrained(base, **options)
    prefix = f"{model.base_model_prefix}."
    if missing := [name for name in loading["missing_keys"] if name.startswith(prefix)]:
        raise ConfigError(f"{base}: its weights lack {len(missing)} tensors, such as {missing[0]}; give another base")
    if loading["missing_keys"]:
        logger.info("%s has no masked-language head: one is trained", base_name(base))
    has_pooler = not any("pooler" in name for name in plain_loading["missing_keys"])
    pooler = {
        f"{prefix}{name}": tensor.clone()
        for name, tensor in plain.state_dict().items()
        if has_pooler and name.startswith("pooler.")
    }
    return tokenizer, model, pooler


def _windows(tokenizer: Any, texts: Sequence[str], settings: AdaptSettings) -> list[list[int]]:
    """Token ids of all texts, long ones in pieces of `max_length`, special tokens in each."""
    max_length = min(settings.max_length, tokenizer.model_max_length)
    encoded = tokenizer(
        [without_surrogates(text) for text in texts],
        truncation=True,
        max_length=max_length,
        return_overflowing_tokens=True,
    )
    tokenizer.backend_tokenizer.no_truncation()
    windows: list[list[int]] = encoded["input_ids"]
    return [window for window in windows if len(window) > tokenizer.num_special_tokens_to_add()]


def _divided(windows: list[list[int]], settings: AdaptSettings) -> tuple[list[list[int]], list[list[int]]]:
    num_kept = math.ceil(settings.validation_share * len(windows))
    if len(windows) - num_kept < 1:
        raise ConfigError(f"there are {len(windows)} texts only; give at least 2, better thousands")
    order = np.random.default_rng(settings.seed).permutation(len(windows))
    return [windows[i] for i in order[num_kept:]], [windows[i] for i in order[:num_kept]]


def _train(
    model: Any,
    tokenizer: Any,
    windows: list[list[int]],
    settings: AdaptSettings,
    work: Path,
    interrupts: Interrupts,
    dtype: torch.dtype,
    *,
    shown: bool,
) -> None:
    on_cpu = model.device.type == "cpu"
    arguments = TrainingArguments(
        output_dir=str(work),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        weight_decay=0.01,
        warmup_steps=0.06,
        lr_scheduler_type="linear",
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        save_strategy="epoch",
        save_total_limit=1,
        seed=settings.seed,
        use_cpu=on_cpu,
        dataloader_pin_memory=not on_cpu,
        remove_unused_columns=False,
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
    )
    steps = _Steps(settings, shown=shown)
    trainer = _Trainer(
        model=model,
        args=arguments,
        train_dataset=RowsDataset([{"input_ids": window} for window in windows]),
        data_collator=_collator(tokenizer, settings, settings.seed),
        callbacks=[steps, SaveInTime(interrupts, settings.checkpoint_steps)],
    )
    trainer.rows_sampler = EpochSampler(
        len(windows), lengths=[len(window) for window in windows], step_size=settings.batch_size, seed=settings.seed
    )
    trainer.remove_callback(PrinterCallback)
    checkpoint = last_checkpoint(work)
    try:
        with interrupts.deferred() if trainer.args.world_size == 1 else nullcontext():
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    finally:
        steps.close()


class _Trainer(Trainer):
    rows_sampler: EpochSampler

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochSampler:
        return self.rows_sampler

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with saving(f"the checkpoint of step {self.state.global_step}", Path(str(self.args.output_dir))):
            super()._save_checkpoint(model, trial)


class _Steps(TrainerCallback):
    """A progress bar, the epoch for the sampler, and the end of an adaptation whose loss is not a number."""

    def __init__(self, settings: AdaptSettings, *, shown: bool) -> None:
        self._settings = settings
        self._shown = shown
        self._bar: tqdm[Any] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._bar = bar(state.max_steps, "adapting", unit="step", shown=self._shown)
        self._bar.update(state.global_step)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        kwargs["train_dataloader"].batch_sampler.sampler.epoch = int(state.epoch)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._bar is not None:
            self._bar.update(1)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not math.isfinite(kwargs["logs"].get("loss", 0.0)):
            rate = self._settings.learning_rate
            raise DivergedError(f"the loss is not a number at step {state.global_step}; try --learning-rate {rate / 5}")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _collator(tokenizer: Any, settings: AdaptSettings, seed: int) -> DataCollatorForLanguageModeling:
    return DataCollatorForLanguageModeling(
        tokenizer=tokenizer, mlm=True, mlm_probability=settings.masked_share, seed=seed
    )


def _masked_loss(
    model: Any, tokenizer: Any, windows: list[list[int]], settings: AdaptSettings, dtype: torch.dtype
) -> float:
    """Mean negative log-likelihood of masked tokens, in nats."""
    collate = _collator(tokenizer, settings, _EVALUATION_SEED)
    ordered = sorted(windows, key=len)
    total, count = 0.0, 0
    model.eval()
    with torch.no_grad(), torch.autocast(model.device.type, dtype=dtype, enabled=dtype != torch.float32):
        for start in range(0, len(ordered), settings.batch_size):
            rows = [{"input_ids": window} for window in ordered[start : start + settings.batch_size]]
            inputs = {name: tensor.to(model.device) for name, tensor in collate(rows).items()}
            masked = inputs.pop("labels")
            logits = model(**inputs).logits.float()
            total += float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), masked.flatten(), reduction="sum"))
            count += int((masked != -100).sum())
    return total / max(1, count)


def _save(
    model: Any, tokenizer: Any, pooler: dict[str, Tensor], directory: Path, base: str, adaptation: Adaptation
) -> None:
    from safetensors.torch import load_file, save_file

    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    if pooler:
        weights = directory / "model.safetensors"
        save_file(load_file(weights) | pooler, weights, metadata={"format": "pt"})
    (directory / "README.md").write_text(
        f"# {adaptation.path.name}\n\n`{base_name(base)}`, adapted to {adaptation.num_texts} texts by masked-language "
        f"modelling: the loss of masked tokens went from {adaptation.loss_before:.3f} to {adaptation.loss_after:.3f}. "
        "A base for `stream-training fit --base`.\n",
        "utf-8",
    )
