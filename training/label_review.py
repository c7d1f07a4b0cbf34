"""Labels that look wrong: ranked by what models say that never saw them, after confident learning (arXiv:1911.00068).

N texts, L labels, p out-of-fold probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Suspicion", "suspicions"]

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Suspicion:
    """How wrong each label looks.

    Attributes:
        scores_N: the higher, the more suspicious; comparable within a table only.
        flagged_N: bool, whether another label is as sure as that label's own texts are on average, and surer than the
            one given.
        suggested_N: the index of the label that looks right.
    """

    scores_N: NDArray[np.float64]
    flagged_N: NDArray[np.bool_]
    suggested_N: NDArray[np.intp]

    def ranked(self) -> NDArray[np.intp]:
        """Row numbers, the most suspicious first."""
        return np.argsort(-self.scores_N, kind="stable")


def suspicions(p_NL: NDArray[np.float64], given_N: NDArray[np.intp]) -> Suspicion:
    """Judges the labels given, each by the probabilities of a model that was not trained on its text.

    A label's own texts say how sure the models are of it, on average: t. A text is as suspicious as the surest other
    label is above its t, less what the given one is above its own. So a label that the models are never sure of, a rare
    or a broad one, does not fill the list.

    >>> p = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.9, 0.1]])
    >>> found = suspicions(p, np.array([0, 0, 1, 1]))
    >>> found.ranked().tolist()[0], found.flagged_N.tolist()
    (3, [False, False, False, True])
    """
    num_texts, num_labels = p_NL.shape
    every_N = np.arange(num_texts)
    counts_L = np.bincount(given_N, minlength=num_labels)
    own_L = np.bincount(given_N, weights=p_NL[every_N, given_N], minlength=num_labels)
    thresholds_L = np.where(counts_L > 0, own_L / np.maximum(counts_L, 1), np.inf)
    margins_NL = p_NL - thresholds_L
    own_N = margins_NL[every_N, given_N]
    margins_NL[every_N, given_N] = -np.inf
    suggested_N = margins_NL.argmax(axis=1)
    others_N = margins_NL[every_N, suggested_N]
    flagged_N = (others_N >= -_ROUNDING) & (p_NL[every_N, suggested_N] > p_NL[every_N, given_N])
    return Suspicion(others_N - own_N, flagged_N, suggested_N)
