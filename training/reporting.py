"""`report`: report and card of a finished model directory, from the rows it keeps or from rows that are given."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

from stream_classifier.errors import ConfigError
from stream_classifier.model.classifier import Classifier
from stream_classifier.model.manifest import MANIFEST_NAME, read_json_object
from training.card import write_card
from training.data import Columns
from training.documents import write_documents
from training.evaluation import Evaluation, evaluate_table
from training.measured import MEASURED_NAME, DataSummary, Measured, read_measured
from training.reading import find_part, read_original_rows, read_table
from training.rejection import known_out_of_scope_label, set_apart
from training.report.page import REPORT_NAME

__all__ = ["ReportResult", "write_report"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReportResult:
    """What `write_report` wrote.

    Attributes:
        path: of report.html.
        digest: of the model, which is as before; None where the directory has no classifier.json.
        evaluation: the figures shown.
        measured_on: the rows they are of: "test", "validation", or the name of a file.
    """

    path: Path
    digest: str | None
    evaluation: Evaluation = field(repr=False)
    measured_on: str


def write_report(
    model: str | Path,
    data: str | Path | None = None,
    *,
    columns: Columns | None = None,
    baseline: str | Path | None = None,
    show_texts: bool = False,
    device: str = "auto",
    dtype: str = "auto",
) -> ReportResult:
    """Writes report.html and README.md of a model directory anew. The model stays as it is. Blocks.

    Args:
        model: a model directory.
        data: rows to measure on: a file, or a folder with a test file. Their logits and labels, not their texts, are
            kept in the directory. None: the rows that are kept there.
        columns: where texts and labels are; None: text and label.
        baseline: rows to train a tf-idf model on, which is measured beside it; those the model was trained on.
        show_texts: whether texts that the model gets wrong are shown; they are not kept, so it takes `data`.
        device, dtype: as for `Classifier.load`.

    Raises:
        ConfigError: a place or data that cannot be used, or no `data` for a model that keeps no rows.
        ModelDirectoryError: the model does not load.
    """
    path = Path(model)
    if not path.is_dir():
        raise ConfigError(f"{model} is no directory, so no report can be put there; give a model directory")
    if data is None and (show_texts or baseline is not None):
        option = "--show-texts" if show_texts else "--baseline"
        raise ConfigError(f"{option} needs the texts, which {path} does not keep; give DATA, the labelled rows")
    kept = read_measured(path) if data is None or (path / MEASURED_NAME).is_file() else None
    texts = None
    if data is not None:
        table = read_original_rows(find_part(Path(data), "test"), columns)
        train = None if baseline is None else read_table(find_part(Path(baseline), "train"), columns)
        classifier = Classifier.load(path, device=device, dtype=dtype)
        outside = known_out_of_scope_label(path)
        evaluation = evaluate_table(classifier, table, baseline=train, out_of_scope_label=outside)
        Measured(
            answers=evaluation.answers,
            measured_on=Path(table.source).name,
            data=DataSummary() if kept is None else kept.data,
            baseline=evaluation.baseline,
            outside=evaluation.outside,
        ).write(path)
        texts = (table if outside is None else set_apart(table, outside)[0]).texts if show_texts else None
    elif kept is None:
        raise ConfigError(f"{path} has no {MEASURED_NAME}: it was never measured; give DATA, the labelled rows")
    source = write_documents(path, texts=texts)
    if (path / MANIFEST_NAME).is_file():
        write_card(path, read_json_object(path / MANIFEST_NAME), name=path.resolve().name)
    assert source.evaluation is not None  # the rows are there
    assert source.measured is not None
    return ReportResult(path / REPORT_NAME, source.model.digest, source.evaluation, source.measured.measured_on)
