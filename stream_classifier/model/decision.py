"""Probabilities to decisions: which label, and whether its score is enough.

The last step of a model: `calibration` gives the probabilities, `predictions` holds what is decided here. Where results
go is the stream's business.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stream_classifier.errors import ConfigError
from stream_classifier.model.calibration import MULTI_LABEL, SINGLE_LABEL
from stream_classifier.model.labels import check_labels, guess_positive, index_of
from stream_classifier.model.predictions import Predictions
from stream_classifier.model.thresholds import check_probability, resolve_thresholds

__all__ = ["Decider", "Predictions"]

# N: texts, L: labels


class Decider:
    """The rules of one classifier, checked once; `decide` applies them to any number of texts. Thread-safe.

    - The label is the most probable one, the first of equals. With an operating point (two labels) it is the positive
      label when its probability reaches that point, else the other.
    - It is accepted when its probability reaches the label's threshold. Multi-label: when any label reaches its own.
    - A rejection rule makes texts uncertain that look like nothing the model was trained on.

    Args:
        labels: in the order of the probabilities.
        problem_type: "single_label_classification" or "multi_label_classification".
        task: "intent" adds `requires_clarification`, "sentiment" `sentiment_score`; all others add nothing.
        positive_label: the label of the operating point and of the sentiment score; guessed from the names when needed.
        operating_point: 0-1, with two labels that exclude each other only.
        threshold, thresholds: the settings', for all labels and for single ones.
        model_threshold, model_thresholds: the model directory's; the settings' come before them.
        rejection: {"score": "max_prob" or "energy", "threshold": number}; texts with a lower score are uncertain.
            Energy is the logsumexp of the raw logits (arXiv:2010.03759 with the sign turned: high is in scope).
        top_k: how many labels a result shows; 0 none, -1 all.

    Raises:
        ConfigError: a value out of range, a label that the model doesn't have, or rules that don't fit the model.

    Attributes:
        labels, task, problem_type, top_k: as given.
        positive_label: the label in use, None when nothing needs one.
        operating_point: from which probability of it on `positive_label` is given; None: the best label is.
        thresholds: label to the probability it must reach.
        needs_logits: whether `decide` must be given the logits (rejection by energy).
    """

    def __init__(
        self,
        labels: Sequence[str],
        problem_type: str,
        *,
        task: str = "free",
        positive_label: str | None = None,
        operating_point: float | None = None,
        threshold: float | None = None,
        thresholds: Mapping[str, float] | None = None,
        model_threshold: float | None = None,
        model_thresholds: Mapping[str, float] | None = None,
        rejection: Mapping[str, Any] | None = None,
        top_k: int = 5,
    ) -> None:
        if problem_type not in (SINGLE_LABEL, MULTI_LABEL):
            raise ConfigError(
                f"problem_type is {problem_type!r}; a classifier has {SINGLE_LABEL!r} or {MULTI_LABEL!r}: "
                "set it in config.json"
            )
        self.labels = check_labels(labels)
        self.problem_type = problem_type
        self._multi_label = problem_type == MULTI_LABEL
        min_labels = 1 if self._multi_label else 2
        if len(self.labels) < min_labels:
            raise ConfigError(f"the model has {len(self.labels)} labels; {problem_type} needs at least {min_labels}")
        if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < -1:
            raise ConfigError(f"top_k = {top_k!r}: give a number of labels, 0 for none or -1 for all")
        self.task = task
        self.top_k = top_k
        self.operating_point = self._checked_operating_point(operating_point)
        self._positive_index = self._find_positive(positive_label)
        self._thresholds_L = resolve_thresholds(
            self.labels,
            default=0.5 if self._multi_label else 0.0,
            threshold=threshold,
            thresholds=thresholds,
            model_threshold=model_threshold,
            model_thresholds=model_thresholds,
        )
        self._rejection_score, self._rejection_threshold = _checked_rejection(rejection)
        self.positive_label = None if self._positive_index is None else self.labels[self._positive_index]
        self.thresholds: dict[str, float] = dict(zip(self.labels, self._thresholds_L.tolist(), strict=True))
        self.needs_logits = self._rejection_score == "energy"

    def decide(
        self, probabilities_NL: ArrayLike, truncated_N: ArrayLike | None = None, logits_NL: ArrayLike | None = None
    ) -> Predictions:
        """Decide on N texts, each by its own row alone.

        Args:
            probabilities_NL: `[N, L]` in 0-1, kept and not copied when float64 already; a row that is not finite is
                marked invalid, and no other one is touched.
            truncated_N: bool `[N]`, whether the text was longer than the model reads; None: no text was.
            logits_NL: `[N, L]`, as the model gave them, before calibration; read only when `needs_logits`.

        Raises:
            ValueError: a wrong shape, or logits that are needed and not there.
        """
        p_NL = np.asarray(probabilities_NL, dtype=np.float64)
        if p_NL.ndim != 2 or p_NL.shape[1] != len(self.labels):
            raise ValueError(
                f"the model gave scores of shape {p_NL.shape}; it must give [texts, {len(self.labels)} labels]"
            )
        num_texts = len(p_NL)
        truncated_N = np.zeros(num_texts, np.bool_) if truncated_N is None else np.asarray(truncated_N, np.bool_)
        if truncated_N.shape != (num_texts,):
            raise ValueError(f"truncated has shape {truncated_N.shape} for {num_texts} texts")

        label_indices_N = self._label_indices(p_NL)
        scores_N = p_NL[np.arange(num_texts), label_indices_N]
        passing_NL = None
        if self._multi_label:
            passing_NL = p_NL >= self._thresholds_L
            accepted_N: NDArray[np.bool_] = np.logical_or.reduce(passing_NL, axis=1)
        else:
            accepted_N = scores_N >= self._thresholds_L[label_indices_N]
        if self._rejection_score is not None:
            accepted_N &= self._in_scope(p_NL, logits_NL)
        invalid_N: NDArray[np.bool_] = ~np.logical_and.reduce(np.isfinite(p_NL), axis=1)
        if invalid_N.any():
            label_indices_N[invalid_N] = -1
            scores_N[invalid_N] = np.nan
            accepted_N[invalid_N] = False
        return Predictions(
            labels=self.labels,
            task=self.task,
            probabilities_NL=p_NL,
            label_indices_N=label_indices_N,
            scores_N=scores_N,
            accepted_N=accepted_N,
            invalid_N=invalid_N,
            truncated_N=truncated_N,
            top_k=self.top_k,
            passing_NL=passing_NL,
            positive_index=self._positive_index if self.task == "sentiment" else None,
        )

    def _label_indices(self, p_NL: NDArray[np.float64]) -> NDArray[np.intp]:
        if self.operating_point is None or self._positive_index is None:
            best_N: NDArray[np.intp] = p_NL.argmax(axis=1)
            return best_N
        is_positive_N = p_NL[:, self._positive_index] >= self.operating_point
        return np.where(is_positive_N, self._positive_index, 1 - self._positive_index)

    def _in_scope(self, p_NL: NDArray[np.float64], logits_NL: ArrayLike | None) -> NDArray[np.bool_]:
        # NaN compares as False: a row that cannot be judged is not in scope.
        if self._rejection_score == "max_prob":
            likely_N: NDArray[np.bool_] = p_NL.max(axis=1) >= self._rejection_threshold
            return likely_N
        if logits_NL is None:
            raise ValueError("rejection by energy needs the logits; this model gives probabilities only")
        z_NL = np.asarray(logits_NL, dtype=np.float64)
        if z_NL.shape != p_NL.shape:
            raise ValueError(f"logits have shape {z_NL.shape}, probabilities {p_NL.shape}")
        with np.errstate(invalid="ignore", over="ignore", under="ignore"):
            best_N = z_NL.max(axis=1)
            energy_N = best_N + np.log(np.exp(z_NL - best_N[:, None]).sum(axis=1))
        in_scope_N: NDArray[np.bool_] = energy_N >= self._rejection_threshold
        return in_scope_N

    def _checked_operating_point(self, operating_point: float | None) -> float | None:
        if operating_point is None:
            return None
        if self._multi_label or len(self.labels) != 2:
            raise ConfigError(
                f"operating_point = {operating_point!r} with {len(self.labels)} labels ({self.problem_type}): "
                "it needs two that exclude each other; remove it, or use thresholds for single labels"
            )
        return check_probability(operating_point, setting="operating_point")

    def _find_positive(self, positive_label: str | None) -> int | None:
        if positive_label is None and (self.task == "sentiment" or self.operating_point is not None):
            positive_label = guess_positive(self.labels)
        return None if positive_label is None else index_of(positive_label, self.labels, setting="positive_label")


def _checked_rejection(rejection: Mapping[str, Any] | None) -> tuple[str | None, float]:
    if rejection is None:
        return None, -math.inf
    score, threshold = rejection.get("score"), rejection.get("threshold")
    if score not in ("max_prob", "energy"):
        raise ConfigError(
            f'rejection.score is {score!r}; it is "max_prob" or "energy": fit the thresholds of the model again'
        )
    if score == "max_prob":
        return score, check_probability(threshold, setting="rejection.threshold")  # type: ignore[arg-type]  # it checks
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not math.isfinite(threshold):
        raise ConfigError(
            f"rejection.threshold is {threshold!r}; it must be a finite number: fit the thresholds of the model again"
        )
    return score, float(threshold)
