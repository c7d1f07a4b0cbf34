"""The head before the rest: a linear probe, from which fine-tuning goes on (LP-FT, arXiv:2202.10054).

A head drawn by chance pulls the layers below it anywhere while it is learning what they say, and they forget some of
what they knew. Fitted first, on what the base says of the texts, it points where a logistic regression does; not as
far, for a head that is sure of every training text leaves the layers below it nothing to learn.

Measured on validation rows, from the 6-layer default base, after 6 epochs, and after 10 without a probe: Banking77
93.0 % right (92.4), negative log-likelihood 0.27 (0.33); TREC-6 with 64 texts a label 87.5 % (86.8), and 85.7 % with
five times the sureness below.

    N texts, E width of the classifier's input, L labels.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from training.classifier_head import classifier_calls
from training.rows import Rows, row_length

__all__ = ["MAX_TEXTS", "fit_head", "probe_rows"]

MAX_TEXTS = 20_000
"""Texts that a head is fitted on at most, so that a large table does not wait long for what is only a start."""

_MAX_ITERATIONS = 100  # it need not converge: what follows trains it further
_INVERSE_PENALTY = 0.1  # scikit-learn's C
_SURENESS = 0.05  # the logits that the head begins with, as a share of the fitted ones


def probe_rows(rows: Rows, *, seed: int, probabilities: NDArray[np.float64] | None = None) -> Rows:
    """The rows, at most `MAX_TEXTS`; drawn with replacement where there are `probabilities`, one a row."""
    size = min(len(rows), MAX_TEXTS)
    if size == len(rows) and probabilities is None:
        return rows
    draw = np.random.default_rng([seed, 2])
    chosen = draw.choice(len(rows), size=size, replace=probabilities is not None, p=probabilities)
    return [rows[i] for i in np.sort(chosen)]


def fit_head(
    module: nn.Module,
    classifier: nn.Linear,
    rows: Rows,
    *,
    collate: Callable[[Sequence[dict[str, Any]]], dict[str, Tensor]],
    batch_size: int,
    label_weights: Tensor | None,
    dtype: torch.dtype,
    advance: Callable[[int], object],
) -> bool:
    """Fits `classifier` to the labels of `rows`, in place, and nothing else. Blocks.

    Returns whether it could: False where what the classifier gives are not the logits, as in families that pool them,
    or what it reads is no finite number.

    Its logits are a twentieth of the fitted ones. A label that no row has, or every row, keeps the weights that it was
    drawn with.

    Args:
        module: takes what `collate` makes of rows, without its labels; on the device to compute on.
        classifier: see `classifier_of`.
        rows: see `probe_rows`.
        collate: rows to a padded batch.
        batch_size: texts of a forward pass.
        label_weights: `[L]`: how much a text with that label counts; None: all alike.
        dtype: of autocast; float32 for none.
        advance: called with a number of texts, for a progress bar.
    """
    features_NE = _features(module, classifier, rows, collate, batch_size, dtype, advance)
    if features_NE is None or not np.isfinite(features_NE).all():
        return False
    scale = float(features_NE.std()) or 1.0  # the penalty goes by size, and what a pooler says is small
    targets = np.stack([row["label"] for row in rows])
    regressions = _one_for_all if targets.ndim == 1 else _one_a_label
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for label, weight_E, bias in regressions(features_NE / scale, targets, label_weights):
            classifier.weight[label] = torch.as_tensor(_SURENESS / scale * weight_E)
            if classifier.bias is not None:
                classifier.bias[label] = _SURENESS * bias
    return True


def _features(
    module: nn.Module,
    classifier: nn.Linear,
    rows: Rows,
    collate: Callable[[Sequence[dict[str, Any]]], dict[str, Tensor]],
    batch_size: int,
    dtype: torch.dtype,
    advance: Callable[[int], object],
) -> NDArray[np.float32] | None:
    """What the classifier reads of each text, `[N, E]`; None where what it gives are not the logits."""
    device = classifier.weight.device
    features_NE = np.empty((len(rows), classifier.in_features), dtype=np.float32)
    order = sorted(range(len(rows)), key=lambda i: row_length(rows[i]))
    was_training = module.training
    module.eval()
    try:
        with classifier_calls(classifier) as calls, torch.no_grad():
            for start in range(0, len(order), batch_size):
                batch = order[start : start + batch_size]
                inputs = {name: tensor.to(device) for name, tensor in collate([rows[i] for i in batch]).items()}
                del inputs["labels"]
                with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
                    logits = module(**inputs)["logits"]
                if not calls or calls[-1][1] is not logits:
                    return None
                features_NE[batch] = calls.pop()[0].float().cpu().numpy()
                advance(len(batch))
    finally:
        module.train(was_training)
    return features_NE


_Regressions = Iterator[tuple[int, NDArray[np.float32], float]]
"""For each label its index, weights `[E]` and bias."""


def _one_for_all(features_NE: NDArray[np.float32], targets_N: Any, label_weights: Tensor | None) -> _Regressions:
    """Softmax over the labels that there are; none where there is one."""
    labels = np.unique(targets_N).tolist()
    if len(labels) < 2:
        return
    weights = None if label_weights is None else {label: float(label_weights[label]) for label in labels}
    regression = LogisticRegression(C=_INVERSE_PENALTY, max_iter=_MAX_ITERATIONS, class_weight=weights)
    found = regression.fit(features_NE, targets_N)
    coefficients, biases = found.coef_, found.intercept_
    if len(found.classes_) == 2:  # one row for the difference of the two
        coefficients, biases = (np.concatenate([-half / 2, half / 2]) for half in (coefficients, biases))
    yield from zip(found.classes_.tolist(), coefficients, biases.tolist(), strict=True)


def _one_a_label(features_NE: NDArray[np.float32], targets_NL: Any, label_weights: Tensor | None) -> _Regressions:
    """For each label: has a text it, or not."""
    for label in range(targets_NL.shape[1]):
        has_N = targets_NL[:, label] > 0.5
        if not has_N.any() or has_N.all():
            continue
        weight = None if label_weights is None else {True: float(label_weights[label]), False: 1.0}
        regression = LogisticRegression(C=_INVERSE_PENALTY, max_iter=_MAX_ITERATIONS, class_weight=weight)
        found = regression.fit(features_NE, has_N)
        yield label, found.coef_[0], float(found.intercept_[0])
