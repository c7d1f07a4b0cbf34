"""The training loop: transformers' Trainer with AdamW, warm-up, early stopping on macro-F1, and the best epoch kept.

It trains whatever module it is given, a whole model or its tail; what the result is worth is measured elsewhere.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from stream_classifier.model.calibration import SINGLE_LABEL, Calibration
from stream_classifier.model.protocols import TokenBatch
from training.history import TrainingHistory
from training.metrics import confusion_matrix, f1_scores, negative_log_likelihood
from training.progress import bar
from training.settings import FitSettings

__all__ = ["Rows", "pad_tokens", "token_rows", "train"]

logger = logging.getLogger(__name__)

Rows = list[dict[str, Any]]
"""One dict a text: what the collator makes a batch of."""


def train(
    module: nn.Module,
    train_rows: Rows,
    validation_rows: Rows,
    *,
    collate: Callable[[Sequence[dict[str, Any]]], dict[str, torch.Tensor]],
    settings: FitSettings,
    num_labels: int,
    work_dir: Path,
    device: torch.device,
    dtype: torch.dtype,
    show_progress: bool = False,
) -> TrainingHistory:
    """Trains the parameters of `module` that require gradients, in place, and leaves those of the best epoch in it.

    Args:
        module: gives `loss` and `logits` for what `collate` makes.
        train_rows: with `input_ids`, batches are made of texts of similar length; else at random.
        collate: rows to a padded batch.
        work_dir: for the weights of the best epoch and the last; the caller removes it.
        dtype: of autocast; float32 for none. Parameters stay float32.
    """
    grouped = "input_ids" in train_rows[0]
    arguments = TrainingArguments(
        output_dir=str(work_dir),
        num_train_epochs=settings.max_epochs,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        learning_rate=settings.top_learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=settings.warmup_share,  # below 1 it is a share of all steps
        lr_scheduler_type="linear",
        optim="adamw_torch",
        train_sampling_strategy="group_by_length" if grouped else "random",
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        save_only_model=True,
        load_best_model_at_end=True,
        metric_for_best_model="macro_f1",
        greater_is_better=True,
        seed=settings.seed,
        data_seed=settings.seed,
        use_cpu=device.type == "cpu",
        dataloader_pin_memory=device.type != "cpu",
        remove_unused_columns=False,
        label_names=["labels"],
        logging_strategy="steps",
        logging_steps=1,  # the history is made from the log
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
    )
    num_tokens = sum(len(row["input_ids"] if grouped else row["hidden"]) for row in train_rows)
    epochs = _Epochs(settings.max_epochs, num_tokens=num_tokens, show_progress=show_progress)
    trainer = Trainer(
        model=module,
        args=arguments,
        train_dataset=_Dataset(train_rows),
        eval_dataset=_Dataset(validation_rows),
        data_collator=collate,
        compute_metrics=lambda prediction: _scores(prediction, num_labels),
        callbacks=[EarlyStoppingCallback(early_stopping_patience=settings.patience), epochs],
    )
    trainer.remove_callback(PrinterCallback)
    try:
        trainer.train()
    finally:
        epochs.close()
    return TrainingHistory.from_log(trainer.state.log_history, metric="macro_f1", max_epochs=settings.max_epochs)


def token_rows(tokens: TokenBatch, labels: Sequence[int]) -> Rows:
    """Rows of `input_ids` and `label`, for `pad_tokens`."""
    bounds = tokens.offsets
    return [
        {"input_ids": tokens.input_ids_T[bounds[i] : bounds[i + 1]], "label": label} for i, label in enumerate(labels)
    ]


def pad_tokens(rows: Sequence[dict[str, Any]], *, pad_id: int) -> dict[str, torch.Tensor]:
    """Rows of `token_rows` to the inputs of a Hugging Face model, padded to the longest."""
    lengths_B = np.array([len(row["input_ids"]) for row in rows])
    real_BS = np.arange(int(lengths_B.max())) < lengths_B[:, None]
    ids_BS = np.full(real_BS.shape, pad_id, dtype=np.int64)
    ids_BS[real_BS] = np.concatenate([row["input_ids"] for row in rows])
    return {
        "input_ids": torch.from_numpy(ids_BS),
        "attention_mask": torch.from_numpy(real_BS.astype(np.int64)),
        "labels": torch.tensor([row["label"] for row in rows]),
    }


class _Dataset(torch.utils.data.Dataset[dict[str, Any]]):
    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._rows[index]


class _Epochs(TrainerCallback):
    """A progress bar over the steps, a line an epoch, and its speed in the log."""

    def __init__(self, max_epochs: int, *, num_tokens: int, show_progress: bool) -> None:
        self._max_epochs = max_epochs
        self._num_tokens = num_tokens
        self._show_progress = show_progress
        self._bar: tqdm[Any] | None = None
        self._started_s = 0.0
        self._first_step = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._bar = bar(state.max_steps, "training", unit="step", shown=self._show_progress)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._started_s = time.monotonic()
        self._first_step = state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._bar is not None:
            self._bar.update(1)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        seconds = time.monotonic() - self._started_s
        share = (state.global_step - self._first_step) * self._max_epochs / state.max_steps
        speed = {"tokens_per_s": share * self._num_tokens / seconds, "seconds": seconds}
        state.log_history.append({**speed, "epoch": state.epoch, "step": state.global_step})

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        metrics: dict[str, float] = kwargs["metrics"]
        logger.info(
            "epoch %d of %d: loss %.4f, accuracy %.2f %%, macro-F1 %.2f %% on the validation rows",
            round(state.epoch),
            self._max_epochs,
            metrics["eval_nll"],
            100 * metrics["eval_accuracy"],
            100 * metrics["eval_macro_f1"],
        )

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _scores(prediction: Any, num_labels: int) -> dict[str, float]:
    logits_NL = np.asarray(prediction.predictions)
    predicted_N = logits_NL.argmax(axis=1)
    true_N = np.asarray(prediction.label_ids).astype(np.intp)
    confusion_LL = confusion_matrix(true_N, predicted_N, num_labels)
    p_NL = Calibration(SINGLE_LABEL).probabilities(logits_NL)
    return {
        "nll": negative_log_likelihood(p_NL, true_N),
        "accuracy": float((predicted_N == true_N).mean()),
        "macro_f1": float(np.nanmean(f1_scores(confusion_LL))),
    }
