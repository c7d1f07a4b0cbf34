"""The training loop: transformers' Trainer, with our own loss, order of the rows and groups of the optimizer.

It trains whatever module it is given, a whole model or its tail; what the result is worth is measured elsewhere. All
that decides how it goes on is in its checkpoints: Trainer's log has the history, and the order of an epoch is a
function of the seed. So it goes on after a kill as if nothing had happened, in the middle of an epoch too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from stream_classifier.model.calibration import MULTI_LABEL, Calibration
from training.averaging import WeightAverage
from training.callbacks import EarlyStop, NanStop, OwnDropout, Progress, ShuffleRows, Unfreeze
from training.checkpoints import SaveInTime, is_finished, last_checkpoint, load_best, saving
from training.classifier_head import classifier_of
from training.history import TrainingHistory
from training.interrupts import Interrupted, Interrupts
from training.layers import Depths
from training.linear_probe import fit_head, probe_rows
from training.losses import TextLoss
from training.metrics import confusion_matrix, f1_scores, negative_log_likelihood
from training.optimizer import parameter_groups
from training.progress import bar
from training.rows import Rows, RowsDataset, row_length
from training.sampling import EpochSampler, balanced_probabilities
from training.settings import FitSettings
from training.sharding import TellShares, complete_setup, set_sharding, without_weights

__all__ = ["LoopContext", "train"]

logger = logging.getLogger(__name__)

_TRAINER_METRICS = {"macro_f1": "macro_f1", "accuracy": "accuracy", "loss": "nll"}


@dataclass(frozen=True, slots=True)
class LoopContext:
    """Where and how a loop runs, beside the settings.

    Attributes:
        work_dir: for checkpoints; those that are there are gone on from.
        device: to train on.
        dtype: of autocast; float32 for none. Parameters stay float32.
        interrupts: what is told to stop; the loop then saves a checkpoint first.
        show_progress: whether to show a bar on a terminal.
        run_name: what trackers call it.
        callbacks: more of Trainer's.
        last_epoch: ends after it and keeps its weights, whatever the validation rows say; None: they decide.
    """

    work_dir: Path
    device: torch.device
    dtype: torch.dtype
    interrupts: Interrupts = field(default_factory=Interrupts)
    show_progress: bool = False
    run_name: str = "fit"
    callbacks: Sequence[TrainerCallback] = ()
    last_epoch: int | None = None


def train(
    module: nn.Module,
    train_rows: Rows,
    validation_rows: Rows,
    *,
    collate: Callable[[Sequence[dict[str, Any]]], dict[str, Tensor]],
    settings: FitSettings,
    problem_type: str,
    num_labels: int,
    loss: TextLoss,
    context: LoopContext,
    depths: Depths | None = None,
) -> TrainingHistory:
    """Trains the parameters of `module` that require gradients, in place, and leaves those of the best epoch in it.

    With `settings.probes` its last layer is fitted first, whatever it was: see linear_probe.py.

    With `settings.fsdp` the processes divide the module among them; afterwards it is whole in the main one alone.

    Args:
        module: gives `logits` `[B, num_labels]` for what `collate` makes, without its labels. To be divided, it is a
            PreTrainedModel on the CPU.
        train_rows, validation_rows: see rows.py.
        collate: rows to a padded batch with `labels`.
        depths: of the parameters; needed for layer-wise rates and gradual unfreezing.

    Raises:
        TrainingError: the loss is not a number; what to try is in the message.
        Interrupted: a signal came, and a checkpoint was saved.
    """
    checkpoint = last_checkpoint(context.work_dir)
    if checkpoint is not None and is_finished(checkpoint, settings, last_epoch=context.last_epoch):
        return load_best(module, checkpoint, settings)
    probabilities = (
        balanced_probabilities(np.stack([row["label"] for row in train_rows])) if settings.balanced_sampling else None
    )
    if checkpoint is None and settings.probes:  # in every process, as none has to wait then
        rows = probe_rows(train_rows, seed=settings.seed, probabilities=probabilities)
        _probe(
            module, rows, collate, settings, num_labels=num_labels, label_weights=loss.class_weights, context=context
        )
    arguments = _arguments(module, settings, context)  # of the whole module
    trainer = _FitTrainer(
        model=without_weights(module) if settings.fsdp else module,
        args=arguments,
        train_dataset=RowsDataset(train_rows),
        eval_dataset=RowsDataset(validation_rows),
        data_collator=collate,
        compute_metrics=lambda prediction: _scores(prediction, problem_type, num_labels),
        compute_loss_func=lambda outputs, labels, num_items_in_batch: (
            loss.weighted_sum(outputs["logits"], labels) / num_items_in_batch
        ),
    )
    trainer.text_loss = loss
    trainer.depths = depths
    trainer.settings = settings
    trainer.keeps_last = context.last_epoch is not None
    trainer.model_accepts_loss_kwargs = False
    trainer.rows_sampler = _sampler(train_rows, settings, probabilities, num_processes=trainer.args.world_size)
    trainer.average = WeightAverage(module, settings.average_decay) if settings.average_decay else None
    trainer.remove_callback(PrinterCallback)
    progress = Progress(
        num_tokens=sum(map(row_length, train_rows)), max_epochs=settings.max_epochs, shown=context.show_progress
    )
    for callback in (
        ShuffleRows(trainer.rows_sampler),
        OwnDropout(),
        NanStop(settings),
        EarlyStop(settings.metric, settings.patience_epochs, last_epoch=context.last_epoch),
        SaveInTime(context.interrupts, settings.checkpoint_steps),
        progress,
        *context.callbacks,
    ):
        trainer.add_callback(callback)
    if trainer.average is not None:
        trainer.add_callback(trainer.average)
    if settings.fsdp:
        trainer.add_callback(TellShares())
    if settings.gradual_unfreezing and depths is not None:
        trainer.add_callback(Unfreeze(module, depths, settings.gradual_unfreezing))
    try:
        # Several processes would see a signal in different steps, and wait for each other forever: they end at once.
        with context.interrupts.deferred() if trainer.args.world_size == 1 else nullcontext():
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    finally:
        progress.close()
    if context.interrupts.signum is not None:  # it came when all checkpoints were saved
        raise Interrupted("interrupted when all was trained", context.interrupts.signum)
    if settings.fsdp and trainer.is_world_process_zero():
        load_best(module, context.work_dir / f"checkpoint-{trainer.state.best_global_step}", settings)
    return TrainingHistory.from_log(trainer.state.log_history, metric=settings.metric, max_epochs=settings.max_epochs)


def _arguments(module: nn.Module, settings: FitSettings, context: LoopContext) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(context.work_dir),
        num_train_epochs=settings.max_epochs,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        learning_rate=settings.top_learning_rate,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        warmup_steps=settings.warmup_share,  # below 1 it is a share of all steps
        lr_scheduler_type="constant_with_warmup" if settings.scheduler == "constant" else settings.scheduler,
        optim="adamw_torch_fused",  # one pass over memory: on a CPU a tenth of the time of the unfused one
        bf16=context.dtype == torch.bfloat16,
        fp16=context.dtype == torch.float16,
        gradient_checkpointing=settings.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,  # beside the best
        load_best_model_at_end=not settings.fsdp,
        metric_for_best_model=_TRAINER_METRICS[settings.metric],
        greater_is_better=settings.metric != "loss",
        seed=settings.seed,
        data_seed=settings.seed,
        use_cpu=context.device.type == "cpu",
        dataloader_pin_memory=context.device.type != "cpu",
        remove_unused_columns=False,
        label_names=["labels"],
        logging_strategy="steps",
        logging_steps=1,  # the history is made from the log
        logging_nan_inf_filter=False,
        run_name=context.run_name,
        report_to=list(settings.report_to) or "none",
        disable_tqdm=True,
        fsdp=settings.fsdp,  # type: ignore[arg-type]  # documented as a bool, annotated for the command line
    )
    if settings.fsdp:
        set_sharding(arguments, module, context.dtype)
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # several GPUs are for torchrun; nn.DataParallel is slow, and takes means of our sums
    return arguments


def _probe(
    module: nn.Module,
    rows: Rows,
    collate: Callable[[Sequence[dict[str, Any]]], dict[str, Tensor]],
    settings: FitSettings,
    *,
    num_labels: int,
    label_weights: Tensor | None,
    context: LoopContext,
) -> None:
    classifier = classifier_of(module, num_labels)
    logger.info("fitting the head to what the base says of %d texts", len(rows))
    with bar(len(rows), "encoding", unit="text", shown=context.show_progress) as progress:
        is_fitted = classifier is not None and fit_head(
            module,
            classifier,
            rows,
            collate=collate,
            batch_size=settings.batch_size,
            label_weights=label_weights,
            dtype=context.dtype,
            advance=progress.update,
        )
    if not is_fitted:
        logger.info("what it says makes no linear probe: the head is trained with the rest from the start")


def _sampler(
    rows: Rows, settings: FitSettings, probabilities: NDArray[np.float64] | None, *, num_processes: int
) -> EpochSampler:
    per_pass = settings.batch_size * num_processes
    return EpochSampler(
        len(rows),
        lengths=[row_length(row) for row in rows] if settings.group_by_length else None,
        step_size=per_pass * settings.gradient_accumulation_steps,
        seed=settings.seed,
        probabilities=probabilities,
        multiple=per_pass if num_processes > 1 else 1,
    )


class _FitTrainer(Trainer):
    """Trainer with our order of the rows, our groups for the optimizer, and the weight of a whole step in its loss."""

    text_loss: TextLoss
    depths: Depths | None
    settings: FitSettings
    rows_sampler: EpochSampler
    average: WeightAverage | None
    keeps_last: bool

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        if self.args.fsdp:
            complete_setup(self.accelerator, self.args)
            self.is_fsdp_enabled = True

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochSampler:
        return self.rows_sampler

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor]:
        """The batches of a step, and the weight of all their texts in all processes: what its loss is divided by."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        weight = torch.stack([self.text_loss.total_weight(batch["labels"]) for batch in batches]).sum().to(device)
        if self.args.world_size > 1:
            weight = self.accelerator.gather(weight[None]).sum()
        return batches, weight

    def evaluate(self, *arguments: Any, **named: Any) -> dict[str, float]:
        """Of the mean of the weights, where there is one."""
        with self._averaged():
            metrics: dict[str, float] = super().evaluate(*arguments, **named)
        return metrics

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Of equal F1s or accuracies the last is the best, as `history.best_index` says."""
        metric = self.settings.metric
        if self.keeps_last or (metric != "loss" and metrics[f"eval_{metric}"] == self.state.best_metric):
            self.state.best_metric = None
        return bool(super()._determine_best_metric(metrics, trial))

    def _averaged(self) -> AbstractContextManager[None]:
        return nullcontext() if self.average is None else self.average.in_place()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.average is not None:
            self.average.resume(Path(resume_from_checkpoint))

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        if self.average is not None:
            self.average.save_last_step(Path(output_dir or str(self.args.output_dir)))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        what = f"the checkpoint of step {self.state.global_step}"
        with saving(what, Path(str(self.args.output_dir))), self._averaged():
            super()._save_checkpoint(model, trial)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW over `parameter_groups`."""
        module: Any = self.model if model is None else model
        if self.optimizer is None:
            optimizer_class, arguments = self.get_optimizer_cls_and_kwargs(self.args, module)
            groups = parameter_groups(
                module,
                learning_rate=self.args.learning_rate,
                weight_decay=self.args.weight_decay,
                layer_decay=self.settings.layer_decay,
                depths=self.depths,
                decayed=self.get_decay_parameter_names(module),
            )
            self.optimizer = optimizer_class(groups, **arguments)
        return self.optimizer


def _scores(prediction: Any, problem_type: str, num_labels: int) -> dict[str, float]:
    """What an epoch is judged by: figures of the raw logits on the validation rows."""
    logits_NL = np.asarray(prediction.predictions, dtype=np.float64)
    p_NL = Calibration(problem_type).probabilities(logits_NL)
    if problem_type == MULTI_LABEL:
        true_NL = np.asarray(prediction.label_ids) > 0.5
        predicted_NL = logits_NL > 0
        hits_L = (predicted_NL & true_NL).sum(axis=0)
        total_L = predicted_NL.sum(axis=0) + true_NL.sum(axis=0)
        tiny = np.finfo(np.float64).tiny
        return {
            "nll": float(-np.log(np.maximum(np.where(true_NL, p_NL, 1 - p_NL), tiny)).mean()),
            "accuracy": float((predicted_NL == true_NL).all(axis=1).mean()),
            "macro_f1": float((2 * hits_L / np.maximum(total_L, 1))[total_L > 0].mean()) if total_L.any() else 0.0,
        }
    predicted_N = logits_NL.argmax(axis=1)
    true_N = np.asarray(prediction.label_ids).astype(np.intp)
    confusion_LL = confusion_matrix(true_N, predicted_N, num_labels)
    return {
        "nll": negative_log_likelihood(p_NL, true_N),
        "accuracy": float((predicted_N == true_N).mean()),
        "macro_f1": float(np.nanmean(f1_scores(confusion_LL))),
    }
