"""From which probability an answer is good enough: for a precision, a coverage, costs, or the best F1.

Pure arithmetic on answers; reading, writing and reporting is for threshold_tuning.py.

    K decisions that a threshold can accept: one a text, or where a text may have several labels one a text and label.
    L labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stream_classifier.errors import ConfigError
from training.answers import Answers
from training.intervals import one_sided_lower, rows_to_certify

__all__ = ["Costs", "Cut", "Decisions", "Goal", "LabelThreshold", "ThresholdSet", "decisions_of", "search"]

_MIN_LABEL_ROWS = 50  # for a threshold of its own where no bound says how many it takes
_NEVER = 1.0


@dataclass(frozen=True, slots=True)
class Costs:
    """What decisions cost, in any unit; 0 for a right one.

    Attributes:
        false_positive: a wrong label accepted; with two labels, the positive one given wrongly.
        false_negative: with two labels, the negative one given wrongly; with several a text, a label left out.
        review: a text that is uncertain; None: nobody reviews, and all is accepted.
    """

    false_positive: float
    false_negative: float | None = None
    review: float | None = None

    def __post_init__(self) -> None:
        for name in ("false_positive", "false_negative", "review"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"--{name.replace('_', '-')}-cost {value:g}: give a number above 0")


@dataclass(frozen=True, slots=True)
class Goal:
    """What thresholds are wanted for: just one of the first four.

    Attributes:
        precision: share of right ones among those accepted, 0-1.
        coverage: share of texts accepted, 0-1.
        costs: the least expected cost, taking the probabilities at their word.
        f1: the best F1 of each label; for several labels a text.
        point_estimate: whether the precision seen is enough, and not its one-sided 95 % bound.
        per_label: whether labels with enough rows get a threshold of their own.
    """

    precision: float | None = None
    coverage: float | None = None
    costs: Costs | None = None
    f1: bool = False
    point_estimate: bool = False
    per_label: bool = False

    def __post_init__(self) -> None:
        given = [self.precision is not None, self.coverage is not None, self.costs is not None, self.f1]
        if sum(given) != 1:
            raise ConfigError("give just one goal: --precision, --coverage, --f1, or costs")
        for name in ("precision", "coverage"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                fix = f"write {value / 100:g} for {value:g} %" if 1 < value < 100 else "give a share, such as 0.99"
                raise ConfigError(f"--{name} {value:g}: it must be above 0 and below 1; {fix}")
        if self.point_estimate and self.precision is None:
            raise ConfigError("--point-estimate is about --precision; leave it out")

    def __str__(self) -> str:
        own = ", label by label" if self.per_label else ""
        if self.precision is not None:
            how = "as seen" if self.point_estimate else "by the one-sided 95 % bound"
            return f"a precision of {100 * self.precision:.2f} % {how}{own}"
        if self.coverage is not None:
            return f"a coverage of {100 * self.coverage:.2f} %{own}"
        if self.costs is None:
            return f"the best F1{own}"
        named = {"false positive": self.costs.false_positive, "false negative": self.costs.false_negative,
                 "review": self.costs.review}  # fmt: skip
        return "the least cost, of " + ", ".join(f"{name} {cost:g}" for name, cost in named.items() if cost is not None)


@dataclass(frozen=True, slots=True, eq=False)
class Decisions:
    """What a threshold decides on.

    Attributes:
        scores_K: the probability of the label given.
        right_K: bool, whether it is right.
        label_K: its index.
        eligible_K: bool, False where a rejection rule makes the text uncertain anyway.
        num_labels: L.
        num_true_L: how often each label is true.
    """

    scores_K: NDArray[np.float64]
    right_K: NDArray[np.bool_]
    label_K: NDArray[np.intp]
    eligible_K: NDArray[np.bool_]
    num_labels: int
    num_true_L: NDArray[np.intp]

    def of(self, chosen_K: NDArray[np.bool_]) -> Decisions:
        """Those of a mask."""
        return Decisions(self.scores_K[chosen_K], self.right_K[chosen_K], self.label_K[chosen_K],
                         self.eligible_K[chosen_K], self.num_labels, self.num_true_L)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cut:
    """A threshold, and what it accepts of the decisions it was found on."""

    threshold: float
    accepted: int
    right: int


@dataclass(frozen=True, slots=True)
class LabelThreshold:
    """A label's own threshold, or why it has none.

    Attributes:
        rows: decisions for the label.
        cut: None: it shares the pooled threshold, having fewer rows than `needed`.
        reached: False where no threshold reaches the goal, so that nothing is accepted.
    """

    rows: int
    needed: int
    cut: Cut | None
    reached: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdSet:
    """What was found.

    Attributes:
        default: of all labels that have none of their own; None for costs with two labels.
        default_reached: False where no threshold reaches the goal for those labels together: nothing is accepted.
        labels: by index.
        operating_point: for costs with two labels: from which probability the positive one is given.
    """

    default: float | None
    default_reached: bool = True
    labels: dict[int, LabelThreshold] = field(default_factory=dict)
    operating_point: float | None = None

    def thresholds_L(self, num_labels: int) -> NDArray[np.float64]:
        """What each label's probability must reach, `[L]`."""
        found_L = np.full(num_labels, self.default or 0.0)
        for i, own in self.labels.items():
            if own.cut is not None:
                found_L[i] = own.cut.threshold
        return found_L


def decisions_of(answers: Answers, eligible_N: NDArray[np.bool_]) -> Decisions:
    """The decisions of answers, whatever thresholds the model has now: the best label of each text, or all labels."""
    num_texts, num_labels = answers.p_NL.shape
    num_true_L = answers.true_NL.sum(axis=0)
    if answers.multi_label:
        label_K = np.tile(np.arange(num_labels), num_texts)
        eligible_K = np.repeat(eligible_N, num_labels)
        return Decisions(answers.p_NL.ravel(), answers.true_NL.ravel(), label_K, eligible_K, num_labels, num_true_L)
    best_N = answers.p_NL.argmax(axis=1)
    every_N = np.arange(num_texts)
    return Decisions(
        answers.p_NL[every_N, best_N], answers.true_NL[every_N, best_N], best_N, eligible_N, num_labels, num_true_L
    )


def search(goal: Goal, decisions: Decisions, *, positive_index: int | None = None, multi_label: bool) -> ThresholdSet:
    """The thresholds for a goal.

    Args:
        goal: what for.
        decisions: of rows that the model was not trained on.
        positive_index: for costs with two labels.
        multi_label: whether a text may have several labels.

    Raises:
        ConfigError: a goal that is not for such a model, or that the rows cannot give; with what they can.
    """
    if goal.costs is not None:
        return _for_costs(goal.costs, decisions.num_labels, positive_index, multi_label=multi_label)
    if goal.f1 and not multi_label:
        raise ConfigError("--f1 is for models with several labels a text; give --precision or --coverage")
    if goal.coverage is not None and multi_label and not goal.per_label:
        fix = "give --precision or --f1, or --per-label for that share of the texts of each label"
        raise ConfigError(f"--coverage counts texts, and a text has several labels here; {fix}")
    own = _own_thresholds(goal, decisions) if goal.per_label else {}
    pooled_labels = [i for i in range(decisions.num_labels) if i not in own or own[i].cut is None]
    pooled = decisions.of(np.isin(decisions.label_K, pooled_labels))
    cut = _cut(goal, pooled)
    if cut is None and len(pooled_labels) == decisions.num_labels:
        raise ConfigError(_cannot(goal, decisions))
    if cut is None and len(pooled.scores_K) < _rows_needed(goal):
        cut = _borrowed(goal, decisions, pooled)
    if cut is None:
        return ThresholdSet(default=_NEVER, default_reached=not len(pooled.scores_K), labels=own)
    return ThresholdSet(default=cut.threshold, labels=own)


def _rows_needed(goal: Goal) -> int:
    if goal.precision is None or goal.point_estimate:
        return _MIN_LABEL_ROWS
    return max(_MIN_LABEL_ROWS, rows_to_certify(goal.precision))


def _borrowed(goal: Goal, decisions: Decisions, pooled: Decisions) -> Cut | None:
    """The threshold of all decisions, for labels with too few for one; None too where those few refute the goal."""
    cut = _cut(goal, decisions)
    if cut is None or goal.precision is None:
        return cut
    accepted_K = pooled.eligible_K & (pooled.scores_K >= cut.threshold)
    accepted, wrong = int(accepted_K.sum()), int((accepted_K & ~pooled.right_K).sum())
    return cut if 1 - one_sided_lower(wrong, accepted) >= goal.precision else None


def _own_thresholds(goal: Goal, decisions: Decisions) -> dict[int, LabelThreshold]:
    needed = _rows_needed(goal)
    found = {}
    for i in range(decisions.num_labels):
        of_label = decisions.of(decisions.label_K == i)
        rows = int(decisions.num_true_L[i]) if goal.f1 else len(of_label.scores_K)
        if rows < needed:
            found[i] = LabelThreshold(rows, needed, None)
            continue
        cut = _cut(goal, of_label)
        found[i] = LabelThreshold(rows, needed, cut or Cut(_NEVER, 0, 0), reached=cut is not None)
    return found


def _cut(goal: Goal, decisions: Decisions) -> Cut | None:
    """The threshold that serves the goal on these decisions, accepting as many as it can; None: there is none."""
    eligible_K = decisions.eligible_K
    if not eligible_K.any():
        return None
    order_K = np.argsort(-decisions.scores_K[eligible_K], kind="stable")
    scores_K, hits_K = decisions.scores_K[eligible_K][order_K], np.cumsum(decisions.right_K[eligible_K][order_K])
    ends = np.append(np.flatnonzero(np.diff(scores_K)), len(scores_K) - 1)  # equal scores are accepted together
    accepted, right = ends + 1, hits_K[ends]
    if goal.precision is not None:
        reached = right / accepted if goal.point_estimate else one_sided_lower(right, accepted)
        good = np.flatnonzero(reached >= goal.precision)
        if not len(good):
            return None
        at = int(good[-1])
    elif goal.coverage is not None:
        enough = np.flatnonzero(accepted >= goal.coverage * len(decisions.scores_K))
        if not len(enough):
            return None
        at = int(enough[0])
    else:
        at = int(np.argmax(right / (accepted + decisions.right_K.sum())))
    return Cut(_between(scores_K, int(ends[at])), int(accepted[at]), int(right[at]))


def _between(scores_K: NDArray[np.float64], last: int) -> float:
    """A threshold half way between the last score accepted and the next one, so that rounding moves no row over it."""
    accepted = float(scores_K[last])
    if last + 1 == len(scores_K):
        return accepted
    middle = (accepted + float(scores_K[last + 1])) / 2
    return middle if middle > scores_K[last + 1] else accepted


def _for_costs(costs: Costs, num_labels: int, positive_index: int | None, *, multi_label: bool) -> ThresholdSet:
    """Accept where the expected cost of being wrong is at most that of a review (Chow 1970,
    doi:10.1109/TIT.1970.1054406; Elkan 2001): the probabilities are taken at their word, so calibrate first.
    """
    if multi_label:
        if costs.false_negative is None or costs.review is not None:
            raise ConfigError("with several labels a text give --false-positive-cost and --false-negative-cost alone")
        return ThresholdSet(default=costs.false_positive / (costs.false_positive + costs.false_negative))
    if num_labels != 2:
        if costs.false_negative is not None or costs.review is None:
            problem = f"with {num_labels} labels a wrong one is a false positive of one and a false negative of another"
            raise ConfigError(f"{problem}; give --false-positive-cost for a wrong label and --review-cost")
        return ThresholdSet(default=_worth_accepting(costs.false_positive, costs.review))
    if costs.false_negative is None:
        fix = "add --false-negative-cost (both 1 if they cost the same)"
        raise ConfigError(f"--false-positive-cost alone determines nothing: never saying it would cost nothing; {fix}")
    if positive_index is None:
        raise ConfigError("which of the two labels is the positive one? give --positive-label")
    point = costs.false_positive / (costs.false_positive + costs.false_negative)
    if costs.review is None:
        return ThresholdSet(default=None, operating_point=point)
    own = {
        index: LabelThreshold(0, 0, Cut(_worth_accepting(cost, costs.review), 0, 0))
        for index, cost in ((positive_index, costs.false_positive), (1 - positive_index, costs.false_negative))
    }
    return ThresholdSet(default=None, labels=own, operating_point=point)


def _worth_accepting(error: float, review: float) -> float:
    return max(0.0, 1 - review / error)


def _cannot(goal: Goal, decisions: Decisions) -> str:
    eligible_K = decisions.eligible_K
    if goal.precision is None:
        rejected = f"{100 * (~eligible_K).mean():.1f} % of the rows"
        return f"no threshold gives {goal}: the model rejects {rejected} as out of scope"
    order_K = np.argsort(-decisions.scores_K[eligible_K], kind="stable")
    right_K = np.cumsum(decisions.right_K[eligible_K][order_K])
    accepted_K = np.arange(1, len(right_K) + 1)
    reached_K = right_K / accepted_K if goal.point_estimate else one_sided_lower(right_K, accepted_K)
    best = int(reached_K.argmax()) if len(reached_K) else 0
    can = "nothing is accepted" if not len(reached_K) else (
        f"the best these {len(decisions.scores_K)} rows show is {100 * math.floor(1e4 * reached_K[best]) / 1e4:.2f} %, "
        f"with {accepted_K[best] - right_K[best]} wrong among the {accepted_K[best]} surest"
    )  # fmt: skip
    needed = rows_to_certify(goal.precision)
    takes = "" if goal.point_estimate else f"; it takes {needed} accepted rows without an error, or more with some"
    fix = "give more rows, a lower --precision" + ("" if goal.point_estimate else ", or --point-estimate")
    return f"no threshold gives {goal}: {can}{takes}; {fix}"
