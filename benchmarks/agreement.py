"""Whether two engines say the same: labels counted, near-ties apart.

A near-tie is a text whose two best probabilities are, in the reference, less than 2e-2 apart: twice the tolerance that
golden cases allow bfloat16. Rounding may turn those.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["NEAR_TIE", "agreement", "softmax"]

NEAR_TIE = 2e-2

# N: texts, L: labels


def softmax(logits_NL: NDArray[Any]) -> NDArray[np.float64]:
    """Probabilities, float64."""
    shifted_NL = logits_NL.astype(np.float64) - logits_NL.max(axis=1, keepdims=True)
    powers_NL = np.exp(shifted_NL)
    return np.asarray(powers_NL / powers_NL.sum(axis=1, keepdims=True))


def agreement(reference_NL: NDArray[Any], other_NL: NDArray[Any]) -> dict[str, Any]:
    """Probabilities of the same texts by two engines, compared.

    Returns:
        texts, same_labels, near_ties, different_outside_near_ties, max_probability_difference.
    """
    ordered_NL = np.sort(reference_NL, axis=1)
    near_N = ordered_NL[:, -1] - ordered_NL[:, -2] < NEAR_TIE
    same_N = reference_NL.argmax(axis=1) == other_NL.argmax(axis=1)
    return {
        "texts": len(same_N),
        "same_labels": int(same_N.sum()),
        "near_ties": int(near_N.sum()),
        "different_outside_near_ties": int((~same_N & ~near_N).sum()),
        "max_probability_difference": float(np.abs(reference_NL - other_NL).max()),
        "labels_seen": np.bincount(reference_NL.argmax(axis=1), minlength=reference_NL.shape[1]).tolist(),
    }
