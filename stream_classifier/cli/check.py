"""`stream-classifier check`: everything that can be wrong with a model or a configuration, before it runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stream_classifier.cli.group import examples
from stream_classifier.cli.output import write
from stream_classifier.errors import ConfigError, StreamClassifierError

if TYPE_CHECKING:
    from stream_classifier.config import ClassifierSettings, ModelSettings, Settings
    from stream_classifier.model.classifier import Classifier

__all__ = ["command"]

_MAX_CONNECT_S = 10.0  # a check is no worker: nobody waits a minute for it


@dataclass(frozen=True, slots=True)
class _Outcome:
    """One thing that was looked at: whether it is as it should be, and what was seen, or is wrong, with the fix."""

    check: str
    ok: bool
    message: str


@click.command(
    "check",
    short_help="Look for everything wrong with a model or a configuration.",
    epilog=examples(
        "stream-classifier check models/intent",
        "stream-classifier check pipeline.toml",
        "stream-classifier check pipeline.toml --broker --set app.broker=kafka://localhost:9092",
        "stream-classifier check pipeline.toml --json",
    ),
)
@click.argument("target", metavar="MODEL|FILE")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting; may be repeated.")
@click.option("--broker", "ask_broker", is_flag=True, help="Ask the broker too: does it answer, are the topics there?")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: ok, target, checks.")
def command(target: str, overrides: tuple[str, ...], ask_broker: bool, as_json: bool) -> int:
    """Look for everything that can be wrong with a model (a directory, a Hub name) or a configuration (a TOML file).

    A model is read, loaded and asked all its golden cases; a configuration is read, and so are all of its models. A
    line each, ok or FAILED with the fix; the exit code is 2 when one failed.
    """
    from stream_classifier.cli.logs import set_up_logging

    set_up_logging("warning")
    is_file = Path(target).is_file() or target.endswith(".toml")
    if not is_file and (overrides or ask_broker):
        raise ConfigError(f"{target} is no configuration file: --set and --broker are for one; leave them out")
    outcomes = []
    for outcome in _check_file(Path(target), overrides, ask_broker) if is_file else _check_model(target):
        outcomes.append(outcome)
        if not as_json:
            write(f"{'ok    ' if outcome.ok else 'FAILED'}  {outcome.check}: {outcome.message}")
    ok = all(outcome.ok for outcome in outcomes)
    if as_json:
        write(json.dumps({"ok": ok, "target": target, "checks": [asdict(outcome) for outcome in outcomes]}))
    return 0 if ok else 2


def _check_file(file: Path, overrides: tuple[str, ...], ask_broker: bool) -> Iterator[_Outcome]:
    from stream_classifier import config

    try:
        settings = config.load(file, overrides=overrides)
    except config.SettingsError as error:
        yield from (_Outcome("settings", False, str(problem)) for problem in error.problems)
        return
    number = len(settings.classifiers)
    yield _Outcome("settings", True, f"{file}, {number} classifier{'s' if number > 1 else ''}")
    for classifier in settings.classifiers:
        yield from _check_loading(f"classifier.{classifier.name}", classifier)
    if ask_broker:
        yield _check_broker(settings)


def _check_model(model: str) -> Iterator[_Outcome]:
    from stream_classifier import config

    yield from _check_loading("model", config.model_from_arguments({"model": model}))


def _check_loading(subject: str, settings: ModelSettings) -> Iterator[_Outcome]:
    """Load the model, replay its golden cases, and hold the labels that the settings name against its own."""
    from stream_classifier.config import ClassifierSettings
    from stream_classifier.stream.service import load_classifier

    try:
        classifier = load_classifier(settings, settings.model)
    except StreamClassifierError as error:
        yield _Outcome(subject, False, str(error))
        return
    digest = classifier.digest or "no digest"
    where = f"{classifier.backend} on {classifier.device} in {classifier.dtype}"
    yield _Outcome(subject, True, f"{settings.model} loads: {len(classifier.labels)} labels, {digest}, {where}")
    if classifier.probe_texts:
        report = classifier.check_golden()
        fix = '; serve it with dtype = "float32", or train or copy the model again'
        yield _Outcome(f"{subject} golden", not report.failed, f"{report}{fix if report.failed else ''}")
    else:
        yield _Outcome(f"{subject} golden", True, "the model has no golden cases: its answers are not checked")
    if isinstance(settings, ClassifierSettings) and settings.route.label:
        yield _check_routes(subject, settings, classifier)


def _check_routes(subject: str, settings: ClassifierSettings, classifier: Classifier) -> _Outcome:
    from stream_classifier.stream.sources import check_routes

    try:
        check_routes(settings, classifier.labels)
    except ConfigError as error:
        return _Outcome(f"{subject} routes", False, str(error))
    return _Outcome(f"{subject} routes", True, "all routed labels are the model's")


def _check_broker(settings: Settings) -> _Outcome:
    import asyncio

    from stream_classifier.stream.security import client_security

    address = settings.app.broker.removeprefix("kafka://")
    try:
        if address == "embedded":
            from stream_classifier.broker import EmbeddedBroker

            with EmbeddedBroker():
                return _Outcome("broker", True, "the embedded broker starts")
        kafka = {"bootstrap_servers": address, **client_security(settings.app)}
        topics = asyncio.run(_topics(kafka, min(settings.app.connect_timeout_s, _MAX_CONNECT_S)))
    except StreamClassifierError as error:
        return _Outcome("broker", False, str(error))
    wanted: dict[str, None] = {}
    for classifier in settings.classifiers:
        named = (classifier.source, classifier.sink, classifier.dead_letter, *classifier.route.topics)
        wanted.update(dict.fromkeys(named))
    missing = [topic for topic in wanted if topic not in topics]
    if not missing:
        return _Outcome("broker", True, f"{address} answers, all {len(wanted)} topics are there")
    if settings.app.create_topics:
        return _Outcome("broker", True, f"{address} answers, to be made at start: {', '.join(missing)}")
    fix = "create them, or set app.create_topics = true"
    return _Outcome("broker", False, f"{address} has no topics {', '.join(missing)}; {fix}")


async def _topics(kafka: Mapping[str, Any], timeout_s: float) -> set[str]:
    """The names of all topics of the broker."""
    from stream_classifier.stream.topics import connect

    admin = await connect(kafka, timeout_s=timeout_s)
    try:
        return set(await admin.list_topics())
    finally:
        await admin.close()
