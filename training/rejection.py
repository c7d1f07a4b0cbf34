"""Texts that belong to no label: a rule that makes them uncertain, fitted, stored, and measured.

Such rows are never trained on. The rule asks how sure the model is, by its best probability or by its energy, and keeps
most texts in scope; how many others it lets through is then what it is. Serving it is for
stream_classifier.model.decision.

    N texts, L labels.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from sklearn.metrics import roc_auc_score

from stream_classifier.errors import ConfigError
from stream_classifier.model.calibration import SINGLE_LABEL
from stream_classifier.model.classifier import Classifier
from stream_classifier.model.manifest import MANIFEST_NAME, read_json_object
from training.answers import Answers, answer_table
from training.data import Table
from training.intervals import Interval, wilson

__all__ = [
    "SCORES",
    "FittedRejection",
    "OutOfScope",
    "Outside",
    "first_rejection",
    "fit_rejection",
    "in_scope",
    "joined",
    "keep_label",
    "known_out_of_scope_label",
    "measure_out_of_scope",
    "out_of_scope_label_in",
    "scope_scores",
    "set_apart",
]

logger = logging.getLogger(__name__)

SCORES = ("max_prob", "energy")
_AUTO = "auto"
_LABEL_KEY = "out_of_scope_label"
_WITHOUT_OUTSIDERS = "energy"  # the better one on CLINC150: 84 % of out-of-scope texts found, 78 % by max_prob


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedRejection:
    """A rule, and what it does to the rows it was fitted on.

    Attributes:
        score: "max_prob", the best calibrated probability, or "energy", the logsumexp of the raw logits.
        threshold: texts with a lower score are uncertain.
        kept: share of the texts in scope that are not rejected.
        recalls: by score, the share of the texts out of scope that are; empty where there are none to choose by.
        num_in_scope, num_out_of_scope: rows of each.
    """

    score: str
    threshold: float
    kept: float
    recalls: dict[str, float]
    num_in_scope: int
    num_out_of_scope: int

    def stored(self, label: str) -> dict[str, Any]:
        """What `thresholds.rejection` of classifier.json says."""
        tuned_for = {
            _LABEL_KEY: label,
            "kept_in_scope": self.kept,
            "recall": self.recalls.get(self.score),
            "num_in_scope": self.num_in_scope,
            "num_out_of_scope": self.num_out_of_scope,
        }
        return {"score": self.score, "threshold": self.threshold, "tuned_for": tuned_for}


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfScope:
    """What becomes of texts that belong to no label, and what that costs those that do. Shares, intervals of 95 %.

    The accuracy among the texts in scope stands beside it, in `Evaluation.accuracy`: by the best label alone, whatever
    is rejected. Keeping 95 % of them caps what is accepted and right at 95 %.

    Attributes:
        label: what marks such rows in the data.
        n: how many there are.
        recall: share of them that is uncertain.
        kept: share of the texts in scope that is accepted.
        accepted_and_right: share of the texts in scope that is accepted with the right label.
        precision: share of right labels among all accepted, those out of scope among them.
        auroc: by score, how well it tells the two apart, whatever the threshold (0.5: not at all).
    """

    label: str
    n: int
    recall: float
    recall_interval: Interval
    kept: float
    kept_interval: Interval
    accepted_and_right: float
    precision: float | None
    auroc: dict[str, float]


@dataclass(frozen=True, slots=True)
class Outside:
    """A model's answers to rows that have the out-of-scope label."""

    label: str
    answers: Answers


def set_apart(table: Table, label: str) -> tuple[Table, Table | None]:
    """The rows in scope, and those that have the out-of-scope label, None where there are none.

    Raises:
        ConfigError: all rows have it, or the table has several labels a text.
    """
    outside = [i for i, own in enumerate(table.labels) if own == label]
    if not outside:
        return table, None
    found = set(outside)
    inside = [i for i in range(len(table)) if i not in found]
    if not inside:
        raise ConfigError(f"{table.source}: all {len(table)} rows have the out-of-scope label {label!r}; give others")
    return table.take(inside, table.source), table.take(outside, f"{table.source} (out of scope)")


def in_scope(table: Table, model: str | Path) -> Table:
    """The rows that a model is asked about: all but those with the out-of-scope label of its directory.

    Raises:
        ConfigError: as for `set_apart`.
    """
    label = known_out_of_scope_label(model)
    return table if label is None else set_apart(table, label)[0]


def joined(tables: Sequence[Table]) -> Table | None:
    """The texts and labels of all; None where there are no tables."""
    if not tables:
        return None
    texts = [text for table in tables for text in table.texts]
    label_sets = [label_set for table in tables for label_set in table.label_sets]
    source = ", ".join(table.source for table in tables)
    return Table(source, texts, label_sets, multi_label=tables[0].multi_label)


def scope_scores(score: str, answers: Answers) -> NDArray[np.float64]:
    """How sure the model is of each text, `[N]`: high is in scope. As the stream's own Decider computes it."""
    if score == "max_prob":
        best_N: NDArray[np.float64] = answers.p_NL.max(axis=1)
        return best_N
    energy_N: NDArray[np.float64] = logsumexp(answers.logits_NL.astype(np.float64), axis=1)
    return energy_N


def fit_rejection(
    inside: Answers, outside: Answers | None, *, keep: float = 0.95, score: str = _AUTO
) -> FittedRejection:
    """The rule that keeps the share `keep` of the texts in scope, and by the better of the two scores.

    Args:
        inside, outside: answers to rows that the model was not trained on; without `outside` the score is energy.
        keep: 0-1.
        score: "max_prob", "energy", or "auto": whichever rejects more of the rows out of scope.

    Raises:
        ConfigError: a score or share that is none, or a model with several labels a text.
    """
    if inside.problem_type != SINGLE_LABEL:
        raise ConfigError("a text with none of several labels is uncertain already; leave --out-of-scope-label out")
    if not 0 < keep < 1:
        raise ConfigError(f"--keep-in-scope {keep:g}: give a share above 0 and below 1, such as 0.95")
    if score not in (_AUTO, *SCORES):
        raise ConfigError(f"--rejection-score {score}: give auto, {' or '.join(SCORES)}")
    thresholds = {name: _lower_quantile(scope_scores(name, inside), 1 - keep) for name in SCORES}
    recalls = {}
    if outside is not None:
        recalls = {name: float((scope_scores(name, outside) < thresholds[name]).mean()) for name in SCORES}
    chosen = score
    if score == _AUTO:
        chosen = max(SCORES, key=lambda name: recalls[name]) if recalls else _WITHOUT_OUTSIDERS
    return FittedRejection(
        score=chosen,
        threshold=thresholds[chosen],
        kept=float((scope_scores(chosen, inside) >= thresholds[chosen]).mean()),
        recalls=recalls,
        num_in_scope=len(inside),
        num_out_of_scope=0 if outside is None else len(outside),
    )


def first_rejection(
    classifier: Classifier, inside: Table, outside: Table | None, *, label: str, keep: float
) -> dict[str, Any]:
    """What a fit writes as `thresholds.rejection`; the arguments as for `fit_rejection`."""
    rule = fit_rejection(
        answer_table(classifier, inside),
        None if outside is None else answer_table(classifier, outside, out_of_scope_label=label),
        keep=keep,
    )
    if rule.recalls:
        logger.info(
            "out of scope: rejecting by %s keeps %.1f %% of the validation texts and finds %.1f %% of the others",
            rule.score,
            100 * rule.kept,
            100 * rule.recalls[rule.score],
        )
    else:
        logger.warning("no row has the label %r: the rule is by energy, and what it finds is not known", label)
    return rule.stored(label)


def measure_out_of_scope(label: str, inside: Answers, outside: Answers) -> OutOfScope:
    """How a model deals with rows of both kinds, by the thresholds and the rule in use."""
    num_rejected, num_kept = int((~outside.accepted_N).sum()), int(inside.accepted_N.sum())
    num_right = int((inside.accepted_N & inside.correct_N).sum())
    num_accepted = num_kept + len(outside) - num_rejected
    is_inside = np.repeat([1, 0], [len(inside), len(outside)])
    return OutOfScope(
        label=label,
        n=len(outside),
        recall=num_rejected / len(outside),
        recall_interval=wilson(num_rejected, len(outside)) or (0.0, 1.0),
        kept=num_kept / len(inside),
        kept_interval=wilson(num_kept, len(inside)) or (0.0, 1.0),
        accepted_and_right=num_right / len(inside),
        precision=num_right / num_accepted if num_accepted else None,
        auroc={
            name: float(roc_auc_score(is_inside, np.append(scope_scores(name, inside), scope_scores(name, outside))))
            for name in SCORES
        },
    )


def known_out_of_scope_label(model: str | Path) -> str | None:
    """The label that a model directory's rejection rule was fitted for; None where there never was such a rule."""
    path = Path(model) / MANIFEST_NAME
    return out_of_scope_label_in(read_json_object(path) if path.is_file() else {})


def out_of_scope_label_in(content: Mapping[str, Any]) -> str | None:
    """What classifier.json says of it: the rejection rule, or the summary of the training that `keep_label` wrote."""
    rejection = (content.get("thresholds") or {}).get("rejection") or {}
    for place in (rejection.get("tuned_for"), content.get("training")):
        label = place.get(_LABEL_KEY) if isinstance(place, Mapping) else None
        if isinstance(label, str):
            return label
    return None


def keep_label(content: Mapping[str, Any], label: str | None) -> dict[str, Any]:
    """The content of a classifier.json that loses its rejection rule and still knows the label of it."""
    training = content.get("training") or {}
    if label is None or not isinstance(training, Mapping):
        return dict(content)
    return {**content, "training": {**training, _LABEL_KEY: label}}


def _lower_quantile(scores_N: NDArray[np.float64], share: float) -> float:
    """The highest threshold that at most `share` of the scores is below, half way to the next lower one."""
    ordered_N = np.sort(scores_N)
    at = int(np.floor(share * len(ordered_N) + 1e-9))  # 0.1 of 100 is 10 rows, whatever rounding makes of 1 - 0.9
    lower = ordered_N[ordered_N < ordered_N[at]]
    if not len(lower):
        return float(ordered_N[at])
    middle = float((lower[-1] + ordered_N[at]) / 2)
    return middle if middle > lower[-1] else float(ordered_N[at])
