"""The data sets, found by the environment variable STREAM_CLASSIFIER_DATASETS; nothing of them is in the repository."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from stream_classifier.errors import ConfigError

__all__ = ["SETS", "DataSet", "folder_of"]

_VARIABLE = "STREAM_CLASSIFIER_DATASETS"


@dataclass(frozen=True, slots=True)
class DataSet:
    """One set: what it is, and which figure to reach. The recipe is the same for all.

    Attributes:
        name, task: the folder's, and what `fit --task` is told.
        figure: "accuracy", or "macro_f1" for several labels a text.
        must, reach: per cent, with the 6-layer encoder, and what is published of a model five times the size.
        suffix: of the files: train{suffix}.csv and so on.
        out_of_scope_label: kept out of the labels.
    """

    name: str
    task: str
    must: float | None = None
    reach: float | None = None
    figure: str = "accuracy"
    suffix: str = ""
    out_of_scope_label: str | None = None

    def file(self, kind: str) -> Path:
        """Of the rows to "train", for "validation" or "test"."""
        return folder_of(self.name) / f"{kind}{self.suffix}.csv"


SETS = {
    data_set.name: data_set
    for data_set in (
        DataSet("trec6", "free", 96.4, 96.8),
        DataSet("banking77", "intent", 93.3, 93.7),
        DataSet("clinc150", "intent", 96.3, 96.9, out_of_scope_label="oos"),
        DataSet("snips", "intent", 98.0, 98.5),
        DataSet("sms_spam", "spam", 99.0, 99.3),
        DataSet("spamassassin", "spam", 98.2, 97.8),
        DataSet("bbc_news", "category", 97.6, 98.0),
        DataSet("sst2", "sentiment", 88.8, 92.7),
        DataSet("ag_news", "category"),
        DataSet("vader_ratings", "sentiment"),
        DataSet("goemotions", "free", 46.0, None, figure="macro_f1", suffix="_multilabel"),
    )
}


def folder_of(name: str) -> Path:
    """The folder of a set.

    Raises:
        ConfigError: the variable is not set, or the set is not there.
    """
    root = os.environ.get(_VARIABLE)
    if not root:
        raise ConfigError(f"{_VARIABLE} is not set; give the folder that holds the data sets")
    folder = Path(root) / name
    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no such data set; check {_VARIABLE}")
    return folder
