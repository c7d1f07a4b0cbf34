"""A second opinion: what the curves, figures and data of a model say in words, and which flag to try next.

Pure: from what was measured to remarks. Nothing is said that chance alone would explain.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from stream_classifier.model.labels import named
from training.evaluation import Evaluation, LabelScores
from training.history import TrainingHistory
from training.intervals import wilson
from training.measured import DataSummary
from training.report.markup import plain, share
from training.settings import FitSettings

__all__ = ["Remark", "Subject", "second_opinion"]

Severity = Literal["warning", "note"]

_RISE = 1.15  # of the validation loss over its lowest
_JUMP = 1.2  # of the training loss over the epoch before
_STILL_BETTER = 0.01  # macro-F1 gained in the last epoch
_FEW_EXAMPLES = 8
_FEW_ROWS = 200
_FEW_LABELLED = 32  # training rows a label: on TREC-6 pairs gain three to nine points with 8, and nothing with 64
_RARE = 5  # times fewer rows than the label in the middle
_CUT = 0.02
_SURE_DIFFERENCE = 2.58  # standard errors: one false alarm in a hundred
_SMALL_ECE = 0.015
_LABEL_SHIFT = 0.1
_SAID_HERE = frozenset({"few-examples", "single-examples", "imbalance", "few-rows", "long-texts", "label-shift"})


@dataclass(frozen=True, slots=True)
class Remark:
    """One thing to know of a model.

    Attributes:
        code: its name for machines, such as "overfitting".
        severity: "warning": it costs something; "note": good to know.
        message: what is seen, with numbers.
        fix: what to try next.
    """

    code: str
    severity: Severity
    message: str
    fix: str

    def as_dict(self) -> dict[str, str]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What an opinion is of; what is not known is None or empty.

    Attributes:
        history: how the training went.
        evaluation: the figures.
        measured_on: the rows of the figures: "test", "validation", or the name of a file.
        data: the rows.
        training: the summary of the fit in classifier.json.
        thresholds, calibration: those of classifier.json.
    """

    history: TrainingHistory | None = None
    evaluation: Evaluation | None = None
    measured_on: str = "validation"
    data: DataSummary = field(default_factory=DataSummary)
    training: Mapping[str, Any] = field(default_factory=dict)
    thresholds: Mapping[str, Any] = field(default_factory=dict)
    calibration: Mapping[str, Any] = field(default_factory=dict)


def second_opinion(subject: Subject) -> tuple[Remark, ...]:
    """All remarks, warnings first, otherwise from the training to the use of a model."""
    remarks: list[Remark] = []
    if subject.history is not None:
        remarks += [*_learning(subject, subject.history), *_fit(subject, subject.history)]
    if subject.evaluation is not None:
        e = subject.evaluation
        remarks += [*_labels(subject, e), *_baseline(subject, e), *_shift(subject, e), *_truncation(subject, e)]
        remarks += [*_rows(subject, e), *_calibration(subject, e), *_thresholds(subject, e)]
    remarks += _findings(subject.data)
    return tuple(sorted(remarks, key=lambda remark: remark.severity == "note"))


def _learning(subject: Subject, history: TrainingHistory) -> Iterator[Remark]:
    """Whether it learned at all, and whether the steps were too large."""
    train = [e.train_loss for e in history.epochs]
    rate = subject.training.get("learning_rate")
    lower = f"--learning-rate {rate / 3:.1g}" if isinstance(rate, float) else "a lower --learning-rate"
    for i in range(1, len(train)):
        if not train[i] <= _JUMP * train[i - 1] + 0.02:
            yield Remark(
                "divergence",
                "warning",
                f"The training loss rises from {train[i - 1]:.3f} to {train[i]:.3f} in epoch {i + 1}: the steps are "
                "too large",
                f"try {lower}, or --warmup-share 0.2",
            )
            return
    guess = _guessing_loss(subject)
    lowest = min(e.validation_loss for e in history.epochs)
    if guess is not None and lowest > 0.95 * guess and not _tells_labels_apart(subject, history):
        yield Remark(
            "nothing-learned",
            "warning",
            f"The validation loss never falls below {lowest:.3f}; guessing by the shares of the labels has {guess:.3f}",
            "check that texts and labels belong together; then try "
            + ("--preset few-shot" if _is_few_shot(subject) else f"{lower} and more --epochs"),
        )
    if _is_few_shot(subject):
        yield Remark(
            "few-labelled",
            "note",
            f"There are {_rows_a_label(subject)} training rows a label",
            "try --preset few-shot, which learns from pairs of texts; more rows help more",
        )


def _fit(subject: Subject, history: TrainingHistory) -> Iterator[Remark]:
    """Over- and underfitting, by the validation loss and by what the last epoch still gained."""
    losses = [e.validation_loss for e in history.epochs]
    lowest = min(range(len(losses)), key=losses.__getitem__)
    last, kept = history.epochs[-1], history.best
    if last.validation_loss > _RISE * losses[lowest] + 0.01 and last.train_loss < history.epochs[lowest].train_loss:
        kept_is_past = kept.validation_loss > _RISE * losses[lowest] + 0.01
        effect = (
            f"the weights kept, of epoch {kept.epoch}, are past that: surer of themselves than they should be"
            if kept_is_past
            else f"the weights kept are of epoch {kept.epoch}, before it hurts"
        )
        yield Remark(
            "overfitting",
            "warning" if kept_is_past else "note",
            f"From epoch {lowest + 1} on, the validation loss rises ({losses[lowest]:.3f} to {losses[-1]:.3f}) while "
            f"the training loss falls: it learns the training rows by heart; {effect}",
            "try --metric loss, --dropout 0.2 or --weight-decay 0.1; more rows help most",
        )
    if len(losses) < 2 or history.stopped_early or history.best_epoch != history.num_epochs:
        return
    gain = last.macro_f1 - max(epoch.macro_f1 for epoch in history.epochs[:-1])
    if gain > _STILL_BETTER and last.validation_loss <= losses[-2]:
        thaw = ", or leave out --freeze-encoder" if subject.training.get("freeze_encoder") else ""
        yield Remark(
            "underfitting",
            "warning",
            f"It was still getting better when it ended: macro-F1 rose by {100 * gain:.1f} points in the last epoch",
            f"try --epochs {2 * history.max_epochs}{thaw}",
        )


def _labels(subject: Subject, e: Evaluation) -> Iterator[Remark]:
    """Labels that are never given, that have few examples, and that suffer from being rare."""
    train = subject.data.parts.get("train")
    counts: Mapping[str, int] = {} if train is None else train.labels
    never = [label for label, s in e.per_label.items() if s.support and s.precision is None]
    if never and not e.answers.predicted_NL.any():
        epochs = FitSettings().max_epochs if subject.history is None else subject.history.max_epochs
        yield Remark(
            "no-answers",
            "warning",
            f"No label is ever given: of {e.n} texts none has a score that reaches the threshold of its label (0.5 "
            f"unless set); the highest score is {e.answers.p_NL.max():.2f}",
            f"train again with --epochs {2 * epochs} or --class-weights balanced; without that, lower thresholds: "
            f"stream-training thresholds MODEL DATA --f1",
        )
    elif never:
        rows = sum(e.per_label[label].support for label in never)
        yield Remark(
            "never-predicted",
            "warning" if rows >= 5 else "note",
            f"{_the_labels(never, 'is', 'are')} never given, though {rows} rows have "
            f"{'it' if len(never) == 1 else 'them'}",
            "try --class-weights balanced, or more examples; if nobody needs such a label, --label-map leaves it out",
        )
    few = [label for label in e.labels if 0 < counts.get(label, _FEW_EXAMPLES) < _FEW_EXAMPLES]
    if few:
        worse = _mean_recall(e, set(few))
        others = _mean_recall(e, set(e.labels) - set(few))
        seen = f"; mean recall {share(worse, 0)}, of the others {share(others, 0)}" if worse is not None else ""
        yield Remark(
            "few-examples",
            "warning" if worse is not None and others is not None and worse < others - 0.1 else "note",
            f"{_the_labels(few, 'has', 'have')} fewer than {_FEW_EXAMPLES} training rows{seen}",
            "more examples of these help most; --label-map merges labels that nobody needs apart",
        )
    hurt = [label for label in _rare(counts, few, never) if _is_hurt(e, e.per_label.get(label))]
    if hurt:
        shown = [
            f"{plain(label, width=40)!r} has {counts[label]} and recall {share(e.per_label[label].recall, 0)}"
            for label in hurt[:3]
        ]
        middle = sorted(counts.values())[len(counts) // 2]
        yield Remark(
            "imbalance",
            "warning",
            f"Rare labels are missed: {', '.join(shown)}{' …' if len(hurt) > 3 else ''}; the label in the middle has "
            f"{middle} training rows",
            "try --class-weights balanced or --balanced-sampling",
        )


def _baseline(subject: Subject, e: Evaluation) -> Iterator[Remark]:
    if e.baseline is None:
        return
    accuracy = e.baseline.accuracy
    low, high = (100 * end for end in accuracy.interval)
    seen = f"tf-idf with a linear model has {share(accuracy.second)}, this model {share(accuracy.first)}"
    thaw = "leave out --freeze-encoder, " if subject.training.get("freeze_encoder") else ""
    fix = f"try another --base, {thaw}or serve the simpler model: it is hundreds of times faster"
    if e.baseline.decided and accuracy.difference < 0:
        yield Remark("baseline", "warning", f"A simple baseline is better: {seen}", fix)
    elif not e.baseline.decided:
        yield Remark(
            "baseline", "note", f"A simple baseline is as good ({low:+.1f} to {high:+.1f} points): {seen}", fix
        )


def _shift(subject: Subject, e: Evaluation) -> Iterator[Remark]:
    """Whether the measured rows are unlike the validation rows: in accuracy, or in the shares of labels."""
    validation, train = subject.data.parts.get("validation"), subject.data.parts.get("train")
    if subject.measured_on != "validation" and subject.history is not None and validation is not None:
        before, n, now = subject.history.best.accuracy, validation.n, _raw_accuracy(e)
        pooled = (before * n + now * e.n) / (n + e.n)
        spread = math.sqrt(max(pooled * (1 - pooled), 1e-9) * (1 / n + 1 / e.n))
        if abs(before - now) > _SURE_DIFFERENCE * spread:
            worse = now < before
            yield Remark(
                "shift",
                "warning" if worse else "note",
                f"Accuracy is {share(before)} on the validation rows and {share(now)} on {subject.measured_on}, "
                "more apart than chance makes them: these rows are unlike the others",
                "look at how the files were made; copies across them, time and source are the usual causes"
                + (", and --group-column or --time-column make an honest split" if worse else ""),
            )
    if train is None or e.multi_label is not None:
        return
    total = sum(train.labels.values())
    there = {label: s.support / e.n for label, s in e.per_label.items()}
    trained = {label: train.labels.get(label, 0) / total for label in there}
    distance = sum(abs(there[label] - trained[label]) for label in there) / 2
    by_chance = sum(math.sqrt(p * (1 - p) * (1 / e.n + 1 / total) * 2 / math.pi) for p in trained.values()) / 2
    if distance > _LABEL_SHIFT and distance > 2 * by_chance:
        most = max(there, key=lambda label: abs(there[label] - trained[label]))
        yield Remark(
            "label-shift",
            "note",
            f"Labels are distributed otherwise on the measured rows than in training: {plain(most, width=40)!r} has "
            f"{share(there[most])} there and {share(trained[most])} in training",
            "if the stream is like neither, stream-training calibrate MODEL DATA --priors says how it is",
        )


def _truncation(subject: Subject, e: Evaluation) -> Iterator[Remark]:
    if e.truncated <= _CUT:
        return
    cut_N = e.answers.truncated_N
    correct_N = e.answers.correct_N
    cut, whole = float(correct_N[cut_N].mean()), float(correct_N[~cut_N].mean()) if not cut_N.all() else None
    interval = wilson(int(correct_N[cut_N].sum()), int(cut_N.sum()))
    hurts = whole is not None and interval is not None and interval[1] < whole
    length = subject.training.get("max_length")
    longer = f"--max-length {2 * length}" if isinstance(length, int) else "a larger --max-length"
    against = "" if whole is None else f", of the others {share(whole)}"
    yield Remark(
        "truncation",
        "warning" if hurts else "note",
        f"{share(e.truncated)} of the texts are longer than the model reads; {share(cut)} of these are right{against}",
        f"try {longer}; training and serving take longer then" if hurts else "nothing to do: it does not cost accuracy",
    )


def _rows(subject: Subject, e: Evaluation) -> Iterator[Remark]:
    low, high = e.accuracy_interval
    if e.n < _FEW_ROWS:
        yield Remark(
            "few-rows",
            "note",
            f"The figures are of {e.n} rows: accuracy is somewhere between {share(low)} and {share(high)}",
            "measure on more rows (stream-training report MODEL DATA), or hold more out: --test-share 0.2",
        )


def _calibration(subject: Subject, e: Evaluation) -> Iterator[Remark]:
    if e.ece <= e.ece_noise_95 or e.ece <= _SMALL_ECE:
        return
    fitted_on = subject.calibration.get("fitted_on")
    if isinstance(fitted_on, Mapping) and fitted_on.get("priors"):
        return  # it is for a stream unlike these rows, as somebody said
    confidence, right = (
        (float(e.answers.p_NL.mean()), float(e.answers.true_NL.mean()))
        if e.multi_label is not None
        else (float(e.answers.scores_N.mean()), e.accuracy)
    )
    manner = "too sure" if confidence > right else "not sure enough"
    yield Remark(
        "miscalibration",
        "warning",
        f"Scores are {manner} of themselves: the calibration error is {share(e.ece)}, of which chance explains "
        f"{share(e.ece_noise_95)}",
        "stream-training calibrate MODEL DATA, on at least 200 rows that it was not trained on",
    )


def _thresholds(subject: Subject, e: Evaluation) -> Iterator[Remark]:
    if any(value not in (None, {}) for key, value in subject.thresholds.items() if key != "tuned_for"):
        return
    curve = e.curves.risk_coverage
    if curve is None or e.accuracy == 1:
        return
    at = next(i for i, coverage in enumerate(curve.coverage) if coverage >= 0.8)
    yield Remark(
        "no-thresholds",
        "note",
        f"Every text is accepted, however unsure the model is: {share(curve.risk[-1])} are wrong; of the surest 80 % "
        f"{share(curve.risk[at])}",
        "stream-training thresholds MODEL DATA finds from which score on to accept",
    )


def _findings(data: DataSummary) -> Iterator[Remark]:
    """What the data check warned of and the figures do not show."""
    for finding in data.findings:
        if finding["severity"] != "note" and finding["code"] not in _SAID_HERE:
            message = str(finding["message"])
            yield Remark(finding["code"], "warning", f"Data ({finding['part']}): {message}", finding["fix"])


def _raw_accuracy(e: Evaluation) -> float:
    """Of the raw logits, as in the history of a fit: operating points and thresholds decide otherwise."""
    a = e.answers
    if a.multi_label:
        return float(((a.logits_NL > 0) == a.true_NL).all(axis=1).mean())
    return float((a.logits_NL.argmax(axis=1) == a.true_N).mean())


def _rows_a_label(subject: Subject) -> int | None:
    train = subject.data.parts.get("train")
    return None if train is None or not train.labels else round(train.n / len(train.labels))


def _is_few_shot(subject: Subject) -> bool:
    """Whether there are so few rows with one label each that learning from pairs is worth a try, and was not tried."""
    rows = _rows_a_label(subject)
    tried = bool(subject.training.get("contrastive_steps"))
    return rows is not None and rows < _FEW_LABELLED and not tried and _guessing_loss(subject) is not None


def _guessing_loss(subject: Subject) -> float | None:
    """Of a model that knows the shares of the labels alone; None for several labels a text, or unknown."""
    train = subject.data.parts.get("train")
    if train is None or sum(train.labels.values()) != train.n:
        return None
    return -sum(n / train.n * math.log(n / train.n) for n in train.labels.values() if n)


def _tells_labels_apart(subject: Subject, history: TrainingHistory) -> bool:
    """Whether in some epoch all validation rows were right, or surely more than the most frequent label has."""
    train, validation = subject.data.parts.get("train"), subject.data.parts.get("validation")
    accuracy = max(e.accuracy for e in history.epochs)
    interval = None if validation is None else wilson(round(accuracy * validation.n), validation.n)
    most = 1.0 if train is None else max(train.labels.values()) / train.n
    return accuracy == 1 or (interval is not None and interval[0] > most)


def _mean_recall(e: Evaluation, labels: set[str]) -> float | None:
    recalls = [s.recall for label, s in e.per_label.items() if label in labels and s.recall is not None]
    return sum(recalls) / len(recalls) if recalls else None


def _rare(counts: Mapping[str, int], *others: list[str]) -> list[str]:
    if not counts:
        return []
    middle = sorted(counts.values())[len(counts) // 2]
    said = {label for labels in others for label in labels}
    return [label for label, n in sorted(counts.items(), key=lambda item: item[1]) if _RARE * n <= middle
            and label not in said]  # fmt: skip


def _is_hurt(e: Evaluation, scores: LabelScores | None) -> bool:
    """Whether a label's recall is surely below what is usual."""
    usual = _mean_recall(e, set(e.labels))
    if scores is None or scores.recall_interval is None or usual is None:
        return False
    return scores.recall_interval[1] < usual


def _the_labels(labels: list[str], one: str, several: str) -> str:
    is_one = len(labels) == 1
    return f"The label {named(labels)} {one}" if is_one else f"{len(labels)} labels ({named(labels)}) {several}"
