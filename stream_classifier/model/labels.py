"""The names of a model's labels: checked, found, and the positive one guessed.

What a label's probability must reach is the business of `thresholds`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from stream_classifier.errors import ConfigError, nearest

__all__ = ["check_labels", "guess_positive", "index_of"]

_MAX_NAMED = 12

_POSITIVE = frozenset(
    ("positive", "pos", "good", "favorable", "favourable", "positiv", "positif", "positivo", "积极", "正面")
)


def check_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """The labels, as a tuple.

    Raises:
        ConfigError: they are a single text, or one of them is empty, no text, or there twice.
    """
    if isinstance(labels, str):
        raise ConfigError(f"labels = {labels!r} is one text: give a list of labels")
    for i, label in enumerate(labels):
        if not isinstance(label, str) or not label:
            raise ConfigError(f"label {i} is {label!r}: a label is a text that is not empty")
        if label in labels[:i]:
            raise ConfigError(
                f"label {label!r} is there twice, at {list(labels).index(label)} and {i}: rename or remove one"
            )
    return tuple(labels)


def index_of(label: str, labels: Sequence[str], *, setting: str) -> int:
    """The index of `label` in `labels`.

    Args:
        setting: where the label was named, for the error.

    Raises:
        ConfigError: it is not there; the message has the nearest one.
    """
    if label in labels:
        return labels.index(label)
    close = nearest(str(label), labels)
    fix = f"did you mean {close!r}?" if close else f"it has {named(labels)}"
    raise ConfigError(f"{setting}: the model has no label {label!r}; {fix}")


def guess_positive(labels: Sequence[str]) -> str:
    """The one label that means "positive", in any case and with any punctuation.

    Names that tell nothing ("LABEL_1", "5 stars") are not guessed from, nor are scales ("positive" beside "very
    positive"): a wrong guess turns every score around without anybody noticing, and the setting is one line.

    Raises:
        ConfigError: there is none, or several.
    """
    words = {label: re.findall(r"[^\W_]+", label.casefold()) for label in labels}
    candidates = [label for label in labels if _POSITIVE.intersection(words[label])]
    if len(candidates) == 1 and len(words[candidates[0]]) == 1:
        return candidates[0]
    if len(candidates) > 1:
        problem = f"several labels could be the positive one ({named(candidates)})"
    else:
        problem = f"no label is plainly the positive one among {named(labels)}"
    raise ConfigError(f"{problem}; set positive_label to the one that is")


def named(labels: Sequence[str]) -> str:
    """Some labels in a message: all when they are few."""
    shown = ", ".join(repr(label) for label in labels[:_MAX_NAMED])
    return shown if len(labels) <= _MAX_NAMED else f"{shown} and {len(labels) - _MAX_NAMED} more"
