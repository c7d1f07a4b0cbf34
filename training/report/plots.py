"""The plots of the report, each an `<svg>` with a caption that says what is to be seen in it.

A plot that has nothing to show is left out: None.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from training.curves import ReliabilityBin
from training.evaluation import Evaluation
from training.history import TrainingHistory
from training.report.markup import plain, share
from training.report.svg import FAINT, INK, LINE, SERIES, drawing, figure, inline_svg

__all__ = ["Plot", "measured_plots", "training_plots"]

_MAX_CURVES = 6
_Z_95 = 1.96


@dataclass(frozen=True, slots=True)
class Plot:
    """One plot: the `<svg>` element, its heading, and its caption in plain text."""

    svg: str
    title: str
    caption: str


def training_plots(history: TrainingHistory) -> list[Plot]:
    """Losses, scores and learning rate by epoch."""
    with drawing():
        return [_losses(history), _scores(history), _learning_rate(history)]


def measured_plots(evaluation: Evaluation) -> list[Plot]:
    """Reliability, thresholds, risk, precision and recall, length: those that this model has."""
    with drawing():
        made = [
            _reliability(evaluation),
            _thresholds(evaluation),
            _risk(evaluation),
            _precision_recall(evaluation),
            _lengths(evaluation),
        ]
    return [plot for plot in made if plot is not None]


def _losses(history: TrainingHistory) -> Plot:
    epochs = [e.epoch for e in history.epochs]
    train, validation = [e.train_loss for e in history.epochs], [e.validation_loss for e in history.epochs]
    made, axes = figure()
    axes.plot(epochs, train, marker="o", color=SERIES[0], label="training")
    axes.plot(epochs, validation, marker="s", color=SERIES[1], label="validation")
    _mark_best(axes, history)
    _from_zero(axes)
    axes.set_ylabel("nats a text")
    axes.legend()
    lowest = int(np.argmin(validation))
    caption = (
        f"The training loss goes from {train[0]:.3f} to {train[-1]:.3f}, the validation loss from {validation[0]:.3f} "
        f"to {validation[-1]:.3f}; it is lowest in epoch {epochs[lowest]} ({validation[lowest]:.3f}). The weights of "
        f"epoch {history.best_epoch} were kept (dotted line)."
    )
    return _plot(made, "loss", "Loss", caption)


def _scores(history: TrainingHistory) -> Plot:
    epochs = [e.epoch for e in history.epochs]
    made, axes = figure()
    for i, (name, key, marker) in enumerate((("macro-F1", "macro_f1", "o"), ("accuracy", "accuracy", "s"))):
        values = [100 * getattr(e, key) for e in history.epochs]
        axes.plot(epochs, values, marker=marker, color=SERIES[i], label=name)
    _mark_best(axes, history)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -1), max(min(high, 101), 1))
    axes.set_ylabel("%")
    axes.legend()
    best = history.best
    caption = (
        f"On the validation rows, macro-F1 goes from {share(history.epochs[0].macro_f1)} to "
        f"{share(history.epochs[-1].macro_f1)}; in the epoch kept it is {share(best.macro_f1)}, accuracy "
        f"{share(best.accuracy)}."
    )
    return _plot(made, "scores", "Macro-F1 and accuracy", caption)


def _learning_rate(history: TrainingHistory) -> Plot:
    epochs = [e.epoch for e in history.epochs]
    made, (rate, norm) = figure(nrows=2, sharex=True)
    rate.plot(epochs, [e.learning_rate for e in history.epochs], marker="o", color=SERIES[2])
    _from_zero(rate)
    rate.set_ylabel("rate")
    rate.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    norm.plot(epochs, [e.grad_norm for e in history.epochs], marker="o", color=SERIES[3], label="mean")
    norm.plot(epochs, [e.max_grad_norm for e in history.epochs], marker="^", color=SERIES[3], ls=":", label="largest")
    _from_zero(norm)
    norm.set_ylabel("gradient")
    norm.legend(ncols=2)
    _mark_best(norm, history)
    last = history.epochs[-1]
    caption = (
        f"Learning rate at the end of each epoch, {last.learning_rate:.2g} at the last, and the gradient's norm before "
        f"clipping, at most {max(e.max_grad_norm for e in history.epochs):.3g}."
    )
    return _plot(made, "rate", "Learning rate and gradient", caption)


def _from_zero(axes: Any) -> None:
    """Room above the highest point for its marker: matplotlib's margin is a share of the curve's range alone."""
    _, highest = axes.dataLim.intervaly
    axes.set_ylim(0, 1.08 * highest if highest > 0 else 1)


def _mark_best(axes: Any, history: TrainingHistory) -> None:
    axes.grid(visible=False, axis="x")
    axes.axvline(history.best_epoch, color=FAINT, linestyle=":", linewidth=1.4)
    axes.set_xlabel("epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)


def _reliability(e: Evaluation) -> Plot:
    bins = [b for b in e.curves.reliability if b.n]
    made, (axes, counts) = figure(height=3.3, nrows=2, sharex=True, height_ratios=(4, 1))
    axes.plot([0, 100], [0, 100], color=FAINT, linestyle="--", linewidth=1)
    for low, high, bottom, top in _noise(bins):
        axes.fill_between([low, high], [bottom] * 2, [top] * 2, color=SERIES[1], alpha=0.25, linewidth=0)
    x = [100 * (b.confidence or 0) for b in bins]
    y = [100 * (b.accuracy or 0) for b in bins]
    axes.errorbar(x, y, yerr=_errors(y, [b.accuracy_interval for b in bins]), fmt="o", color=SERIES[0], elinewidth=1)
    axes.set_ylim(0, 102)
    axes.set_ylabel("right, %")
    counts.bar([50 * (b.low + b.high) for b in bins], [b.n for b in bins], 100 / 15 * 0.9, color=SERIES[0], alpha=0.6)
    counts.set_ylabel("n")
    counts.set_xlabel("confidence, %")
    verdict = "above" if e.ece > e.ece_noise_95 else "within"
    caption = (
        f"Of texts with a confidence of 80 %, 80 % should be right (dashed line). Bars: 95 % intervals. Shaded: where "
        f"19 of 20 points of a perfectly calibrated model would be on as few texts. The calibration error is "
        f"{share(e.ece, 2)}, {verdict} what chance alone shows (up to {share(e.ece_noise_95, 2)})."
    )
    return _plot(made, "reliability", "Reliability", caption)


def _noise(bins: list[ReliabilityBin]) -> Iterator[tuple[float, float, float, float]]:
    """Of each bin its ends, and between which shares a calibrated model's would be, all in per cent."""
    for b in bins:
        p = b.confidence or 0.0
        spread = _Z_95 * np.sqrt(p * (1 - p) / b.n)
        yield 100 * b.low, 100 * b.high, 100 * max(0.0, p - spread), 100 * min(1.0, p + spread)


def _thresholds(e: Evaluation) -> Plot | None:
    curve = e.curves.threshold_coverage
    if curve is None:
        return None
    made, axes = figure()
    x = [100 * t for t in curve.threshold]
    axes.plot(x, [100 * c for c in curve.coverage], color=SERIES[1], label="accepted", drawstyle="steps-pre")
    axes.plot(x, [100 * p for p in curve.precision], color=SERIES[0], label="of these right")
    low, high = zip(*curve.precision_interval, strict=True)
    axes.fill_between(x, [100 * v for v in low], [100 * v for v in high], color=SERIES[0], alpha=0.2, linewidth=0)
    axes.set_ylim(0, 102)
    axes.set_xlabel("threshold, %")
    axes.set_ylabel("%")
    axes.legend(loc="lower left")
    at = min(int(np.searchsorted(curve.threshold, 0.9)), len(x) - 1)
    reached = curve.threshold[at] >= 0.9
    caption = "The share of texts whose score reaches a threshold, and how many of those are right (shaded: 95 %)."
    if reached:
        caption += (
            f" At 90 %, {share(curve.coverage[at])} are accepted and {share(curve.precision[at])} of these are right."
        )
    return _plot(made, "thresholds", "Threshold and coverage", caption)


def _risk(e: Evaluation) -> Plot | None:
    curve = e.curves.risk_coverage
    if curve is None:
        return None
    made, axes = figure()
    axes.plot([100 * c for c in curve.coverage], [100 * r for r in curve.risk], color=SERIES[0])
    _from_zero(axes)
    axes.set_xlabel("surest texts, %")
    axes.set_ylabel("wrong, %")
    at = int(np.searchsorted(curve.coverage, 0.8))
    caption = (
        f"Of the surest 80 % of the texts {share(curve.risk[at])} are wrong, of all {share(curve.risk[-1])}. "
        f"Area under the curve {e.aurc or 0:.4f}; lower is better."
    )
    return _plot(made, "risk", "Risk and coverage", caption)


def _precision_recall(e: Evaluation) -> Plot | None:
    curves = sorted(e.curves.precision_recall.items(), key=lambda item: item[1].average_precision)
    if not curves:
        return None
    made, axes = figure()
    shown = curves[:_MAX_CURVES]
    for i, (label, curve) in enumerate(shown):
        name = f"{plain(label, width=18)} {100 * curve.average_precision:.1f}"
        recall, precision = [100 * r for r in curve.recall], [100 * p for p in curve.precision]
        axes.plot(recall, precision, color=SERIES[i], label=name, linewidth=1.3)
    axes.set_xlim(0, 102)
    axes.set_ylim(0, 102)
    axes.set_xlabel("recall, %")
    axes.set_ylabel("precision, %")
    axes.legend(loc="lower left", title="average precision, %", title_fontsize=8)
    which = "each label" if len(shown) == len(curves) else f"the {len(shown)} labels with the lowest average precision"
    mean = float(np.mean([curve.average_precision for _, curve in curves]))
    caption = f"One label against the rest, for {which}. Mean average precision of all labels {share(mean)}."
    return _plot(made, "precision-recall", "Precision and recall", caption)


def _lengths(e: Evaluation) -> Plot | None:
    bins = e.curves.by_length
    if len(bins) < 2:
        return None
    unit = e.answers.length_unit
    made, axes = figure()
    y = [100 * b.accuracy for b in bins]
    axes.errorbar(range(len(bins)), y, yerr=_errors(y, [b.accuracy_interval for b in bins]), fmt="o", color=SERIES[0])
    axes.axhline(100 * e.accuracy, color=FAINT, linestyle="--", linewidth=1)
    names = [str(b.shortest) if b.shortest == b.longest else f"{b.shortest}–{b.longest}" for b in bins]
    axes.set_xticks(range(len(bins)), names)
    axes.set_xlim(-0.5, len(bins) - 0.5)
    axes.set_xlabel(unit)
    axes.set_ylabel("right, %")
    worst = min(range(len(bins)), key=lambda i: bins[i].accuracy)
    caption = (
        f"Texts in {len(bins)} groups of similar length, with 95 % intervals; dashed: all. Fewest are right at "
        f"{names[worst]} {unit}: {share(bins[worst].accuracy)} of {bins[worst].n}."
    )
    if e.truncated:
        caption += f" {share(e.truncated)} of the texts are longer than the model reads."
    return _plot(made, "lengths", "Accuracy by length", caption)


def _errors(values: list[float], intervals: list[tuple[float, float] | None]) -> list[list[float]]:
    """How far the intervals reach below and above the values, in per cent."""
    ends = [interval or (0.0, 1.0) for interval in intervals]
    below = [max(0.0, value - 100 * low) for value, (low, _) in zip(values, ends, strict=True)]
    above = [max(0.0, 100 * high - value) for value, (_, high) in zip(values, ends, strict=True)]
    return [below, above]


def _plot(made: Any, name: str, title: str, caption: str) -> Plot:
    for axes in made.axes:
        axes.tick_params(color=LINE, labelcolor=INK)
    return Plot(inline_svg(made, name=f"plot-{name}", title=title, description=caption), title, caption)
