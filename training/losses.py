"""What is minimised: cross-entropy with smoothing, weights and focus, or its binary form for several labels a text.

A loss is the sum over the texts of a step, weighted, over their total weight. The total is that of the whole step, of
all its forward passes and processes: a mean of the means of its parts is another number when texts weigh differently
(1.626 against 1.572 in one example), and then accumulation would change what is learned.

B texts, L labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from stream_classifier.errors import ConfigError
from stream_classifier.model.calibration import MULTI_LABEL

__all__ = ["IGNORED", "TextLoss", "class_weights"]

IGNORED = -100
"""The label of a row that only fills up a batch, as in torch."""


class TextLoss:
    """The loss of texts, one number a text.

    Args:
        problem_type: single-label (softmax) or multi-label (sigmoid).
        smoothing: share of the target that is spread evenly over the labels (arXiv:1512.00567); with several labels a
            text it moves each target towards a half.
        focal_gamma: the exponent of (1 - p), p the probability of the truth (arXiv:1708.02002); 0 for none.
        class_weights: `[L]`; of a text with that label, or with several labels a text, of that label where it is true.
    """

    def __init__(
        self,
        problem_type: str,
        *,
        smoothing: float = 0.0,
        focal_gamma: float = 0.0,
        class_weights: Tensor | None = None,
    ) -> None:
        self._multi_label = problem_type == MULTI_LABEL
        self._smoothing = smoothing
        self._focal_gamma = focal_gamma
        self.class_weights = class_weights

    def total_weight(self, labels: Tensor) -> Tensor:
        """What the weighted losses of these texts are divided by, a float32 scalar; `labels` as for `weighted_sum`."""
        if self._multi_label:
            return (labels[:, 0] != IGNORED).sum().float()
        return self._text_weights(labels).sum()

    def weighted_sum(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The sum over texts of weight × loss, a float32 scalar.

        Args:
            logits: `[B, L]`.
            labels: int64 `[B]`, or with several labels a text 0 and 1 as floats `[B, L]`; `IGNORED` rows count nothing.
        """
        logits = logits.float()
        if self._multi_label:
            kept_B = labels[:, 0] != IGNORED
            return self._multi(logits[kept_B], labels[kept_B].float()).sum()
        return (self._text_weights(labels) * self._single(logits, labels.clamp(min=0))).sum()

    def _text_weights(self, labels: Tensor) -> Tensor:
        kept_B = (labels != IGNORED).float()
        if self.class_weights is None:
            return kept_B
        return kept_B * self.class_weights.to(labels.device)[labels.clamp(min=0)]

    def _single(self, logits: Tensor, labels: Tensor) -> Tensor:
        loss_B = functional.cross_entropy(logits, labels, reduction="none", label_smoothing=self._smoothing)
        if self._focal_gamma:
            p_B = logits.softmax(dim=-1).gather(1, labels[:, None])[:, 0]
            loss_B = (1 - p_B) ** self._focal_gamma * loss_B
        return loss_B

    def _multi(self, logits: Tensor, labels: Tensor) -> Tensor:
        targets = labels * (1 - self._smoothing) + self._smoothing / 2
        loss_BL = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        if self._focal_gamma:
            p_BL = torch.where(labels > 0.5, logits.sigmoid(), (-logits).sigmoid())
            loss_BL = (1 - p_BL) ** self._focal_gamma * loss_BL
        if self.class_weights is not None:
            loss_BL = torch.where(labels > 0.5, self.class_weights.to(logits.device), 1.0) * loss_BL
        return loss_BL.mean(dim=1)


def class_weights(
    wanted: str | Mapping[str, float],
    *,
    labels: Sequence[str],
    counts: Sequence[int],
    num_texts: int,
    problem_type: str,
) -> Tensor:
    """The weights `[L]` that a setting stands for.

    Args:
        wanted: "balanced", or a weight a label; labels not named weigh 1.
        counts: texts that have each label.

    "balanced" is scikit-learn's: texts / (labels × count), so that every label has the same weight in all; with several
    labels a text, texts without the label / texts with it, as torch advises for its pos_weight. A label that all texts
    have, or none, would then weigh nothing or anything: it weighs 1.

    Raises:
        ConfigError: a weight for a label that is not there.
    """
    if isinstance(wanted, str):
        if problem_type == MULTI_LABEL:
            return torch.tensor([(num_texts - count) / count if 0 < count < num_texts else 1.0 for count in counts])
        return torch.tensor([num_texts / (len(labels) * max(count, 1)) for count in counts])
    if unknown := sorted(set(wanted) - set(labels)):
        raise ConfigError(f"--class-weights names {unknown[0]!r}, which no row has; the labels are {', '.join(labels)}")
    return torch.tensor([float(wanted.get(label, 1.0)) for label in labels])
