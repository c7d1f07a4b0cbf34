"""Classifier: texts to predictions. The same code serves the stream, the command line and training's evaluation.

    texts → encode → TokenBatch → pack → forward → logits → decide → Predictions

The stream calls the steps one by one on threads of its own; a call of the classifier does them all in turn.

    N texts, L labels.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_classifier.errors import ConfigError, ModelDirectoryError, RecordError
from stream_classifier.model.decision import Decider, Predictions
from stream_classifier.model.golden import GOLDEN_NAME, GoldenReport, compare, sample
from stream_classifier.model.opening import OpenedModel, open_model
from stream_classifier.model.packing import pack
from stream_classifier.model.protocols import TextModel, TokenBatch
from stream_classifier.records import Prediction

__all__ = ["Classifier"]

logger = logging.getLogger(__name__)

_MAX_RECORDS = 256
_NUM_REPLAYED = 8
_NUM_PROBES = 4
_WARM_UP_TEXT = "warm-up"


class Classifier:
    """A model with its labels, calibration and thresholds, ready to answer. Made by `Classifier.load`.

    It is a TextModel itself; where `tokenizer_key` is not None also a TokenModel. `encode`, `decide` and the attributes
    may be used from any thread, `forward`, `answer`, `logits` and calling it from one thread at a time.

    Attributes:
        name: as given, else the directory's, the Hub's or the entry point's.
        task: "free" unless the model or the caller names one.
        labels: in the order of the logits.
        problem_type: "single_label_classification" or "multi_label_classification".
        digest: "sha256:…" of the model directory; None where there is no classifier.json.
        backend: "torch", "openvino", "null" or "python".
        device: "cpu" or "cuda:N".
        dtype: what the model computes in: "float32", "bfloat16", "float16", "int8", "float64".
        batch_tokens: tokens, padding included, of a micro-batch on this backend and device.
        tokenizer_key: equal for classifiers whose `encode` gives equal tokens; None: not tokenized, call `answer`.
        positive_label, operating_point: of two labels the one given from this probability of it on; None: the best
            label is given.
        has_rejection: whether a rule makes texts out of scope uncertain.
        probe_texts: a few golden texts, which the model is known to answer; maybe none.
        text_join: what the model wants between the parts of a text made of several fields; None: it does not say.
    """

    def __init__(
        self,
        opened: OpenedModel,
        *,
        name: str | None = None,
        task: str | None = None,
        positive_label: str | None = None,
        threshold: float | None = None,
        thresholds: Mapping[str, float] | None = None,
        top_k: int = 5,
        max_text_chars: int = 100_000,
    ) -> None:
        if isinstance(max_text_chars, bool) or not isinstance(max_text_chars, int) or max_text_chars < 1:
            raise ConfigError(f"max_text_chars is {max_text_chars!r}; give a number of characters, at least 1")
        self._opened = opened
        self._max_text_chars = max_text_chars
        rejection = opened.thresholds.rejection
        self._decider = Decider(
            opened.labels,
            opened.calibration.problem_type,
            task=opened.task if task is None else task,
            positive_label=opened.positive_label if positive_label is None else positive_label,
            operating_point=opened.thresholds.operating_point,
            threshold=threshold,
            thresholds=thresholds,
            model_threshold=opened.thresholds.default,
            model_thresholds=opened.thresholds.labels,
            rejection=None if rejection is None else rejection.model_dump(),
            top_k=top_k,
        )
        self.operating_point = self._decider.operating_point
        self.positive_label = self._decider.positive_label
        self.has_rejection = rejection is not None
        self.name = opened.name if name is None else name
        self.task = self._decider.task
        self.labels = opened.labels
        self.problem_type = opened.calibration.problem_type
        self.digest = opened.digest
        self.backend = opened.backend
        self.device = opened.device
        self.dtype = opened.dtype
        self.batch_tokens = opened.batch_tokens
        self.text_join = opened.text_join
        self.probe_texts = tuple(case.text for case in sample(opened.golden, _NUM_PROBES))
        self.tokenizer_key: str | None = None
        if opened.tokenizer_fingerprint is not None:
            key = f"{opened.tokenizer_fingerprint}/{max_text_chars}"
            self.tokenizer_key = hashlib.sha256(key.encode()).hexdigest()

    @classmethod
    def load(
        cls,
        model: str | Path | TextModel,
        *,
        name: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        backend: str = "auto",
        task: str | None = None,
        positive_label: str | None = None,
        threshold: float | None = None,
        thresholds: Mapping[str, float] | None = None,
        top_k: int = 5,
        labels: Sequence[str] | None = None,
        max_text_chars: int = 100_000,
    ) -> Classifier:
        """Opens, checks and tries a model. Blocks for seconds; writes nothing.

        A few golden cases of a model directory are replayed on the device. With `dtype="auto"` a model whose golden
        cases differ in a reduced precision is served in float32 instead, by torch unless `backend` names another,
        with a warning.

        Args:
            model: a model directory, a Hub name, "null", an entry point of the group `stream_classifier.models`, or a
                TextModel; a Classifier gives one over the same model, with other settings.
            device: "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:N".
            dtype: "auto", "float32", "bfloat16", "float16", or "int8" where the directory has such a form.
            backend: "auto" (on a CPU OpenVINO where it is installed, else torch), "torch", "openvino", or an entry
                point of the group `stream_classifier.backends`.
            task, positive_label, threshold, thresholds: before what the model directory says.
            top_k: labels shown in a result; 0: none, -1: all.
            labels: for "null" only.
            max_text_chars: longer texts are cut there before tokenizing, and marked as truncated.

        Raises:
            ModelDirectoryError: a model directory or Hub name that is wrong, with the file and the fix.
            ConfigError: settings that are wrong or do not fit the model.
        """
        reopened = isinstance(model, Classifier)
        if isinstance(model, Classifier):
            if (device, dtype, backend, labels) != ("auto", "auto", "auto", None):
                raise ConfigError("model is a Classifier, whose device, dtype, backend and labels are set: leave them")
            opened = model._opened
        else:
            opened = open_model(model, device=device, dtype=dtype, backend=backend, labels=labels)

        def make(opened: OpenedModel) -> Classifier:
            return cls(
                opened,
                name=name,
                task=task,
                positive_label=positive_label,
                threshold=threshold,
                thresholds=thresholds,
                top_k=top_k,
                max_text_chars=max_text_chars,
            )

        classifier = make(opened)
        if reopened or not opened.golden:
            return classifier
        report = classifier.check_golden(all=False)
        if report.failed and dtype == "auto" and opened.dtype != "float32":
            place = f"{opened.path} on {opened.backend} in {opened.dtype}"
            logger.warning("%s: %s; it is served in float32", place, report)
            reference = "torch" if backend == "auto" else backend
            classifier = make(open_model(model, device=opened.device, dtype="float32", backend=reference))
            report = classifier.check_golden(all=False)
        if report.failed and opened.path is not None:
            problem = f"on {classifier.device} in {classifier.dtype} by {classifier.backend}, {report}"
            fix = 'serve it with dtype = "float32", or write the golden cases again if the model is meant to differ'
            raise ModelDirectoryError(opened.path / GOLDEN_NAME, problem, fix)
        return classifier

    def warm_up(self) -> None:
        """Answers a short and a full text, so that the first records do not pay for first calls. Blocks."""
        short = self.probe_texts or (_WARM_UP_TEXT,)
        self(list(short))
        if self._opened.forward is not None:
            self.forward(self.encode([" ".join([_WARM_UP_TEXT] * 1000)]))

    def check_golden(self, *, all: bool = True) -> GoldenReport:
        """Replays the golden cases, or a few of them, and says how far the answers are from the stored ones."""
        cases = self._opened.golden if all else sample(self._opened.golden, _NUM_REPLAYED)
        texts = [case.text for case in cases]
        # Not cut at max_text_chars, which is the caller's and not the model's.
        encode = self._opened.encode
        logits_NL = self.logits(texts) if encode is None else self._logits_of(encode(texts))
        return compare(
            cases,
            logits_NL,
            probabilities=self._opened.calibration.probabilities,
            allowed=self._opened.golden_tolerance,
        )

    @property
    def golden_tolerance(self) -> float:
        """The largest |Δp| that a golden case may show on this backend and dtype; 0 for an object that was given."""
        return self._opened.golden_tolerance

    def overlong(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """Bool `[N]`: which texts are longer than `max_text_chars`, and answered by their beginning alone."""
        return np.fromiter((len(text) > self._max_text_chars for text in texts), dtype=np.bool_, count=len(texts))

    def encode(self, texts: Sequence[str]) -> TokenBatch:
        """Token ids of the texts, cut to what the model reads and marked where they were. Thread-safe.

        Raises:
            TypeError: this model is not tokenized; call `answer`.
        """
        if self._opened.encode is None:
            raise TypeError(f"{self.name} is not tokenized (tokenizer_key is None): call answer")
        overlong_N = self.overlong(texts)
        tokens = self._opened.encode(self._cut(texts, overlong_N))
        if overlong_N.any():
            tokens = TokenBatch(tokens.input_ids_T, tokens.offsets, tokens.truncated_N | overlong_N)
        return tokens

    def forward(self, batch: TokenBatch) -> NDArray[Any]:
        """Logits, float32 `[N, L]`, each row from its own text alone.

        Raises:
            TransientError: out of memory; less work may fit.
            TypeError: this model is not tokenized; call `answer`.
        """
        if self._opened.forward is None:
            raise TypeError(f"{self.name} is not tokenized (tokenizer_key is None): call answer")
        return self._opened.forward(batch)

    def answer(self, texts: Sequence[str]) -> NDArray[Any]:
        """What `decide` takes, float `[N, L]`: logits, or probabilities where the model gives them itself."""
        if self._opened.answer is None:
            return self.logits(texts)
        return np.asarray(self._opened.answer(self._cut(texts, self.overlong(texts))))

    def decide(self, raw_NL: NDArray[Any], truncated_N: NDArray[np.bool_] | None = None) -> Predictions:
        """What `forward` or `answer` gave, calibrated and decided. Thread-safe.

        Args:
            raw_NL: float `[N, L]`.
            truncated_N: bool `[N]`, `TokenBatch.truncated_N` or `overlong(texts)`; None: none was.
        """
        if self._opened.gives_probabilities:
            return self._decider.decide(raw_NL, truncated_N)
        return self._decider.decide(self._opened.calibration.probabilities(raw_NL), truncated_N, raw_NL)

    def logits(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Raw logits, float32 `[N, L]`, in the order of `texts`."""
        if self._opened.logits is not None:
            return np.asarray(self._opened.logits(self._cut(texts, self.overlong(texts))), dtype=np.float32)
        return self._logits_of(self.encode(texts))

    def __call__(self, texts: Sequence[str]) -> list[Prediction]:
        """One prediction a text, in order.

        Raises:
            RecordError: the model's scores of a text are not finite.
            TransientError: out of memory.
        """
        if isinstance(texts, str):
            raise TypeError("texts is one string; give a list of texts")
        if self._opened.encode is None:
            predictions = self.decide(self.answer(texts), self.overlong(texts))
        else:
            tokens = self.encode(texts)
            predictions = self.decide(self._logits_of(tokens), tokens.truncated_N)
        if predictions.invalid_N.any():
            first = int(np.flatnonzero(predictions.invalid_N)[0])
            count = int(predictions.invalid_N.sum())
            message = f"the model's scores of {count} of {len(texts)} texts are not finite, the first at index {first}"
            raise RecordError("decide", "NonFiniteScores", message)
        return list(predictions)

    def _logits_of(self, tokens: TokenBatch) -> NDArray[np.float32]:
        logits_NL = np.empty((len(tokens), len(self.labels)), dtype=np.float32)
        for indices in pack(tokens.lengths_N, max_tokens=self.batch_tokens, max_records=_MAX_RECORDS):
            logits_NL[indices] = self.forward(tokens.take(indices))
        return logits_NL

    def _cut(self, texts: Sequence[str], overlong_N: NDArray[np.bool_]) -> Sequence[str]:
        if not overlong_N.any():
            return texts
        return [text[: self._max_text_chars] for text in texts]
