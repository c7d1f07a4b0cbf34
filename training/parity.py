"""The gate a compressed model passes before it is written: what it answers, against the model it was made of, on the
same rows; and what it gains in size and speed.

    N texts, L labels.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_classifier.errors import TrainingError
from stream_classifier.model.classifier import Classifier
from training.answers import Answers, answer_table
from training.data import Table
from training.evaluation import evaluate_answers
from training.parity_limits import ParityLimits

__all__ = ["Parity", "ParityError", "Side", "loss_bound", "measure_parity", "require"]

_Z_95 = 1.6448536269514722  # one-sided
_NUM_TIMED_TEXTS = 256
_NUM_TIMED_RUNS = 3


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two models on the rows.

    Attributes:
        accuracy, ece, nll: as in an Evaluation.
        coverage, precision: at the thresholds in use; precision None where nothing is accepted.
        rejected: share of texts that the rejection rule makes uncertain; None: it has none.
        size_bytes: of the weights it loads.
        texts_per_s, texts_per_cpu_s: medians of alternating runs.
        backend, dtype: what it ran on.
    """

    accuracy: float
    ece: float
    nll: float
    coverage: float
    precision: float | None
    rejected: float | None
    size_bytes: int
    texts_per_s: float
    texts_per_cpu_s: float
    backend: str
    dtype: str


@dataclass(frozen=True, slots=True)
class Parity:
    """What the gate saw.

    Attributes:
        n: texts.
        agreement: share of texts with the same label, or set of labels; where both have a rejection rule, rejected by
            both or by neither.
        accuracy_loss: before - after; negative when the compressed model is better.
        accuracy_loss_bound: its upper 95 % bound (Tango 1998).
        max_difference: the largest difference of a probability.
        before, after: the two models. The speed `before` is that of what serves without the compressed one.
        reasons: why it does not pass; empty: it passes.
    """

    n: int
    agreement: float
    accuracy_loss: float
    accuracy_loss_bound: float
    max_difference: float
    before: Side
    after: Side
    reasons: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing speaks against the compressed model."""
        return not self.reasons

    @property
    def speedup(self) -> float:
        """Texts per CPU second, after over before."""
        return self.after.texts_per_cpu_s / self.before.texts_per_cpu_s

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "speedup": self.speedup, "passed": self.passed}

    def measured(self) -> dict[str, Any]:
        """What is stored beside the compressed model: no times, which are this machine's."""
        names = ("n", "agreement", "accuracy_loss", "accuracy_loss_bound", "max_difference")
        sides = {"accuracy": self.before.accuracy, "accuracy_compressed": self.after.accuracy}
        return {**{name: getattr(self, name) for name in names}, **sides, "passed": self.passed}


class ParityError(TrainingError):
    """The gate refuses a compressed model; nothing was written.

    Args:
        parity: what it saw.
    """

    def __init__(self, parity: Parity) -> None:
        super().__init__(f"it does not pass: {'; '.join(parity.reasons)}; nothing was written (--force writes it)")
        self.parity = parity


def measure_parity(
    before: Classifier,
    after: Classifier,
    table: Table,
    *,
    limits: ParityLimits,
    sizes: tuple[int, int],
    serving: Classifier | None = None,
) -> Parity:
    """Runs both models on the same rows. Blocks.

    Args:
        before: the model it was made of, in the precision it is held against.
        after: the compressed one.
        sizes: bytes of the weights of each.
        serving: what would serve without it, whose speed is compared; None: `before`.

    Raises:
        ConfigError: labels that a model does not have.
        ModelError: scores that are not finite.
    """
    old, new = answer_table(before, table), answer_table(after, table).with_labels(before.labels)
    rejected = (_rejected(before, old), _rejected(after, new))
    same_N = (old.predicted_NL == new.predicted_NL).all(axis=1)
    if rejected[0] is not None and rejected[1] is not None:
        same_N &= rejected[0] == rejected[1]
    agreement = float(same_N.mean())
    only_old = int((old.correct_N & ~new.correct_N).sum())
    only_new = int((new.correct_N & ~old.correct_N).sum())
    bound = loss_bound(only_old, only_new, len(table))
    rival = before if serving is None else serving
    old_speed, new_speed = _speeds((rival, after), table.texts)
    sides = (
        _side(old, rejected[0], sizes[0], old_speed, classifier=rival),
        _side(new, rejected[1], sizes[1], new_speed, classifier=after),
    )
    noise_95 = evaluate_answers(new, task="").ece_noise_95
    return Parity(
        n=len(table),
        agreement=agreement,
        accuracy_loss=(only_old - only_new) / len(table),
        accuracy_loss_bound=bound,
        max_difference=float(np.abs(old.p_NL - new.p_NL).max()),
        before=sides[0],
        after=sides[1],
        reasons=_reasons(agreement, bound, *sides, noise_95=noise_95, limits=limits),
    )


def require(parity: Parity, *, force: bool) -> None:
    """Lets a model through that passes, or any when forced.

    Raises:
        ParityError: it does not pass.
    """
    if not parity.passed and not force:
        raise ParityError(parity)


def loss_bound(only_first: int, only_second: int, num_rows: int) -> float:
    """The upper 95 % bound (one-sided) of first minus second, both shares of right answers on the same rows.

    The score method (Tango, Statistics in Medicine 17, 1998): unlike the bootstrap's it is not 0 where no text came out
    differently.

        >>> round(loss_bound(0, 0, 998), 4), round(loss_bound(30, 10, 1000), 4)
        (0.0027, 0.0312)

    Args:
        only_first, only_second: texts that only one of them gets right.
        num_rows: all texts.
    """

    def z(difference: float) -> float:
        a = 2 * num_rows
        b = -only_first - only_second + (2 * num_rows - only_first + only_second) * difference
        c = -only_second * difference * (1 - difference)
        share_second = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
        variance = num_rows * (2 * share_second + difference * (1 - difference))
        return (only_first - only_second - num_rows * difference) / math.sqrt(max(variance, 1e-300))

    low, high = (only_first - only_second) / num_rows, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if z(middle) > -_Z_95 else (low, middle)
    return high


def _reasons(
    agreement: float, bound: float, before: Side, after: Side, *, noise_95: float, limits: ParityLimits
) -> tuple[str, ...]:
    reasons = []
    if agreement < limits.min_agreement:
        what = "labels" if before.rejected is None or after.rejected is None else "labels and rejections"
        reasons.append(
            f"{100 * agreement:.2f} % of the {what} are the same, at least {100 * limits.min_agreement:.2f} % must be"
        )
    if bound > limits.max_accuracy_loss:
        loss = before.accuracy - after.accuracy
        reasons.append(
            f"accuracy may be lower by up to {100 * bound:.2f} points (it is by {100 * loss:.2f} on these rows), "
            f"at most {100 * limits.max_accuracy_loss:.2f} are allowed"
        )
    if after.ece > noise_95 and after.ece - before.ece > limits.max_ece_rise:
        reasons.append(f"the calibration error rises from {100 * before.ece:.2f} % to {100 * after.ece:.2f} %")
    if before.coverage - after.coverage > limits.max_coverage_loss:
        reasons.append(
            f"the thresholds accept {100 * after.coverage:.2f} % of the texts and no more {100 * before.coverage:.2f} %"
        )
    if before.precision is not None and (
        after.precision is None or before.precision - after.precision > limits.max_accuracy_loss
    ):
        now = "none" if after.precision is None else f"{100 * after.precision:.2f} %"
        reasons.append(f"of the accepted texts {now} are right, and no more {100 * before.precision:.2f} %")
    speedup = after.texts_per_cpu_s / before.texts_per_cpu_s
    if speedup < limits.min_speedup:
        rival = f"{before.backend} in {before.dtype}"
        reasons.append(f"it answers {speedup:.2f} × as fast as {rival}, at least {limits.min_speedup:g} × is wanted")
    return tuple(reasons)


def _rejected(classifier: Classifier, answers: Answers) -> NDArray[np.bool_] | None:
    """Bool `[N]`: which texts the rejection rule makes uncertain, whatever the thresholds; None: there is no rule."""
    if not classifier.has_rejection:
        return None
    open_to_all = Classifier.load(classifier, thresholds=dict.fromkeys(classifier.labels, 0.0))
    raw_NL = answers.with_labels(classifier.labels).logits_NL
    rejected_N: NDArray[np.bool_] = ~open_to_all.decide(raw_NL, answers.truncated_N).accepted_N
    return rejected_N


def _side(
    answers: Answers,
    rejected_N: NDArray[np.bool_] | None,
    size_bytes: int,
    speed: tuple[float, float],
    *,
    classifier: Classifier,
) -> Side:
    figures = evaluate_answers(answers, task="")
    return Side(
        accuracy=figures.accuracy,
        ece=figures.ece,
        nll=figures.nll,
        coverage=figures.coverage,
        precision=figures.precision_at_threshold,
        rejected=None if rejected_N is None else float(rejected_N.mean()),
        size_bytes=size_bytes,
        texts_per_s=speed[0],
        texts_per_cpu_s=speed[1],
        backend=classifier.backend,
        dtype=classifier.dtype,
    )


def _speeds(classifiers: Sequence[Classifier], texts: Sequence[str]) -> list[tuple[float, float]]:
    """Texts a second and a CPU second of each, by turns, so that what else runs meets all alike."""
    sample = [texts[int(i)] for i in np.linspace(0, len(texts) - 1, min(len(texts), _NUM_TIMED_TEXTS))]
    wall: list[list[float]] = [[] for _ in classifiers]
    cpu: list[list[float]] = [[] for _ in classifiers]
    for run in range(_NUM_TIMED_RUNS + 1):
        for i, classifier in enumerate(classifiers):
            started, cpu_started = time.perf_counter(), time.process_time()
            classifier.logits(sample)
            seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
            if run:  # the first one warms up
                wall[i].append(len(sample) / max(seconds, 1e-9))
                cpu[i].append(len(sample) / max(cpu_s, 1e-9))
    return [
        (statistics.median(rates), statistics.median(cpu_rates)) for rates, cpu_rates in zip(wall, cpu, strict=True)
    ]
