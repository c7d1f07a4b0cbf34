"""How sure a share or a difference is: intervals for counts, paired bootstrap for what counts alone do not give."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

__all__ = ["Interval", "bootstrap_interval", "effective_number", "one_sided_lower", "rows_to_certify", "wilson"]

Interval = tuple[float, float]
"""Lower and upper end, both included."""

_NUM_RESAMPLES = 1000
_CHUNK, _CHUNK_NUMBERS = 50, 2_000_000  # resamples held at once, and rows of all of them
_Z_95 = float(stats.norm.ppf(0.975))


def wilson(hits: float, total: float) -> Interval | None:
    """The 95 % interval of a share, by Wilson's score (1927): right for small counts and shares near 0 or 1.

    None where `total` is 0. Of weighted rows give their effective number, see `effective_number`.

        >>> low, high = wilson(99, 100)
        >>> round(low, 3), round(high, 3)
        (0.946, 0.998)
    """
    if not total:
        return None
    share, spread = hits / total, _Z_95**2 / total
    middle = (share + spread / 2) / (1 + spread)
    half = _Z_95 / (1 + spread) * np.sqrt(share * (1 - share) / total + spread / (4 * total))
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def effective_number(weights_N: NDArray[np.float64]) -> float:
    """How many equally weighted rows tell as much as these: (Σw)² / Σw² (Kish 1965); 0 of none.

    >>> effective_number(np.array([1.0, 1.0, 0.0]))
    2.0
    """
    squares = float(weights_N @ weights_N)
    return float(weights_N.sum()) ** 2 / squares if squares else 0.0


def one_sided_lower(hits: ArrayLike, total: ArrayLike, *, confidence: float = 0.95) -> NDArray[np.float64]:
    """The exact lower bound of each share (Clopper & Pearson 1934): the true share is below it in 5 % of cases at most.

    `hits` and `total` are counts of any equal shape; the bound of no hits is 0.

        >>> float(one_sided_lower(299, 299).round(4))
        0.99
    """
    hits_K, total_K = np.asarray(hits, np.float64), np.asarray(total, np.float64)
    with np.errstate(invalid="ignore"):
        bound_K = special.betaincinv(hits_K, total_K - hits_K + 1, 1 - confidence)
    return np.where(hits_K > 0, bound_K, 0.0)


def rows_to_certify(share: float, *, confidence: float = 0.95) -> int:
    """How many rows, all of them right, it takes before `one_sided_lower` reaches `share`.

    >>> rows_to_certify(0.99)
    299
    """
    return int(np.ceil(np.log(1 - confidence) / np.log(share)))


def bootstrap_interval(
    figure: Callable[[NDArray[np.float64]], NDArray[np.float64]], num_rows: int, *, seed: int = 0
) -> Interval:
    """The 95 % percentile interval of a figure over 1000 resamples of the rows (Efron 1979).

    Args:
        figure: of R resamples, `[R]`, from how often each row is drawn in each, `[R, N]`. One that compares two models
            on the same rows makes the bootstrap a paired one.
        num_rows: N.
    """
    generator = np.random.default_rng(seed)
    values = []
    chunk = max(1, min(_CHUNK, _CHUNK_NUMBERS // num_rows))
    for start in range(0, _NUM_RESAMPLES, chunk):
        rows_RN = generator.integers(num_rows, size=(min(chunk, _NUM_RESAMPLES - start), num_rows))
        weights_RN = np.array([np.bincount(rows_N, minlength=num_rows) for rows_N in rows_RN], dtype=np.float64)
        values.append(figure(weights_RN))
    low, high = np.nanquantile(np.concatenate(values), [0.025, 0.975])
    return float(low), float(high)
