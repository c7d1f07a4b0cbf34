"""The models of a cross-validation: each trained on all folds but one, asked about that one.

With a frozen encoder the layers below the last run once over all texts, whatever the number of folds; else every fold
is a fit of its own.

    N texts, L labels.
"""

from __future__ import annotations

import copy
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import set_seed

from stream_classifier.model.backends.torch import pick_device, pick_dtype
from stream_classifier.model.calibration import MULTI_LABEL, SINGLE_LABEL
from stream_classifier.model.classifier import Classifier
from stream_classifier.model.publish import write_manifest
from stream_classifier.model.tokenization import TextTokenizer
from training.data import Table, label_targets
from training.encoder import find_base, load_encoder, quiet_transformers, starting_encoder
from training.fine_tuning import fine_tune, text_loss
from training.inspection import Inspection
from training.interrupts import Interrupts
from training.loop import LoopContext, train
from training.model_files import save_files
from training.parts import Parts
from training.progress import bar
from training.rows import hidden_rows, pad_hidden
from training.settings import FitSettings
from training.splits import split_table, units_of
from training.tail import Tail, encode_below, has_tail

__all__ = ["FittedFolds", "FoldModels", "FrozenFolds", "assign_folds", "validation_rows"]

logger = logging.getLogger(__name__)

_BATCH = 256


class FoldModels(Protocol):
    """Trains a model on some rows of a table and asks it about others."""

    def logits(
        self, train: NDArray[np.intp], held_out: NDArray[np.intp], *, seed: int, work_dir: Path | None = None
    ) -> NDArray[np.float32]:
        """The raw logits `[len(held_out), L]` of a model trained on the rows `train`, from the same start every time.

        Args:
            train: of these a part is kept to choose the epoch.
            held_out: rows that have no part in it.
            seed: of the order of the rows and of dropout.
            work_dir: for its checkpoints; those that are there are gone on from. None: they are not kept.
        """
        ...


class FrozenFolds:
    """Models that share a frozen encoder: last layer and head are trained anew, on what is computed once of each text.

    Args:
        table: all rows.
        labels: of the head, in its order.
        settings: of the fits.
        interrupts: what is told to stop.
        show_progress: whether a bar is shown on a terminal.

    Raises:
        ConfigError: a base that cannot be used, or too many tokens to keep what the encoder says of them.
    """

    def __init__(
        self,
        table: Table,
        labels: tuple[str, ...],
        settings: FitSettings,
        *,
        interrupts: Interrupts | None = None,
        show_progress: bool = False,
    ) -> None:
        self._table = table
        self._labels = labels
        self._settings = settings
        self._interrupts = interrupts or Interrupts()
        self._problem_type = MULTI_LABEL if table.multi_label else SINGLE_LABEL
        self._targets = label_targets(table, labels)
        self._device = pick_device(settings.device)
        dtype = pick_dtype(settings.dtype, self._device)
        with quiet_transformers(), tempfile.TemporaryDirectory() as folder:
            encoder = starting_encoder(settings, labels, self._problem_type)
            encoder.tokenizer.save_pretrained(folder)
            tokens = TextTokenizer(
                Path(folder) / "tokenizer.json",
                max_length=min(settings.max_length, encoder.max_length),
                vocab_size=encoder.model.config.vocab_size,
            ).encode(table.texts)
        model = encoder.model.to(self._device)
        logger.info("encoding: the layers below the last run once a text, for all folds")
        with bar(len(tokens.input_ids_T), "encoding", unit="token", shown=show_progress) as progress:
            self._hidden = encode_below(model, tokens, dtype=dtype, advance=progress.update)
        self._tail = Tail(model)
        self._start = copy.deepcopy(self._tail.state_dict())

    @staticmethod
    def can(settings: FitSettings) -> bool:
        """Whether the settings freeze the encoder for good, of a family whose last layer can be run alone."""
        if not settings.freeze_encoder or settings.contrastive_steps:  # which changes it, for each fold otherwise
            return False
        with quiet_transformers():
            return has_tail(load_encoder(find_base(settings.base), ("a", "b")).model)

    def logits(
        self, train_rows: NDArray[np.intp], held_out: NDArray[np.intp], *, seed: int, work_dir: Path | None = None
    ) -> NDArray[np.float32]:
        """See `FoldModels`."""
        settings = replace(self._settings, seed=seed)
        first, second = validation_rows(self._table, train_rows, settings)
        settings = settings.for_rows(len(first))
        self._tail.load_state_dict(self._start)
        set_seed(seed)
        with _kept(work_dir) as folder:
            train(
                self._tail,
                self._rows(first),
                self._rows(second),
                collate=pad_hidden,
                settings=settings,
                problem_type=self._problem_type,
                num_labels=len(self._labels),
                loss=text_loss(self._table.take(first.tolist(), self._table.source), self._labels, settings),
                context=LoopContext(folder, self._device, torch.float32, interrupts=self._interrupts),
            )
        return self._ask(held_out)

    def _rows(self, rows: NDArray[np.intp]) -> list[dict[str, object]]:
        return hidden_rows([self._hidden[i] for i in rows], self._targets[rows])

    def _ask(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        self._tail.eval()
        order = rows[np.argsort([len(self._hidden[i]) for i in rows], kind="stable")]
        logits_NL = np.empty((len(self._hidden), len(self._labels)), dtype=np.float32)
        with torch.inference_mode():
            for start in range(0, len(order), _BATCH):
                batch = order[start : start + _BATCH]
                inputs = pad_hidden(self._rows(batch))
                output = self._tail(inputs["hidden_BSE"].to(self._device), inputs["real_BS"].to(self._device))
                logits_NL[batch] = output["logits"].float().cpu().numpy()
        return logits_NL[rows]


class FittedFolds:
    """Models that are fine-tuned from the base, each a fit of its own, and asked by the code that serves.

    Args:
        table: all rows.
        labels: of the head, in its order.
        settings: of the fits.
        inspection: what `data check` says of the rows.
        interrupts: what is told to stop.
        show_progress: whether bars are shown on a terminal.
    """

    def __init__(
        self,
        table: Table,
        labels: tuple[str, ...],
        settings: FitSettings,
        inspection: Inspection,
        *,
        interrupts: Interrupts | None = None,
        show_progress: bool = False,
    ) -> None:
        self._table = table
        self._labels = labels
        self._settings = settings
        self._inspection = inspection
        self._interrupts = interrupts or Interrupts()
        self._show_progress = show_progress

    def logits(
        self, train_rows: NDArray[np.intp], held_out: NDArray[np.intp], *, seed: int, work_dir: Path | None = None
    ) -> NDArray[np.float32]:
        """See `FoldModels`."""
        table, settings = self._table, replace(self._settings, seed=seed)
        first, second = validation_rows(table, train_rows, settings)
        settings = settings.for_rows(len(first))
        parts = Parts(
            train=table.take(first.tolist(), table.source),
            validation=table.take(second.tolist(), table.source),
            test=None,
            labels=self._labels,
            positive_label=None,
            inspection=self._inspection,
        )
        with _kept(work_dir) as checkpoints, tempfile.TemporaryDirectory() as folder, quiet_transformers():
            encoder = starting_encoder(settings, self._labels, parts.problem_type)
            directory = Path(folder) / "model"
            fine_tune(
                encoder,
                parts,
                settings,
                work_dir=checkpoints,
                interrupts=self._interrupts,
                show_progress=self._show_progress,
            )
            save_files(encoder, directory)
            write_manifest(directory, {"max_length": min(settings.max_length, encoder.max_length)})
            classifier = Classifier.load(directory, device=settings.device, dtype=settings.dtype)
            return classifier.logits([table.texts[i] for i in held_out])


@contextmanager
def _kept(work_dir: Path | None) -> Iterator[Path]:
    """The folder for checkpoints, or one that is gone afterwards."""
    if work_dir is not None:
        yield work_dir
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def assign_folds(table: Table, num_folds: int, *, seed: int) -> NDArray[np.intp]:
    """The fold of each row, `[N]`: of about equal size, with every label's rows spread over them.

    Rows that belong together (copies, equal values of the group column) are in one fold: see `splits.units_of`. Time
    divides no folds.
    """
    table = replace(table, times=None)
    unit_N = units_of(table)
    if np.bincount(unit_N).max() > len(table) / num_folds:
        logger.warning("%s: a fold's worth of rows are nearly copies; only equal ones are kept in one", table.source)
        unit_N = units_of(table, near=False)
    counts = table.label_counts()
    rarest = [min(label_set, key=lambda label: counts[label], default="") for label_set in table.label_sets]
    _, first, unit_of_row = np.unique(unit_N, return_index=True, return_inverse=True)
    sizes = np.bincount(unit_of_row)
    draws = np.random.default_rng(seed).random(len(first))
    # The large units first, each label in turn; every unit goes where its label is rarest so far, then to the smallest.
    order = sorted(range(len(first)), key=lambda unit: (-sizes[unit], rarest[first[unit]], draws[unit]))
    fold_of_unit = np.empty(len(first), dtype=np.intp)
    totals = np.zeros(num_folds, dtype=np.intp)
    of_label: dict[str, NDArray[np.intp]] = {}
    for unit in order:
        own = of_label.setdefault(rarest[first[unit]], np.zeros(num_folds, dtype=np.intp))
        fold = int(np.lexsort((totals, own))[0])
        fold_of_unit[unit] = fold
        own[fold] += sizes[unit]
        totals[fold] += sizes[unit]
    folds_N: NDArray[np.intp] = fold_of_unit[unit_of_row]
    return folds_N


def validation_rows(
    table: Table, rows: NDArray[np.intp], settings: FitSettings
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Of the rows to train on, those that are trained on and those that choose the epoch."""
    marked = replace(table.take(rows.tolist(), table.source), lines=list(range(len(rows))))
    first, second = split_table(marked, share=settings.validation_share, seed=settings.seed)
    if first.lines is None or second.lines is None:
        raise ValueError("a table lost the lines of its rows")
    return rows[first.lines], rows[second.lines]
