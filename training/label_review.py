"""Labels that look wrong, by what models say that never saw their texts: confident learning (arXiv:1911.00068) tells
which, their loss in what order. On AG News with known errors that order is better than confident learning's own margins
(average precision 0.560 against 0.537: benchmarks/results/accuracy/label_review.json).

N texts, L labels, p out-of-fold probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.answers import Answers, one_hot
from training.metrics import log_losses

__all__ = ["Suspicion", "margins", "set_suspicions", "suspicions", "suspicions_of"]

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Suspicion:
    """How wrong what each text was given looks.

    Attributes:
        scores_N: the loss of the label given, -log p in nats: the higher, the more suspicious. With several labels a
            text that of the label most wrongly given or left out.
        flagged_N: bool, whether another label is as sure as that label's own texts are on average, and surer than the
            one given.
        suggested_NL: bool, the labels that look right.
        p_suggested_N: the probability of that label; with several labels a text that the one of `scores_N` was most
            wrongly given or left out.
    """

    scores_N: NDArray[np.float64]
    flagged_N: NDArray[np.bool_]
    suggested_NL: NDArray[np.bool_]
    p_suggested_N: NDArray[np.float64]

    def ranked(self) -> NDArray[np.intp]:
        """Row numbers, the most suspicious first."""
        return np.argsort(-self.scores_N, kind="stable")


def suspicions_of(answers: Answers) -> Suspicion:
    """Judges the labels of all texts that were answered."""
    if answers.multi_label:
        return set_suspicions(answers.p_NL, answers.true_NL)
    return suspicions(answers.p_NL, answers.true_N)


def suspicions(p_NL: NDArray[np.float64], given_N: NDArray[np.intp]) -> Suspicion:
    """Judges the labels given, each by the probabilities of a model that was not trained on its text.

    A text is flagged when another label reaches its own threshold (see `margins`) and is surer than the one given: a
    label that the models are never sure of, a rare or a broad one, does not fill the list.

    >>> p = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.9, 0.1]])
    >>> found = suspicions(p, np.array([0, 0, 1, 1]))
    >>> found.ranked().tolist()[0], found.flagged_N.tolist()
    (3, [False, False, False, True])
    """
    every_N = np.arange(len(given_N))
    margins_NL = margins(p_NL, given_N)
    margins_NL[every_N, given_N] = -np.inf
    suggested_N = margins_NL.argmax(axis=1)
    reached_N = margins_NL[every_N, suggested_N] >= -_ROUNDING
    flagged_N = reached_N & (p_NL[every_N, suggested_N] > p_NL[every_N, given_N])
    p_suggested_N = p_NL[every_N, suggested_N]
    suggested_NL = one_hot(suggested_N, p_NL.shape[1])
    return Suspicion(log_losses(p_NL, given_N), flagged_N, suggested_NL, p_suggested_N)


def set_suspicions(p_NL: NDArray[np.float64], given_NL: NDArray[np.bool_]) -> Suspicion:
    """Judges sets of labels: whether each label was rightly given, or rightly left out, as a question of its own.

    >>> p = np.array([[0.9, 0.1], [0.8, 0.9], [0.1, 0.9], [0.9, 0.1]])
    >>> found = set_suspicions(p, np.array([[True, False], [True, False], [False, True], [True, False]]))
    >>> found.flagged_N.tolist(), found.suggested_NL[1].tolist()
    ([False, True, False, False], [True, True])
    """
    losses_NL = np.empty(p_NL.shape)
    flagged_NL = np.empty(p_NL.shape, np.bool_)
    for i, p_N in enumerate(p_NL.T):
        found = suspicions(np.stack([1 - p_N, p_N], axis=1), given_NL[:, i].astype(np.intp))
        losses_NL[:, i], flagged_NL[:, i] = found.scores_N, found.flagged_N
    flagged_N = np.any(flagged_NL, axis=1, keepdims=False)
    counted_NL = flagged_NL | ~flagged_N[:, None]
    scores_N = np.where(counted_NL, losses_NL, -np.inf).max(axis=1)
    return Suspicion(scores_N, flagged_N, given_NL ^ flagged_NL, 1 - np.exp(-scores_N))


def margins(p_NL: NDArray[np.float64], given_N: NDArray[np.intp]) -> NDArray[np.float64]:
    """How far each probability is above its label's threshold, the mean that the label has on its own texts.

    A label without texts has margins of -inf.
    """
    num_texts, num_labels = p_NL.shape
    counts_L = np.bincount(given_N, minlength=num_labels)
    own_L = np.bincount(given_N, weights=p_NL[np.arange(num_texts), given_N], minlength=num_labels)
    thresholds_L = np.where(counts_L > 0, own_L / np.maximum(counts_L, 1), np.inf)
    margins_NL: NDArray[np.float64] = p_NL - thresholds_L
    return margins_NL
