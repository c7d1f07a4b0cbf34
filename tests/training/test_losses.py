"""Losses against numbers worked out by hand, and against torch's own where it has them."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from stream_classifier.errors import ConfigError
from stream_classifier.model.calibration import MULTI_LABEL, SINGLE_LABEL
from training.losses import IGNORED, TextLoss, class_weights

# p of the three texts' truths: 0.5, 0.8, 0.2
LOGITS = torch.tensor([[0.0, 0.0], [math.log(4), 0.0], [math.log(4), 0.0]])
LABELS = torch.tensor([0, 0, 1])


def mean(loss: TextLoss, logits: torch.Tensor, labels: torch.Tensor) -> float:
    return float(loss.weighted_sum(logits, labels) / loss.total_weight(labels))


def test_plain_is_the_mean_of_minus_log_p() -> None:
    expected = -(math.log(0.5) + math.log(0.8) + math.log(0.2)) / 3
    assert mean(TextLoss(SINGLE_LABEL), LOGITS, LABELS) == pytest.approx(expected)


def test_weights_make_a_weighted_mean() -> None:
    loss = TextLoss(SINGLE_LABEL, class_weights=torch.tensor([1.0, 3.0]))
    expected = -(math.log(0.5) + math.log(0.8) + 3 * math.log(0.2)) / 5
    assert mean(loss, LOGITS, LABELS) == pytest.approx(expected)
    assert mean(loss, LOGITS, LABELS) == pytest.approx(
        float(functional.cross_entropy(LOGITS, LABELS, weight=torch.tensor([1.0, 3.0])))
    )


def test_the_mean_of_parts_is_not_the_mean_of_the_whole() -> None:
    loss = TextLoss(SINGLE_LABEL, class_weights=torch.tensor([1.0, 3.0]))
    whole = mean(loss, LOGITS, LABELS)
    parts = [(LOGITS[:2], LABELS[:2]), (LOGITS[2:], LABELS[2:])]
    assert sum(mean(loss, *part) for part in parts) / 2 != pytest.approx(whole)
    weight = sum(loss.total_weight(labels) for _, labels in parts)
    assert float(sum(loss.weighted_sum(*part) for part in parts) / weight) == pytest.approx(whole)


def test_focal_multiplies_by_one_minus_p_to_gamma() -> None:
    loss = TextLoss(SINGLE_LABEL, focal_gamma=2.0)
    expected = -(0.25 * math.log(0.5) + 0.04 * math.log(0.8) + 0.64 * math.log(0.2)) / 3
    assert mean(loss, LOGITS, LABELS) == pytest.approx(expected)


def test_smoothing_is_that_of_torch() -> None:
    expected = functional.cross_entropy(LOGITS, LABELS, label_smoothing=0.1)
    assert mean(TextLoss(SINGLE_LABEL, smoothing=0.1), LOGITS, LABELS) == pytest.approx(float(expected))


@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 3.0])])
def test_rows_that_fill_up_a_batch_count_nothing(weights: torch.Tensor | None) -> None:
    loss = TextLoss(SINGLE_LABEL, class_weights=weights)
    logits, labels = torch.cat([LOGITS, LOGITS[:2]]), torch.cat([LABELS, torch.tensor([IGNORED, IGNORED])])
    assert mean(loss, logits, labels) == pytest.approx(mean(loss, LOGITS, LABELS))


def test_several_labels_are_binary_cross_entropy() -> None:
    labels = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    expected = functional.binary_cross_entropy_with_logits(LOGITS, labels)
    assert mean(TextLoss(MULTI_LABEL), LOGITS, labels) == pytest.approx(float(expected))
    filled = torch.cat([labels, torch.full((1, 2), float(IGNORED))])
    assert mean(TextLoss(MULTI_LABEL), torch.cat([LOGITS, LOGITS[:1]]), filled) == pytest.approx(float(expected))


def test_several_labels_weigh_where_they_are_true() -> None:
    labels, weights = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]), torch.tensor([2.0, 5.0])
    expected = functional.binary_cross_entropy_with_logits(LOGITS, labels, pos_weight=weights)
    assert mean(TextLoss(MULTI_LABEL, class_weights=weights), LOGITS, labels) == pytest.approx(float(expected))


def test_several_labels_focal_by_hand() -> None:
    logits, labels = torch.tensor([[math.log(4), math.log(4)]]), torch.tensor([[1.0, 0.0]])  # p of the truths: 0.8, 0.2
    expected = -(0.04 * math.log(0.8) + 0.64 * math.log(0.2)) / 2
    assert mean(TextLoss(MULTI_LABEL, focal_gamma=2.0), logits, labels) == pytest.approx(expected)


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], requires_grad=True)
    loss = TextLoss(SINGLE_LABEL, focal_gamma=2.0, smoothing=0.1).weighted_sum(logits, torch.tensor([1, 1]))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    import numpy as np
    from sklearn.utils.class_weight import compute_class_weight

    ours = class_weights("balanced", labels=["a", "b"], counts=[9, 3], num_texts=12, problem_type=SINGLE_LABEL)
    theirs = compute_class_weight("balanced", classes=np.array([0, 1]), y=np.array([0] * 9 + [1] * 3))
    assert ours.tolist() == pytest.approx(theirs.tolist())


def test_balanced_weights_of_several_labels_a_text_are_never_nothing() -> None:
    counts = [12, 3, 9, 0]
    weights = class_weights("balanced", labels=list("abcd"), counts=counts, num_texts=12, problem_type=MULTI_LABEL)
    assert weights.tolist() == pytest.approx([1.0, 3.0, 1 / 3, 1.0])


def test_named_weights_leave_the_others_at_one_and_know_their_labels() -> None:
    weights = class_weights({"b": 2}, labels=["a", "b"], counts=[1, 1], num_texts=2, problem_type=SINGLE_LABEL)
    assert weights.tolist() == [1.0, 2.0]
    with pytest.raises(ConfigError, match="'c'"):
        class_weights({"c": 2}, labels=["a", "b"], counts=[1, 1], num_texts=2, problem_type=SINGLE_LABEL)
