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
from stream_classifier.model.labels import guess_positive, index_of
from training.data import Table, check_known_labels, label_targets, labels_of
from training.reading import find_sources, read_table
from training.settings import FitSettings
from training.splits import split_table

__all__ = ["Parts", "read_parts"]

logger = logging.getLogger(__name__)

_TEST_SEED = 0  # whatever the seed of the fit: models of several seeds are measured on the same rows


@dataclass(frozen=True, slots=True)
class Parts:
    """The rows of a fit.

    Attributes:
        train, validation: never empty.
        test: None where there is no file for it.
        labels: those of the training file, sorted: the order of the logits.
        positive_label: as set, or for sentiment guessed from the labels; else None.
    """

    train: Table
    validation: Table
    test: Table | None
    labels: tuple[str, ...]
    positive_label: str | None

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
    train = read_table(sources.train, settings.columns)
    labels = labels_of(train)
    positive_label = settings.positive_label
    if positive_label is not None:
        index_of(positive_label, labels, setting="--positive-label")
    elif settings.task == "sentiment":
        positive_label = guess_positive(labels)
    validation_share = settings.validation_share
    test_table = None
    if sources.test is not None:
        test_table = _read_known(sources.test, settings, labels, train)
    elif settings.test_share:
        train, test_table = split_table(train, share=settings.test_share, seed=_TEST_SEED, part="test")
        validation_share /= 1 - settings.test_share
    if sources.validation is not None:
        validation_table = _read_known(sources.validation, settings, labels, train)
    else:
        train, validation_table = split_table(train, share=validation_share, seed=settings.seed)
    num_test = 0 if test_table is None else len(test_table)
    logger.info(
        "%d rows to train on, %d to validate on, %d to test on; %d labels",
        len(train),
        len(validation_table),
        num_test,
        len(labels),
    )
    return Parts(train, validation_table, test_table, labels, positive_label)


def _read_known(path: Path, settings: FitSettings, labels: tuple[str, ...], train: Table) -> Table:
    table = read_table(path, settings.columns)
    if table.multi_label != train.multi_label:
        kinds = [
            "several labels a text" if multi_label else "one" for multi_label in (train.multi_label, table.multi_label)
        ]
        raise ConfigError(f"{train.source} has {kinds[0]}, {path} {kinds[1]}; give both the same label column")
    check_known_labels(table, labels, known_from=train.source)
    return table


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)
