"""The rows of a fit: to train on, to validate on and, where there are any, to test on, with the labels they have.

Everything about the data that can be refused is refused here, before a model is loaded.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stream_classifier.errors import ConfigError
from stream_classifier.model.calibration import MULTI_LABEL, SINGLE_LABEL
from stream_classifier.model.labels import guess_positive, index_of, named
from training.data import Table, label_targets, labels_of
from training.encoder import find_base
from training.findings import Tables
from training.inspection import Inspection, inspect_tables
from training.lengths import token_counter
from training.reading import find_sources, read_sources
from training.rejection import joined, set_apart
from training.settings import FitSettings
from training.splits import split_table

__all__ = ["Parts", "inspected", "read_parts"]

logger = logging.getLogger(__name__)

_SPAM_LABELS = ("spam", "junk")
_TEST_SEED = 0  # whatever the seed of the fit: models of several seeds are measured on the same rows


@dataclass(frozen=True, slots=True)
class Parts:
    """The rows of a fit.

    Attributes:
        train, validation: never empty.
        test: None where there is no file for it.
        labels: those of the training file, sorted: the order of the logits.
        positive_label: as set; for sentiment guessed from the labels, for spam the one of that name; else None.
        inspection: what `data check` says of the tables.
        outside: rows with the out-of-scope label that are not for testing; None where there are none. Those of the test
            rows stay there, all other rows have one of `labels`.
    """

    train: Table
    validation: Table
    test: Table | None
    labels: tuple[str, ...]
    positive_label: str | None
    inspection: Inspection
    outside: Table | None = None

    @property
    def problem_type(self) -> str:
        """As config.json names it."""
        return MULTI_LABEL if self.train.multi_label else SINGLE_LABEL

    def indices(self, table: Table) -> list[int]:
        """The index of each row's label in `labels`."""
        index = {label: i for i, label in enumerate(self.labels)}
        return [index[label] for label in table.labels]

    def targets(self, table: Table) -> NDArray[np.intp] | NDArray[np.float32]:
        """The truth as numbers: see `label_targets`."""
        return label_targets(table, self.labels)


def read_parts(
    data: str | Path, *, settings: FitSettings, validation: str | Path | None = None, test: str | Path | None = None
) -> Parts:
    """Reads and divides the rows; arguments as for `training.fit`.

    Raises:
        ConfigError: files, columns, rows or labels that cannot be used.
    """
    sources = find_sources(Path(data), validation=_path(validation), test=_path(test))
    train, validation_table, test_table = read_sources(sources, settings.columns)
    tables = Tables(train, validation_table, test_table, settings.out_of_scope_label)
    inspection = inspected(tables, settings)
    validation_share = settings.validation_share
    if test_table is None and settings.test_share:
        train, test_table = _divided(train, settings, share=settings.test_share, seed=_TEST_SEED, part="test")
        validation_share /= 1 - settings.test_share
    if validation_table is None:
        train, validation_table = _divided(
            train, settings, share=validation_share, seed=settings.seed, part="validation"
        )
    outside = None
    if settings.out_of_scope_label is not None:
        train, outside_train = set_apart(train, settings.out_of_scope_label)
        validation_table, outside_validation = set_apart(validation_table, settings.out_of_scope_label)
        outside = joined([table for table in (outside_train, outside_validation) if table is not None])
    labels = labels_of(train)
    positive_label = _positive_label(settings, labels)
    num_test = 0 if test_table is None else len(test_table)
    logger.info(
        "%d rows to train on, %d to validate on, %d to test on; %d labels",
        len(train),
        len(validation_table),
        num_test,
        len(labels),
    )
    return Parts(train, validation_table, test_table, labels, positive_label, inspection, outside)


def _divided(table: Table, settings: FitSettings, *, share: float, seed: int, part: str) -> tuple[Table, Table]:
    """As `split_table`; time may leave a label to the second part alone, which is refused."""
    first, second = split_table(table, share=share, seed=seed, part=part)
    untrained = sorted({*second.label_counts()} - {*first.label_counts()} - {settings.out_of_scope_label})
    if table.times is not None and untrained:
        what = f"no row before the latest {len(second)}, which --time-column holds out for {part}, has the label"
        fix = f"leave --time-column out, give a smaller --{part}-share, or leave its rows out with --label-map old="
        raise ConfigError(f"{table.source}: {what} {named(untrained)}, so that it would not be trained; {fix}")
    return first, second


def _positive_label(settings: FitSettings, labels: tuple[str, ...]) -> str | None:
    """The label of the sentiment score and of costs: as set; for sentiment guessed; for spam the one of that name."""
    if settings.positive_label is not None:
        index_of(settings.positive_label, labels, setting="--positive-label")
        return settings.positive_label
    if settings.task == "sentiment":
        return guess_positive(labels)
    spam = [label for label in labels if label.casefold() in _SPAM_LABELS] if settings.task == "spam" else []
    return spam[0] if len(spam) == 1 else None


def inspected(tables: Tables, settings: FitSettings) -> Inspection:
    """What `data check` says: errors are raised, warnings logged.

    Raises:
        ConfigError: the first error.
    """
    counter = token_counter(find_base(settings.base))
    inspection = inspect_tables(tables, counter=counter, max_length=settings.max_length)
    sources = {part: table.source for part, table in tables.parts()}
    for finding in inspection.findings:
        if finding.severity == "error":
            raise ConfigError(f"{sources[finding.part]}: {finding.message}; {finding.fix}")
        if finding.severity == "warning":
            logger.warning("%s: %s; %s", sources[finding.part], finding.message, finding.fix)
    num_notes = sum(finding.severity == "note" for finding in inspection.findings)
    if num_notes:
        logger.info("the data check has %d notes too: stream-training data check shows them", num_notes)
    return inspection


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)
