"""What a report is made from: all that a model directory says of its model, read once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from stream_classifier.model import directory
from stream_classifier.model.directory import ModelDirectory
from stream_classifier.model.manifest import MANIFEST_NAME, read_json_object
from training.evaluation import Evaluation, evaluate_answers, with_outside
from training.history import HISTORY_NAME, TrainingHistory, read_history
from training.measured import DataSummary, Measured, decide_again, read_measured
from training.report.opinion import Remark, Subject, second_opinion

__all__ = ["ReportSource", "read_source"]


@dataclass(frozen=True, kw_only=True)
class ReportSource:
    """A model directory as its report and card show it.

    Attributes:
        name: of the model, as people know it.
        model: the directory, checked.
        content: of classifier.json; empty where there is none.
        measured: the rows of the figures, decided as the directory says now; None: it was never measured.
        evaluation: the figures; None where `measured` is.
        history: of the fit, where there is one.
        texts: those of the measured rows, in their order; None: they are not shown.
    """

    name: str
    model: ModelDirectory
    content: dict[str, Any] = field(repr=False)
    measured: Measured | None = field(repr=False)
    evaluation: Evaluation | None = field(repr=False)
    history: TrainingHistory | None = field(repr=False)
    texts: Sequence[str] | None = field(default=None, repr=False)

    @cached_property
    def remarks(self) -> tuple[Remark, ...]:
        """The second opinion."""
        measured = self.measured
        return second_opinion(
            Subject(
                history=self.history,
                evaluation=self.evaluation,
                measured_on="validation" if measured is None else measured.measured_on,
                data=DataSummary() if measured is None else measured.data,
                training=self.training,
                thresholds=self.content.get("thresholds") or {},
                calibration=self.content.get("calibration") or {},
            )
        )

    @property
    def training(self) -> dict[str, Any]:
        """The summary of the fit in classifier.json; maybe empty."""
        training = self.content.get("training")
        return training if isinstance(training, dict) else {}


def read_source(path: Path, *, name: str | None = None, texts: Sequence[str] | None = None) -> ReportSource:
    """Reads a model directory and computes its figures from the rows that are kept in it. Blocks for a second.

    Args:
        path: the directory.
        name: of the model; None: the directory's own.
        texts: of the measured rows, to show those that the model gets wrong.

    Raises:
        ModelDirectoryError: it does not load.
        ConfigError: history.json or measured.npz cannot be read.
    """
    model = directory.read(path)
    measured = read_measured(path)
    evaluation = None
    if measured is not None:
        measured = decide_again(measured, model)
        task = "free" if model.manifest is None else model.manifest.task
        evaluation = replace(evaluate_answers(measured.answers, task=task), baseline=measured.baseline)
        if measured.outside is not None:
            evaluation = with_outside(evaluation, measured.outside)
    has_manifest = (path / MANIFEST_NAME).is_file()
    return ReportSource(
        name=path.resolve().name if name is None else name,
        model=model,
        content=read_json_object(path / MANIFEST_NAME) if has_manifest else {},
        measured=measured,
        evaluation=evaluation,
        history=read_history(path) if (path / HISTORY_NAME).is_file() else None,
        texts=texts,
    )
