"""Texts that are copies of each other, or nearly: in linear time, so that every fit can look.

Near means the same after `simplified`, or about four fifths of the pieces of five characters in common: a typing error,
a name or a number that differs. Estimated by MinHash (Broder 1997) and found by banding (Leskovec, Rajaraman, Ullman,
Mining of Massive Datasets, ch. 3).

    N texts, H hash functions.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["connected", "near_duplicates", "simplified"]

_SHINGLE = 5  # characters
_NUM_HASHES = 64
_NUM_BANDS = 8  # of 8 hashes each: pairs that agree on one band are compared
_MIN_SHARED = 0.8
_CHUNK_CHARACTERS = 1 << 20
_NOT_WORD = re.compile(r"[\W_]+")
_DIGIT = re.compile(r"\d")


def simplified(text: str) -> str:
    """The text without case, punctuation, and with every digit a 0; as it is when nothing else is in it.

    >>> simplified("Win £1,000 NOW!!")
    'win 0 000 now'
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    return _DIGIT.sub("0", _NOT_WORD.sub(" ", plain)).strip() or text


def near_duplicates(texts: Sequence[str]) -> NDArray[np.intp]:
    """A number for each text `[N]`, equal for near-duplicates and whatever is connected by them; deterministic.

    Blocks: about a second for ten thousand texts of a page, less for short ones.
    """
    number_of: dict[str, int] = {}
    which_N = np.array([number_of.setdefault(simplified(text), len(number_of)) for text in texts], dtype=np.intp)
    if len(number_of) < 2:
        return which_N
    signatures_NH = _signatures(list(number_of))
    pairs = np.concatenate(list(_similar(signatures_NH)))
    return connected(pairs, len(number_of))[which_N]


def connected(pairs: NDArray[np.intp], num: int) -> NDArray[np.intp]:
    """The connected components of `num` things that `pairs` `[any, 2]` join: a number for each, `[num]`."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    ones = np.ones(len(pairs), dtype=bool)
    graph = coo_matrix((ones, (pairs[:, 0], pairs[:, 1])), shape=(num, num))
    components: NDArray[np.intp] = connected_components(graph, directed=False)[1].astype(np.intp)
    return components


def _similar(signatures_NH: NDArray[np.uint32]) -> Iterator[NDArray[np.intp]]:
    """Pairs of texts that agree on a band and on enough of all hashes; each with the first text of its bucket."""
    for band_NB in np.split(signatures_NH, _NUM_BANDS, axis=1):
        rows_N = np.ascontiguousarray(band_NB).view(np.dtype((np.void, band_NB.shape[1] * band_NB.itemsize))).ravel()
        _, first, bucket_N = np.unique(rows_N, return_index=True, return_inverse=True)
        other_N = first[bucket_N]
        candidates = np.flatnonzero(other_N != np.arange(len(rows_N)))
        shared = (signatures_NH[candidates] == signatures_NH[other_N[candidates]]).mean(axis=1)
        near = candidates[shared >= _MIN_SHARED]
        yield np.stack([near, other_N[near]], axis=1)


def _signatures(texts: Sequence[str]) -> NDArray[np.uint32]:
    """The MinHash signatures `[N, H]` of texts."""
    draw = np.random.default_rng(0)
    factors_H = draw.integers(1 << 63, size=_NUM_HASHES, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    offsets_H = draw.integers(1 << 63, size=_NUM_HASHES, dtype=np.uint64)
    powers = factors_H[:_SHINGLE].copy()
    signatures_NH = np.empty((len(texts), _NUM_HASHES), dtype=np.uint32)
    done = 0
    for chunk in _chunks(texts):
        padded = [text.ljust(_SHINGLE) for text in chunk]
        codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        lengths = np.fromiter(map(len, padded), dtype=np.intp, count=len(padded))
        windows = np.lib.stride_tricks.sliding_window_view(codes, _SHINGLE)
        ends = np.cumsum(lengths)
        whole = np.ones(len(codes), dtype=bool)
        for back in range(1, _SHINGLE):
            whole[ends - back] = False  # windows that would reach into the next text
        hashes = (windows.astype(np.uint64) * powers).sum(axis=1, dtype=np.uint64)[whole[: len(windows)]]
        hashes ^= hashes >> np.uint64(29)
        starts = np.concatenate([[0], np.cumsum(lengths - _SHINGLE + 1)[:-1]])
        for h in range(_NUM_HASHES):
            mixed = ((hashes * factors_H[h] + offsets_H[h]) >> np.uint64(32)).astype(np.uint32)
            signatures_NH[done : done + len(chunk), h] = np.minimum.reduceat(mixed, starts)
        done += len(chunk)
    return signatures_NH


def _chunks(texts: Sequence[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    size = 0
    for text in texts:
        chunk.append(text)
        size += len(text)
        if size >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
