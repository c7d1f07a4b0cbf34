"""What was delivered, told to the metrics: once a delivery, in arrays.

"Delivered" means acknowledged: nothing is counted before, and a result the sink refused counts as the dead letter it
became.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from stream_classifier.model.decision import Predictions
from stream_classifier.observe.metrics import Metrics
from stream_classifier.records import ACCEPTED, UNCERTAIN, SourceRecord
from stream_classifier.stream.delivery import Refusal
from stream_classifier.stream.outputs import Failures

__all__ = ["DEAD_LETTER", "BatchReport", "BranchReport", "MicroBatchMetrics", "report_delivery"]

DEAD_LETTER = "dead_letter"


@dataclass(frozen=True)
class BranchReport:
    """One classifier's results of a record batch: prediction i is of source i.

    Attributes:
        stage_seconds: how long the batch spent in each stage before delivery.
    """

    classifier: str
    sources: Sequence[SourceRecord]
    predictions: Predictions
    num_tokens: int
    stage_seconds: Mapping[str, float]


@dataclass
class BatchReport:
    """What one record batch became.

    Attributes:
        branches: the results, by classifier.
        failures: the records without a result.
    """

    branches: list[BranchReport] = field(default_factory=list)
    failures: Failures = field(default_factory=Failures)


def report_delivery(
    metrics: Metrics, reports: Sequence[BatchReport], refusals: Sequence[Refusal], deliver_seconds: float
) -> None:
    """Count one delivery of one source partition."""
    now_ms = time.time() * 1000.0
    refused: dict[str, set[int]] = {}
    for refusal in refusals:
        refused.setdefault(refusal.classifier, set()).add(refusal.source.offset)
        metrics.dead_letter(refusal.classifier, refusal.error.stage, refusal.error.reason)
    for classifier, offsets in refused.items():
        metrics.records(classifier, DEAD_LETTER, len(offsets))
    for report in reports:
        for branch in report.branches:
            _report_branch(metrics, branch, refused.get(branch.classifier, set()), now_ms)
            for stage, seconds in branch.stage_seconds.items():
                metrics.stage(branch.classifier, stage, seconds)
            metrics.stage(branch.classifier, "deliver", deliver_seconds)
        for _, _, error, classifiers in report.failures:
            # a record that cannot be decoded is no one classifier's failure
            for classifier in [""] if error.stage == "decode" else classifiers:
                metrics.dead_letter(classifier, error.stage, error.reason)
                metrics.records(classifier, DEAD_LETTER)


def _report_branch(metrics: Metrics, branch: BranchReport, refused: set[int], now_ms: float) -> None:
    predictions = branch.predictions
    indices_N, accepted_N, scores_N = predictions.label_indices_N, predictions.accepted_N, predictions.scores_N
    sources = branch.sources
    if refused:
        kept = np.array([source.offset not in refused for source in sources], dtype=np.bool_)
        indices_N, accepted_N, scores_N = indices_N[kept], accepted_N[kept], scores_N[kept]
        sources = [source for source in sources if source.offset not in refused]
    num_accepted = int(np.count_nonzero(accepted_N))
    if num_accepted:
        metrics.records(branch.classifier, ACCEPTED, num_accepted)
    if num_accepted < len(sources):
        metrics.records(branch.classifier, UNCERTAIN, len(sources) - num_accepted)
    metrics.labels(branch.classifier, indices_N, accepted_N, predictions.labels, scores_N)
    timestamps_N = np.array([source.timestamp for source in sources], dtype=np.float64)
    timestamps_N[timestamps_N < 0] = np.nan
    metrics.latencies(branch.classifier, (now_ms - timestamps_N) / 1000.0)
    metrics.tokens(branch.classifier, branch.num_tokens)


@dataclass(frozen=True)
class MicroBatchMetrics:
    """Tells the metrics of one classifier's micro-batches."""

    metrics: Metrics
    classifier: str

    def micro_batch(self, *, records: int, tokens: int, padded_tokens: int) -> None:
        """A micro-batch was run."""
        self.metrics.batch(self.classifier, records, tokens or None, padded_tokens or None)
