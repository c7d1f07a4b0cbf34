"""A pipeline as checked, frozen settings: TOML file < environment < arguments.

    settings = config.load("pipeline.toml", overrides=["classifier.intent.threshold=0.9"])
    settings.app.broker, settings.web.port, settings.log.level, settings.classifiers[0].threshold

The attribute names are the TOML keys (CONTRACTS: docs/reference/configuration.md). Whatever is wrong is a ConfigError
of one line: where it stands, the key, the value seen, the fix. Models are not loaded and brokers not asked: that is for
the start of the worker, and for `stream-classifier check`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from stream_classifier.config.classifier import BatchSettings, ClassifierSettings, ModelSettings, RouteSettings
from stream_classifier.config.problems import Origin, Problem, SettingsError, problems_in
from stream_classifier.config.reference import ReferenceRow, json_schema, reference_rows, root_node
from stream_classifier.config.schema import Node
from stream_classifier.config.settings import AppSettings, LogSettings, SaslSettings, Settings, TlsSettings, WebSettings
from stream_classifier.config.sources import read_sources

__all__ = [
    "AppSettings",
    "BatchSettings",
    "ClassifierSettings",
    "LogSettings",
    "ModelSettings",
    "Origin",
    "Problem",
    "ReferenceRow",
    "RouteSettings",
    "SaslSettings",
    "Settings",
    "SettingsError",
    "TlsSettings",
    "WebSettings",
    "classifier_from_arguments",
    "json_schema",
    "load",
    "model_from_arguments",
    "reference_rows",
]

_M = TypeVar("_M", bound=ModelSettings)


def load(path: str | Path, *, overrides: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of a TOML file, with the environment and `overrides` over it.

    Args:
        path: the file; paths inside it are relative to its directory.
        overrides: `key=value` each, as given to --set: `app.broker=…`, `classifier.intent.threshold=0.9`.
        environ: the environment, os.environ unless given.

    Raises:
        SettingsError: a ConfigError, with all problems found in `problems`.
    """
    root = root_node()
    sources = read_sources(
        Path(path), overrides=overrides, environ=os.environ if environ is None else environ, root=root
    )
    try:
        settings = Settings.model_validate(sources.tree)
    except ValidationError as error:
        raise SettingsError(problems_in(error, sources.tree, sources.origins, root)) from error
    settings.keep_origins(Path(path), sources.origins)
    return settings


def classifier_from_arguments(arguments: Mapping[str, Any]) -> ClassifierSettings:
    """The settings of a classifier given by keyword arguments, those of StreamClassifier with a source and a sink.

    The names are the TOML keys; None means not given; `name` is taken from the model unless given. `model` may be a
    path, relative to the current directory, or a TextModel object, which stands in the settings as its class name.

    Raises:
        SettingsError: a ConfigError that names the argument.
    """
    return _from_arguments(ClassifierSettings, arguments)


def model_from_arguments(arguments: Mapping[str, Any]) -> ModelSettings:
    """As classifier_from_arguments, without topics: for a classifier inside an agent of the user's own."""
    return _from_arguments(ModelSettings, arguments)


def _from_arguments(kind: type[_M], arguments: Mapping[str, Any]) -> _M:
    given = {key: value for key, value in arguments.items() if value is not None}
    model = given.get("model")
    if isinstance(model, os.PathLike):
        given["model"] = os.fspath(model)
    elif model is not None and not isinstance(model, str):
        given["model"] = type(model).__name__
    if isinstance(given.get("model"), str):
        given.setdefault("name", _name_from(given["model"]))
    for key, nested in (("batch", BatchSettings), ("route", RouteSettings)):
        if isinstance(given.get(key), nested):
            given[key] = given[key].model_dump()
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise SettingsError(problems_in(error, given, {}, Node.root(kind.model_json_schema()))) from error


def _name_from(model: str) -> str:
    """`models/intent` is "intent"; what a name cannot hold becomes a dash."""
    last = os.path.basename(os.path.abspath(model)) if model else ""
    return (
        "".join(char if char.isascii() and (char.isalnum() or char in "-_") else "-" for char in last)[:100] or "model"
    )
