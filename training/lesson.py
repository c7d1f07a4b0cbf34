"""What a student learns from a teacher's answers: soft targets beside the labels, and hidden states if wanted.

The teacher answers every text once, before the training; its answers travel in the rows, packed beside the label, so
that the loop, its order of the rows, its checkpoints and its early stopping are those of every fit.

    N texts, B of a batch, L labels, K layers, E width.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from stream_classifier.errors import ConfigError
from stream_classifier.model.calibration import MULTI_LABEL
from training.losses import IGNORED, TextLoss
from training.rows import Rows

__all__ = ["UNLABELLED", "Lesson", "LessonLoss", "LessonSettings", "read_unlabelled"]

UNLABELLED = -1
"""The label of a text that has none: it counts by the teacher's answer alone."""


@dataclass(frozen=True, slots=True)
class LessonSettings:
    """How much of what is learned from the teacher.

    Raises:
        ConfigError: a value out of range.
    """

    temperature: float = 2.0
    """Divides the logits of both before they are compared: above 1 small probabilities count for more."""
    hard_weight: float = 0.3
    """Share of the labels' own loss, the rest is the teacher's; 0: the teacher alone."""
    hidden_weight: float = 0.0
    """Weight of the distance of the first token's hidden states from the teacher's, layer by layer; 0: none."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ConfigError(f"temperature is {self.temperature!r}; give a positive number, such as 2")
        if not 0 <= self.hard_weight <= 1:
            raise ConfigError(f"hard_weight is {self.hard_weight!r}; give a share from 0 to 1, such as 0.3")
        if not (math.isfinite(self.hidden_weight) and self.hidden_weight >= 0):
            raise ConfigError(f"hidden_weight is {self.hidden_weight!r}; give 0 for none, or a positive number")


@dataclass(frozen=True, slots=True)
class Lesson:
    """A teacher's answers to the texts of a training.

    Attributes:
        settings: what they count for.
        unlabelled: texts after those of the table, which have no label.
        logits_NL: float32, of all texts, raw, in the order of the student's labels.
        first_NKE: float32, the first token's hidden states after K layers of the teacher; None: not learned from.
        layers: the student's K layers that are to be like them, counted from 1.
    """

    settings: LessonSettings
    unlabelled: tuple[str, ...]
    logits_NL: NDArray[np.float32] = field(repr=False)
    first_NKE: NDArray[np.float32] | None = field(default=None, repr=False)
    layers: tuple[int, ...] = ()

    def targets(self, targets: NDArray[Any]) -> NDArray[Any]:
        """The table's targets, and `UNLABELLED` for the other texts."""
        return np.concatenate([targets, np.full((len(self.unlabelled), *targets.shape[1:]), UNLABELLED, targets.dtype)])

    def annotated(self, rows: Rows) -> Rows:
        """Training rows with the teacher's answer in `teacher`, float32 `[L + K·E]`."""
        taught = self.logits_NL
        if self.first_NKE is not None:
            taught = np.concatenate([taught, self.first_NKE.reshape(len(taught), -1)], axis=1)
        return [{**row, "teacher": answer} for row, answer in zip(rows, taught, strict=True)]

    def collated(self, collate: Callable[..., dict[str, Tensor]]) -> Callable[..., dict[str, Tensor]]:
        """`collate`, packing label and teacher's answer into `labels`: float32 `[B, 1 or L, + L + K·E]`."""
        return functools.partial(_collated, collate=collate)

    def loss(self, of_labels: TextLoss, *, problem_type: str) -> LessonLoss:
        """The loss of such batches; of batches without a teacher's answer, as for validation, `of_labels`."""
        return LessonLoss(self, of_labels, problem_type=problem_type)

    def module(self, model: Any) -> nn.Module:
        """What is trained: the model, in training giving its hidden states beside the logits where they count."""
        return model if self.first_NKE is None else _WithFirstTokens(model, self.layers)


def read_unlabelled(path: Path) -> tuple[str, ...]:
    """The texts of a file, one a line; empty lines are left out.

    Raises:
        ConfigError: it cannot be read, or has no text.
    """
    try:
        texts = tuple(line for line in path.read_text("utf-8-sig").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        fix = "give a file of UTF-8 with one text a line"
        raise ConfigError(f"--unlabelled {path}: it cannot be read ({type(error).__name__}); {fix}") from error
    if not texts:
        raise ConfigError(f"--unlabelled {path}: there is no text in it; give one a line")
    return texts


class LessonLoss(TextLoss):
    """`hard_weight` × the labels' loss + the rest × T² × the divergence from the teacher (arXiv:1503.02531), and
    `hidden_weight` × the squared distance of the normalised first tokens (arXiv:1908.09355).

    A text without a label counts by the teacher alone. The total is divided by the number of texts.
    """

    def __init__(self, lesson: Lesson, of_labels: TextLoss, *, problem_type: str) -> None:
        super().__init__(problem_type)
        self._lesson = lesson
        self._of_labels = of_labels
        self._num_labels = lesson.logits_NL.shape[1]
        self._num_hard = self._num_labels if problem_type == MULTI_LABEL else 1

    def total_weight(self, labels: Tensor) -> Tensor:
        """The number of texts that count; `labels` as for `weighted_sum`."""
        if not self._is_packed(labels):
            return self._of_labels.total_weight(labels)
        return (labels[:, 0] != IGNORED).sum().float()

    def weighted_sum(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The sum over texts, a float32 scalar.

        Args:
            logits: `[B, L]`, or where hidden states count `[B, L + K·E]`.
            labels: packed, or as for TextLoss.
        """
        if not self._is_packed(labels):
            return self._of_labels.weighted_sum(logits, labels)
        counted_B = labels[:, 0] != IGNORED
        labels, logits = labels[counted_B], logits[counted_B].float()
        hard = labels[:, : self._num_hard]
        teacher_BL = labels[:, self._num_hard : self._num_hard + self._num_labels]
        student_BL = logits[:, : self._num_labels]
        settings = self._lesson.settings
        labelled_B = hard[:, 0] != UNLABELLED
        soft_B = self._soft(student_BL, teacher_BL)
        total = torch.where(labelled_B, 1 - settings.hard_weight, 1.0).mul(soft_B).sum()
        if settings.hard_weight and bool(labelled_B.any()):
            kept = hard[labelled_B]
            kept = kept if self._multi_label else kept[:, 0].long()
            total = total + settings.hard_weight * self._of_labels.weighted_sum(student_BL[labelled_B], kept)
        if self._lesson.first_NKE is not None:
            num_layers = len(self._lesson.layers)
            student_BKE = logits[:, self._num_labels :].reshape(len(logits), num_layers, -1)
            teacher_BKE = labels[:, self._num_hard + self._num_labels :].reshape(len(labels), num_layers, -1)
            apart_BKE = functional.normalize(student_BKE, dim=2) - functional.normalize(teacher_BKE, dim=2)
            total = total + settings.hidden_weight * apart_BKE.square().sum(dim=2).mean(dim=1).sum()
        return total

    def _soft(self, student_BL: Tensor, teacher_BL: Tensor) -> Tensor:
        t = self._lesson.settings.temperature
        if self._multi_label:
            wanted_BL = (teacher_BL / t).sigmoid()
            loss_BL = functional.binary_cross_entropy_with_logits(student_BL / t, wanted_BL, reduction="none")
            least_BL = functional.binary_cross_entropy(wanted_BL, wanted_BL, reduction="none")
            return t * t * (loss_BL - least_BL).mean(dim=1)
        wanted_BL, given_BL = (teacher_BL / t).log_softmax(dim=1), (student_BL / t).log_softmax(dim=1)
        return t * t * functional.kl_div(given_BL, wanted_BL, reduction="none", log_target=True).sum(dim=1)

    def _is_packed(self, labels: Tensor) -> bool:
        return labels.ndim == 2 and labels.shape[1] > self._num_labels


class _WithFirstTokens(nn.Module):
    """A model that in training gives `[B, L + K·E]`: its logits, and its first token after each of `layers`."""

    def __init__(self, model: Any, layers: Sequence[int]) -> None:
        super().__init__()
        self.model = model
        self._layers = tuple(layers)

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """The logits; in training the hidden states beside them."""
        if not self.training:
            return {"logits": self.model(**inputs).logits}
        output = self.model(**inputs, output_hidden_states=True)
        first = [output.hidden_states[layer][:, 0].float() for layer in self._layers]
        return {"logits": torch.cat([output.logits.float(), *first], dim=1)}


def _collated(rows: Sequence[dict[str, Any]], *, collate: Callable[..., dict[str, Tensor]]) -> dict[str, Tensor]:
    batch = collate(rows)
    if "teacher" not in rows[0]:
        return batch
    labels = batch["labels"].float()
    hard = labels[:, None] if labels.ndim == 1 else labels
    taught = torch.from_numpy(np.stack([row["teacher"] for row in rows]))
    return {**batch, "labels": torch.cat([hard, taught], dim=1)}
