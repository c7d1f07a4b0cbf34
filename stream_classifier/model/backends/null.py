"""`model = "null"`: a model without a model, whose answers anyone can check.

For benchmarks, smoke tests and for trying a deployment before there is a model. With h = CRC-32 of the text's UTF-8
bytes and n labels, the label is `labels[h % n]`, its probability 0.5 + (h >> 16) / 131072, and the rest is spread
evenly over the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from stream_classifier.errors import ConfigError
from stream_classifier.model.calibration import SINGLE_LABEL
from stream_classifier.model.labels import check_labels

__all__ = ["NullModel"]


class NullModel:
    """A ProbabilityModel that needs nothing but zlib. Deterministic on every machine, thread-safe.

    Args:
        labels: at least two, all different.

    Raises:
        ConfigError: labels are too few, empty, or not unique.
    """

    problem_type = SINGLE_LABEL

    def __init__(self, labels: Sequence[str] = ("even", "odd")) -> None:
        if isinstance(labels, str) or len(labels) < 2:
            raise ConfigError(f'labels = {labels!r}: the null model needs at least two, like ["even", "odd"]')
        self.labels = check_labels(labels)

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Float64 `[len(texts), len(labels)]`; the label's is 0.5 or more, and more than each other one.

        >>> NullModel().probabilities(["a text"]).tolist()  # h = 0xa9642a83: odd, 0.5 + 0xa964 / 131072
        [[0.169158935546875, 0.830841064453125]]
        """
        num_labels = len(self.labels)
        # A lone surrogate has no UTF-8; it still deserves an answer, and every other text keeps its bytes.
        hashes_N = np.fromiter([crc32(text.encode("utf-8", "surrogatepass")) for text in texts], np.int64, len(texts))
        best_N = 0.5 + (hashes_N >> 16) / 131072
        rest_N = (1.0 - best_N) / (num_labels - 1)
        # At 0.5 each of two labels the lower index would win, whatever the hash says: the other one gets an ulp less.
        np.minimum(rest_N, np.nextafter(0.5, 0.0), out=rest_N)
        probabilities_NL = np.repeat(rest_N[:, None], num_labels, axis=1)
        probabilities_NL[np.arange(len(texts)), hashes_N % num_labels] = best_N
        return probabilities_NL

    def logits(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """The logarithms of `probabilities`: softmax gives them back, but for rounding."""
        return np.log(self.probabilities(texts))
