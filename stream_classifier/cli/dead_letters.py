"""`stream-classifier dead-letters`: what could not be classified: counts, single letters, and their replay."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stream_classifier.cli.group import LazyGroup, examples
from stream_classifier.cli.letter_options import Target, selection, target, with_letter_options
from stream_classifier.cli.letter_output import printable, write_counts, write_letters, write_outcome
from stream_classifier.cli.logs import set_up_logging
from stream_classifier.errors import ConfigError

if TYPE_CHECKING:
    from stream_classifier.stream.dead_letter import Letter
    from stream_classifier.stream.letters import Counts, Selection

__all__ = ["command", "list_letters", "replay", "show"]

_CONNECT_TIMEOUT_S = 10.0


@click.group(
    "dead-letters",
    short_help="Count, show and replay what could not be classified.",
    cls=LazyGroup,
    commands_at={
        "list": f"{__name__}:list_letters",
        "show": f"{__name__}:show",
        "replay": f"{__name__}:replay",
    },
    epilog=examples(
        "stream-classifier dead-letters list support.dead-letter --broker localhost:9092",
        "stream-classifier dead-letters show --config pipeline.toml --stage decode --limit 5",
        "stream-classifier dead-letters replay --config pipeline.toml --classifier intent --dry-run",
    ),
)
def command() -> None:
    """What could not be classified: counts of it, single records, and their replay to the source."""


@click.command(
    "list",
    epilog=examples(
        "stream-classifier dead-letters list support.dead-letter --broker localhost:9092",
        "stream-classifier dead-letters list --config pipeline.toml --since 2h",
        "stream-classifier dead-letters list --config pipeline.toml --classifier intent --json",
    ),
)
@with_letter_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object: topic, num_letters, groups.")
def list_letters(
    topic: str | None,
    broker: str | None,
    file: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
    **wanted: Any,
) -> int:
    """Count the dead letters of TOPIC by source, stage, error and classifiers.

    With --config, TOPIC may be left out where the file has one dead-letter topic. Nothing is changed, no text is shown.
    """
    set_up_logging("warning")
    at, chosen = target(topic=topic, broker=broker, file=file, overrides=overrides), selection(**wanted)
    counts, num_others = asyncio.run(_count(at, chosen))
    write_counts(at.topic, counts, num_others, as_json=as_json)
    return 0


@click.command(
    "show",
    epilog=examples(
        "stream-classifier dead-letters show --config pipeline.toml --stage decode",
        "stream-classifier dead-letters show support.dead-letter --broker localhost:9092 --error NotAString --limit 3",
        "stream-classifier dead-letters show --config pipeline.toml --partition 0 --offset 42 --show-text",
    ),
)
@with_letter_options
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="Letters at most.")
@click.option("--show-text", is_flag=True, help="Keys, values and headers too: they may be personal data.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: topic, letters.")
def show(
    topic: str | None,
    broker: str | None,
    file: Path | None,
    overrides: tuple[str, ...],
    limit: int,
    show_text: bool,
    as_json: bool,
    **wanted: Any,
) -> int:
    """Show single dead letters of TOPIC: where they are, where they come from, what went wrong.

    A line for each: partition/offset, time, stage and error, classifiers, source[partition]@offset.
    """
    set_up_logging("warning")
    at, chosen = target(topic=topic, broker=broker, file=file, overrides=overrides), selection(**wanted)
    letters = asyncio.run(_take(at, chosen, limit))
    write_letters(at.topic, letters, show_text=show_text, as_json=as_json)
    if not letters:
        click.echo(f"no such dead letters in {printable(at.topic)}", err=True)
    return 0


@click.command(
    "replay",
    epilog=examples(
        "stream-classifier dead-letters replay --config pipeline.toml --dry-run",
        "stream-classifier dead-letters replay --config pipeline.toml --stage infer --since 2h",
        "stream-classifier dead-letters replay support.dead-letter --broker localhost:9092 --classifier intent",
    ),
)
@with_letter_options
@click.option("--dry-run", is_flag=True, help="Only tell what would be sent.")
@click.option(
    "--max-replays",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="A record that was replayed so often and failed again stays.",
)
@click.option("--group", metavar="NAME", help="Keeps the position. [stream-classifier.replay.TOPIC]")
@click.option(
    "--delivery",
    type=click.Choice(["exactly_once", "at_least_once"]),
    default="exactly_once",
    show_default=True,
    help="at_least_once: without transactions; a replay that is killed may send up to 500 records a second time.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object: topic, num_replayed, sources, kept.")
def replay(
    topic: str | None,
    broker: str | None,
    file: Path | None,
    overrides: tuple[str, ...],
    dry_run: bool,
    max_replays: int,
    group: str | None,
    delivery: str,
    as_json: bool,
    **wanted: Any,
) -> int:
    """Send dead letters of TOPIC to their source again, for the classifiers that gave no result.

    Key, value, headers and timestamp are those of the source record; the error headers are removed. Classifiers that
    gave a result skip it (header stream-classifier.only).

    A letter is sent once, however often this is run, and with whatever options: the offsets of the consumer group
    --group tell which were. Letters that fail again come as new ones; stream-classifier.replays counts. To send
    everything again, give another --group. Brokers forget the offsets of a group that was not used for
    offsets.retention.minutes (7 days).
    """
    set_up_logging("warning")
    at, chosen = target(topic=topic, broker=broker, file=file, overrides=overrides), selection(**wanted)
    sources = chosen.sources or at.sources
    if not sources:
        raise ConfigError(f"{at.topic}: its name does not tell the source; give --source TOPIC or --config FILE")
    from stream_classifier.stream.replay import Replay, replay_group

    work = Replay(
        at.kafka,
        at.topic,
        sources=sources,
        selection=chosen,
        max_replays=max_replays,
        group=group or replay_group(at.topic),
        dry_run=dry_run,
        transactional=delivery == "exactly_once",
    )
    with _progress("replaying") as on_read:
        outcome = asyncio.run(work.run(timeout_s=_CONNECT_TIMEOUT_S, on_read=on_read))
    write_outcome(at.topic, outcome, dry_run=dry_run, as_json=as_json)
    return 1 if outcome.refusals else 0


# Reading ------------------------------------------------------------------------------------------------------------


async def _letters(
    at: Target, on_read: Callable[[int, int], None] = lambda number, total: None
) -> AsyncGenerator[Letter | None, None]:
    """All of the topic; None for a record that is no dead letter."""
    from stream_classifier.stream.dead_letter import open_letter
    from stream_classifier.stream.letters import open_reader, partition_counts

    counts = await partition_counts(at.kafka, timeout_s=_CONNECT_TIMEOUT_S)
    if at.topic not in counts:
        raise ConfigError(f"topic {at.topic!r} does not exist, or we may not see it; give a dead-letter topic")
    async with open_reader(at.kafka, at.topic, counts[at.topic]) as reader:
        async for _, records in reader.records():
            for record in records:
                yield open_letter(record)
            on_read(len(records), reader.num_offsets)


async def _count(at: Target, chosen: Selection) -> tuple[Counts, int]:
    """Counts of the letters that are wanted, and the number of the others."""
    from stream_classifier.stream.letters import Counts

    counts, num_others = Counts(), 0
    with _progress("counting") as on_read:
        async for letter in _letters(at, on_read):
            if letter is not None and chosen.has(letter):
                counts.add(letter)
            elif letter is not None:
                num_others += 1
    return counts, num_others


async def _take(at: Target, chosen: Selection, limit: int) -> list[Letter]:
    taken: list[Letter] = []
    async with aclosing(_letters(at)) as letters:
        async for letter in letters:
            if letter is not None and chosen.has(letter):
                taken.append(letter)
                if len(taken) == limit:
                    break
    return taken


@contextmanager
def _progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with the time left, where somebody sees it."""
    if not sys.stderr.isatty():
        yield lambda number, total: None
        return
    with click.progressbar(length=1, file=sys.stderr, label=label) as bar:

        def on_read(number: int, total: int) -> None:
            bar.length = max(total, 1)
            bar.update(number)

        yield on_read
