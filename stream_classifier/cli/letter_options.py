"""What the `dead-letters` commands are asked about: the topic and its broker, and which letters.

Nothing is read here but the configuration file.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from stream_classifier.errors import ConfigError

if TYPE_CHECKING:
    from stream_classifier.config import Settings
    from stream_classifier.stream.letters import Selection

__all__ = ["Target", "selection", "target", "with_letter_options"]

_C = TypeVar("_C", bound=Callable[..., Any])

_AGO = re.compile(r"(\d+)([smhd])")
_UNIT_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_OFFSETS = re.compile(r"(\d+)(-?)(\d*)")
_LAST_OFFSET = 2**63 - 1
_SUFFIX = ".dead-letter"

_TARGET = (
    click.argument("topic", required=False),
    click.option("--broker", metavar="HOST:PORT[,…]", help="The broker; or give --config."),
    click.option(
        "--config", "file", type=click.Path(path_type=Path), help="The worker's file: broker, security, TOPIC."
    ),
    click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting of --config."),
)
_SELECTION = (
    click.option("--source", multiple=True, metavar="TOPIC", help="Of this source; may be repeated."),
    click.option("--stage", multiple=True, help="decode, tokenize, infer, decide or deliver; may be repeated."),
    click.option("--error", multiple=True, metavar="NAME", help="As `list` shows it; may be repeated."),
    click.option("--classifier", multiple=True, metavar="NAME", help="That gave no result; may be repeated."),
    click.option(
        "--since",
        metavar="TIME",
        help="By the record's own timestamp: 2026-11-25T18:00 (UTC unless it says otherwise), or 2h: so long ago.",
    ),
    click.option("--until", metavar="TIME", help="Before then; as --since."),
    click.option("--partition", multiple=True, type=int, metavar="N", help="Of the dead-letter topic."),
    click.option("--offset", metavar="A[-[B]]", help="Of the dead-letter topic: 42, 42-99, or from 42 on: 42-"),
)


@dataclass(frozen=True)
class Target:
    """A dead-letter topic.

    Attributes:
        kafka: bootstrap servers and security, as aiokafka's clients take them.
        topic: its name.
        sources: the topics its letters come from, as far as the configuration or its name tells.
    """

    kafka: dict[str, Any]
    topic: str
    sources: frozenset[str]


def with_letter_options(command: _C) -> _C:
    """The argument and options that `target` and `selection` take."""
    for option in reversed((*_TARGET, *_SELECTION)):
        command = option(command)
    return command


def target(*, topic: str | None, broker: str | None, file: Path | None, overrides: tuple[str, ...]) -> Target:
    """The topic that is asked about.

    Raises:
        ConfigError: neither or both of broker and file are given, or they do not tell the topic.
    """
    if (broker is None) == (file is None):
        raise ConfigError("the broker is not known: give either --broker HOST:PORT or --config FILE")
    if file is None:
        if topic is None:
            raise ConfigError("no TOPIC is given; name the dead-letter topic, or give --config FILE")
        if overrides:
            raise ConfigError("--set is for the settings of --config FILE; leave it out")
        derived = {topic.removesuffix(_SUFFIX)} if topic.endswith(_SUFFIX) else set()
        return Target({"bootstrap_servers": _address(str(broker))}, topic, frozenset(derived))
    from stream_classifier import config

    settings = config.load(file, overrides=overrides)
    topics = sorted({classifier.dead_letter for classifier in settings.classifiers})
    if topic is None:
        if len(topics) > 1:
            raise ConfigError(f"{file} has several dead-letter topics; name one: {', '.join(topics)}")
        [topic] = topics
    elif topic not in topics:
        raise ConfigError(f"{topic} is no dead-letter topic of {file}; it has {', '.join(topics)}")
    sources = {classifier.source for classifier in settings.classifiers if classifier.dead_letter == topic}
    return Target(_kafka(settings), topic, frozenset(sources))


def _kafka(settings: Settings) -> dict[str, Any]:
    from stream_classifier.stream.security import client_security

    return {"bootstrap_servers": _address(settings.app.broker), **client_security(settings.app)}


def _address(broker: str) -> str:
    from pydantic_core import PydanticCustomError

    from stream_classifier.config import rules

    try:
        url = rules.broker(broker if "://" in broker or broker == "embedded" else f"kafka://{broker}")
    except PydanticCustomError as error:
        raise ConfigError(f"--broker {broker}: {error}") from error
    if url == "embedded":
        raise ConfigError("the embedded broker of a worker cannot be reached from outside; run one with an address")
    return url.removeprefix("kafka://")


def selection(
    *,
    source: tuple[str, ...],
    stage: tuple[str, ...],
    error: tuple[str, ...],
    classifier: tuple[str, ...],
    since: str | None,
    until: str | None,
    partition: tuple[int, ...],
    offset: str | None,
) -> Selection:
    """Which letters; all without an option.

    Raises:
        ConfigError: a time or an offset that is none.
    """
    from stream_classifier.stream.letters import Selection

    return Selection(
        sources=frozenset(source),
        stages=frozenset(stage),
        errors=frozenset(error),
        classifiers=frozenset(classifier),
        since=None if since is None else _time_ms("--since", since),
        until=None if until is None else _time_ms("--until", until),
        partitions=frozenset(partition),
        offsets=None if offset is None else _offsets(offset),
    )


def _time_ms(option: str, value: str) -> int:
    ago = _AGO.fullmatch(value)
    if ago is not None:
        return int(time.time() * 1000) - int(ago[1]) * _UNIT_MS[ago[2]]
    try:
        moment = datetime.fromisoformat(value.replace("Z", "+00:00"))
    except ValueError:
        raise ConfigError(f"{option} {value}: is no time; write 2026-11-25T18:00, or 30m, 2h, 7d ago") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp() * 1000)


def _offsets(value: str) -> tuple[int, int]:
    match = _OFFSETS.fullmatch(value)
    if match is None or (match[3] and not match[2]):
        raise ConfigError(f"--offset {value}: is no offset; write 42, 42-99, or 42- for all from there")
    first = int(match[1])
    last = int(match[3]) if match[3] else _LAST_OFFSET if match[2] else first
    if last < first:
        raise ConfigError(f"--offset {value}: ends before it begins; write {last}-{first}")
    return first, last
