"""`thresholds`: from which probability an answer is accepted, found on labelled rows, stored, and what to expect of it.

Finding is for threshold_search.py.

    N texts, K decisions (see threshold_search), L labels.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_classifier.errors import ConfigError
from stream_classifier.model import directory
from stream_classifier.model.classifier import Classifier
from stream_classifier.model.labels import guess_positive, index_of
from training.answers import Answers, answer_table
from training.calibration import NUM_FOLDS, folds_of, prior_shift
from training.data import Columns
from training.intervals import one_sided_lower
from training.manifest_updates import STALE_WITH_LABELS, check_place, update_manifest, without_figures
from training.reading import find_part, read_original_rows
from training.reference import without_stale_answers
from training.rejection import known_out_of_scope_label
from training.threshold_outcome import Expected, Outcome
from training.threshold_search import Costs, Goal, ThresholdSet, decisions_of, search

__all__ = ["Costs", "Expected", "Goal", "LabelOutcome", "ThresholdResult", "thresholds"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LabelOutcome:
    """A label's threshold and what it does; `own` is False where it shares the pooled one, having too few rows."""

    threshold: float
    own: bool
    reached: bool
    rows: int
    accepted: int
    precision: float | None
    precision_bound: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdResult:
    """What `thresholds` did.

    Attributes:
        path, digest: of the model directory written.
        goal: in words.
        n: rows.
        default, operating_point: as stored; None where there is none.
        labels: by label.
        rows_needed: what it takes for a threshold of a label's own; None when none was wanted.
        before: what the thresholds that were there do to the rows, for comparison.
        on_rows: what the new ones do to the rows they were found on.
        cross_fitted: and those found on four fifths to the other fifth; None where four fifths are too few,
            and for costs, which fit nothing.
        multi_label: whether a text may have several labels, which count as independent in all bounds and intervals.
        at_priors: on a stream with the given shares of labels; None where none were given.
    """

    path: Path
    digest: str
    goal: str
    n: int
    default: float | None
    operating_point: float | None
    labels: dict[str, LabelOutcome] = field(repr=False)
    rows_needed: int | None
    before: Expected
    on_rows: Expected
    cross_fitted: Expected | None
    multi_label: bool
    at_priors: Expected | None

    def as_dict(self) -> dict[str, Any]:
        """The JSON object of `--json`."""
        return {**asdict(self), "path": str(self.path)}


def thresholds(
    model: str | Path,
    data: str | Path,
    goal: Goal,
    *,
    priors: Mapping[str, float] | None = None,
    positive_label: str | None = None,
    out_of_scope_label: str | None = None,
    columns: Columns | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    device: str = "auto",
    dtype: str = "auto",
) -> ThresholdResult:
    """Finds thresholds on labelled rows and writes them to classifier.json, in place of those that are there. Blocks.

    The rows must not be those the model was trained on. A rejection rule for out-of-scope texts stays. For a precision,
    the lowest threshold is taken whose bound reaches it. Where other labels are given than before, `reference` loses
    what it says of labels, and with one label a text of scores.

    Args:
        model: a model directory; with `out` a Hub name too.
        data: a file, or a folder with a validation file.
        goal: a precision, a coverage, costs, or the best F1.
        priors: shares of labels on the stream, for what is to be expected there; the thresholds are those of the rows.
        positive_label: for costs with two labels; None: the model's, else guessed from the names.
        out_of_scope_label: what marks rows that belong to no label, whose answers are errors; None: as the model's
            rejection rule says.
        columns: where texts and labels are.
        out: a directory to write; None: `model` itself, atomically.
        overwrite: whether a model directory at `out` is replaced.
        device, dtype: as for `Classifier.load`: with what will serve.

    Raises:
        ConfigError: a goal that the rows cannot give, with what they can, or what the goal has no use for; nothing is
            written.
        ModelDirectoryError: the model does not load.
    """
    if goal.costs is None and positive_label is not None:
        raise ConfigError(f"--positive-label {positive_label} is about costs; give them, or leave it out")
    if goal.costs is not None and goal.per_label:
        raise ConfigError("--per-label is about --precision, --coverage or --f1, and the goal is costs; leave it out")
    path = check_place(model, out, overwrite=overwrite)
    table = read_original_rows(find_part(Path(data), "validation"), columns)
    served = Classifier.load(model, device=device, dtype=dtype)
    # Each label's threshold 0: what is uncertain now is so by the rejection rule alone.
    open_to_all = Classifier.load(served, thresholds=dict.fromkeys(served.labels, 0.0))
    outside = out_of_scope_label or known_out_of_scope_label(path)
    answers, before = (answer_table(loaded, table, out_of_scope_label=outside) for loaded in (open_to_all, served))
    labels = answers.labels
    if positive_label is not None and (answers.multi_label or len(labels) != 2):
        has = "several labels a text" if answers.multi_label else f"{len(labels)} labels"
        raise ConfigError(f"--positive-label {positive_label} is for two labels, and the model has {has}; leave it out")
    manifest = directory.read(model).manifest
    if goal.costs is not None and (manifest is None or manifest.calibration is None):
        logger.warning("the model has no calibration, and costs take its probabilities at their word: calibrate first")
    if positive_label is None and manifest is not None:
        positive_label = manifest.positive_label
    positive_index = _positive(positive_label, labels, goal)

    tuner = _Tuner(answers, answers.accepted_N, goal, positive_index)
    every_N = np.ones(len(answers), np.bool_)
    found = tuner.find(every_N)
    outcome = tuner.outcome(found)
    given_weights_N = None if not priors else _row_weights(answers, priors)
    expected = outcome.expected(goal.costs, positive_index)
    at_priors = None if given_weights_N is None else outcome.expected(goal.costs, positive_index, given_weights_N)
    rows_needed = next((own.needed for own in found.labels.values()), None) if goal.per_label else None

    together = expected.precision if goal.point_estimate else expected.precision_bound
    if goal.per_label and goal.precision is not None and together is not None and together < goal.precision:
        seen = f"all labels together reach {100 * together:.2f} %, less than the goal"
        why = "labels with few rows take the threshold of all rows"
        logger.warning("%s: %s; give more rows of them, or leave --per-label out", seen, why)
    stored = _stored(found, labels, goal, rows=Path(table.source).name, n=len(table), expected=expected, priors=priors)

    def change(content: dict[str, Any]) -> dict[str, Any]:
        old = content.get("thresholds") or {}
        kept = {"rejection": old["rejection"]} if old.get("rejection") else {}
        positive = {} if found.operating_point is None or positive_index is None else {
            "positive_label": labels[positive_index]}  # fmt: skip
        as_it_was = content
        if answers.multi_label or found.operating_point is not None:
            content = without_figures(content, STALE_WITH_LABELS)
        new = {**content, **positive, "thresholds": {**stored, **kept}}
        return without_stale_answers(new, as_it_was, problem_type=answers.problem_type)

    digest = update_manifest(path, change, out=out)
    return ThresholdResult(
        path=Path(path if out is None else out),
        digest=digest,
        goal=str(goal),
        n=len(table),
        default=found.default,
        operating_point=found.operating_point,
        labels=_label_outcomes(found, outcome, labels),
        rows_needed=rows_needed,
        before=Outcome.of(before).expected(goal.costs, positive_index),
        on_rows=expected,
        cross_fitted=tuner.cross_fitted(),
        multi_label=answers.multi_label,
        at_priors=at_priors,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Tuner:
    answers: Answers
    eligible_N: NDArray[np.bool_]
    goal: Goal
    positive_index: int | None

    def find(self, chosen_N: NDArray[np.bool_]) -> ThresholdSet:
        a = self.answers.take(chosen_N)
        decisions = decisions_of(a, self.eligible_N[chosen_N])
        return search(self.goal, decisions, positive_index=self.positive_index, multi_label=a.multi_label)

    def outcome(self, found: ThresholdSet) -> Outcome:
        """As the stream's own Decider would decide."""
        a = self.answers
        thresholds_L = found.thresholds_L(len(a.labels))
        if a.multi_label:
            given_NL = a.p_NL >= thresholds_L
            return Outcome(a, given_NL, given_NL.any(axis=1) & self.eligible_N)
        label_N = a.p_NL.argmax(axis=1)
        if found.operating_point is not None and self.positive_index is not None:
            is_positive_N = a.p_NL[:, self.positive_index] >= found.operating_point
            label_N = np.where(is_positive_N, self.positive_index, 1 - self.positive_index)
        scores_N = a.p_NL[np.arange(len(a)), label_N]
        accepted_N = (scores_N >= thresholds_L[label_N]) & self.eligible_N
        return Outcome(a, label_N[:, None] == np.arange(len(a.labels)), accepted_N)

    def cross_fitted(self) -> Expected | None:
        a, goal = self.answers, self.goal
        if goal.costs is not None:
            return None  # nothing is fitted: the probabilities are taken at their word
        folds_N = folds_of(a.true_NL)
        given_NL, accepted_N = np.zeros_like(a.predicted_NL), np.zeros(len(a), np.bool_)
        for fold in range(NUM_FOLDS):
            out_N = folds_N == fold
            try:
                outcome = self.outcome(self.find(~out_N))
            except ConfigError as error:
                logger.info("not cross-fitted, four fifths of the rows are too few: %s", error)
                return None
            given_NL[out_N], accepted_N[out_N] = outcome.given_NL[out_N], outcome.accepted_N[out_N]
        return Outcome(a, given_NL, accepted_N).expected(goal.costs, self.positive_index)


def _label_outcomes(found: ThresholdSet, outcome: Outcome, labels: tuple[str, ...]) -> dict[str, LabelOutcome]:
    a, thresholds_L = outcome.answers, found.thresholds_L(len(labels))
    counted_NL = outcome.given_NL & outcome.accepted_N[:, None]
    accepted_L, right_L = counted_NL.sum(axis=0).tolist(), (counted_NL & a.true_NL).sum(axis=0).tolist()
    rows_L = a.true_NL.sum(axis=0) if a.multi_label else outcome.given_NL.sum(axis=0)
    outcomes = {}
    for i, label in enumerate(labels):
        own = found.labels.get(i)
        has_own = own is not None and own.cut is not None
        outcomes[label] = LabelOutcome(
            threshold=float(thresholds_L[i]),
            own=has_own,
            reached=own.reached if own is not None and has_own else found.default_reached,
            rows=int(rows_L[i]),
            accepted=accepted_L[i],
            precision=right_L[i] / accepted_L[i] if accepted_L[i] else None,
            precision_bound=float(one_sided_lower(right_L[i], accepted_L[i])),
        )
    return outcomes


def _stored(
    found: ThresholdSet,
    labels: tuple[str, ...],
    goal: Goal,
    *,
    rows: str,
    n: int,
    expected: Expected,
    priors: Mapping[str, float] | None,
) -> dict[str, Any]:
    own = {labels[i]: item.cut.threshold for i, item in found.labels.items() if item.cut is not None}
    tuned_for = {
        "goal": str(goal),
        "rows": rows,
        "n": n,
        "coverage": expected.coverage,
        "precision": expected.precision,
        "precision_bound": expected.precision_bound,
    }
    stored: dict[str, Any] = {"tuned_for": {**tuned_for, "priors": dict(priors)} if priors else tuned_for}
    if found.default is not None:
        stored["default"] = found.default
    if own:
        stored["labels"] = own
    if found.operating_point is not None:
        stored["operating_point"] = found.operating_point
    return stored


def _positive(positive_label: str | None, labels: tuple[str, ...], goal: Goal) -> int | None:
    if positive_label is not None:
        return index_of(positive_label, labels, setting="--positive-label")
    if goal.costs is None or len(labels) != 2:
        return None
    return labels.index(guess_positive(labels))


def _row_weights(answers: Answers, priors: Mapping[str, float]) -> NDArray[np.float64]:
    """How much each row counts on a stream with other shares of labels, `[N]`."""
    if answers.multi_label:
        raise ConfigError("--priors are for models with one label a text; leave them out")
    in_scope_N = answers.true_NL.any(axis=1)
    shares_L = answers.true_NL[in_scope_N].mean(axis=0)
    _, target_L = prior_shift(priors, shares_L, answers.labels, problem_type=answers.problem_type)
    weights_N: NDArray[np.float64] = np.where(in_scope_N, (target_L / shares_L)[answers.true_N], 1.0)
    return weights_N
