"""The classifiers of a source topic, from their settings: how its values are read, and where results go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stream_classifier import codecs
from stream_classifier.config import ClassifierSettings, ModelSettings
from stream_classifier.errors import ConfigError, nearest
from stream_classifier.model.classifier import Classifier
from stream_classifier.stream.batcher import Batcher
from stream_classifier.stream.outputs import Route
from stream_classifier.stream.pipeline import Branch, Reading

__all__ = ["Loaded", "Sourced", "check_routes", "readings"]


@dataclass
class Loaded:
    """A classifier and its queue, once the model is warm."""

    settings: ModelSettings
    classifier: Classifier
    batcher: Batcher[Any]


@dataclass(frozen=True)
class Sourced:
    """A classifier that has topics: what it reads, and where its outputs go."""

    settings: ClassifierSettings
    loaded: Loaded

    @property
    def codec(self) -> codecs.Codec:
        settings = self.settings
        return codecs.create(
            settings.codec, text=settings.text, separator=self.separator, passthrough=settings.passthrough
        )

    @property
    def separator(self) -> str:
        """What the model was trained with between the parts of a text."""
        text_join = self.loaded.classifier.text_join
        return "\n" if text_join is None else text_join

    @property
    def route(self) -> Route:
        settings, classifier = self.settings, self.loaded.classifier
        return Route(
            classifier=settings.name,
            task=classifier.task,
            model={"name": classifier.name, "digest": classifier.digest},
            sink=settings.sink,
            dead_letter=settings.dead_letter,
            codec=self.codec,
            uncertain=settings.route.uncertain,
            labels=settings.route.label,
        )


def readings(sourced: Sequence[Sourced]) -> list[Reading]:
    """Classifiers that read the source in the same way, together."""
    groups: dict[tuple[Any, ...], list[Sourced]] = {}
    for item in sourced:
        settings = item.settings
        key = (settings.codec, settings.text, item.separator, tuple(sorted(settings.passthrough.items())))
        groups.setdefault(key, []).append(item)
    return [
        Reading(group[0].codec, tuple(Branch(x.route, x.loaded.classifier, x.loaded.batcher) for x in group))
        for group in groups.values()
    ]


def check_routes(settings: ModelSettings, labels: Sequence[str]) -> None:
    """Refuse a route by a label that the model has not: nothing would ever take it.

    Raises:
        ConfigError: the label, and the one that was probably meant.
    """
    for label in settings.route.label if isinstance(settings, ClassifierSettings) else ():
        if label not in labels:
            close = nearest(label, labels)
            fix = f"did you mean {close!r}?" if close else f"the labels are {', '.join(labels[:20])}"
            raise ConfigError(f"route.label.{label}: the model has no such label; {fix}")
