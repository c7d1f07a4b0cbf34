"""How the `dead-letters` commands show what they found: tables and lines for people, objects for machines.

Whatever comes from a record is escaped: a terminal must not obey what somebody wrote into a topic.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from stream_classifier.cli.output import write

if TYPE_CHECKING:
    from stream_classifier.stream.dead_letter import Letter
    from stream_classifier.stream.letters import Counts
    from stream_classifier.stream.replay import Replayed

__all__ = ["printable", "write_counts", "write_letters", "write_outcome"]

_REASONS = {
    "done_before": "were replayed before",
    "too_often": "were replayed as often as --max-replays allows: they stay",
    "value_lost": "have no value, it was too large for this topic: read it from the source, where it may still be",
    "other_source": "come from another topic: --source TOPIC replays them",
    "refused": "were refused by their source",
    "no_letter": "records are no dead letters of ours",
}
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def printable(text: str) -> str:
    """The text with everything escaped that is no printable character."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def write_counts(topic: str, counts: Counts, num_others: int, *, as_json: bool) -> None:
    """Letters by source, stage, error and classifiers; `num_others` were not asked for."""
    groups = counts.largest_first()
    if as_json:
        listed = [
            {
                "source": source,
                "stage": stage,
                "error": error,
                "classifiers": names,
                "num_letters": count.num_letters,
                "oldest": count.oldest,
                "newest": count.newest,
            }
            for (source, stage, error, names), count in groups
        ]
        told = {"topic": topic, "num_letters": counts.num_letters, "num_not_selected": num_others, "groups": listed}
        write(json.dumps(told))
        return
    of_all = f" of {counts.num_letters + num_others}" if num_others else ""
    write(f"{counts.num_letters}{of_all} dead letters in {printable(topic)}")
    rows = [
        (str(count.num_letters), stage, error, ",".join(names), source, _time(count.oldest), _time(count.newest))
        for (source, stage, error, names), count in groups
    ]
    if rows:
        _write_table(("letters", "stage", "error", "classifiers", "source", "oldest", "newest"), rows)


def _write_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns as wide as they need to be; the first one is numbers."""
    table = [list(header), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    for number, *cells in table:
        line = [f"{number:>{widths[0]}}", *(f"{cell:<{width}}" for cell, width in zip(cells, widths[1:], strict=True))]
        write("  ".join(line).rstrip())


def write_letters(topic: str, letters: Sequence[Letter], *, show_text: bool, as_json: bool) -> None:
    """Single letters. Keys, values and headers only when they are asked for."""
    if as_json:
        write(json.dumps({"topic": topic, "letters": [_as_json(letter, show_text) for letter in letters]}))
        return
    for letter in letters:
        source = f"{letter.source}[{letter.source_partition}]@{letter.source_offset}"
        again = f"  replayed {letter.replays} times" if letter.replays else ""
        line = (
            f"{letter.partition}/{letter.offset}  {_time(letter.timestamp)}  {letter.stage} {letter.error}"
            f"  {','.join(letter.classifiers)}  {source}  {_size(letter)}{again}"
        )
        write(printable(line))
        write(f"    {printable(letter.message)}")
        if show_text:
            write(f"    key:   {_shown(letter.key)}")
            write(f"    value: {_shown(letter.value)}")
            for name, value in letter.headers:
                write(f"    header {printable(_text(name.encode(errors='surrogateescape')))}: {_shown(value)}")


def _as_json(letter: Letter, show_text: bool) -> dict[str, Any]:
    told: dict[str, Any] = {
        "partition": letter.partition,
        "offset": letter.offset,
        "timestamp": letter.timestamp,
        "source": {"topic": letter.source, "partition": letter.source_partition, "offset": letter.source_offset},
        "stage": letter.stage,
        "error": letter.error,
        "message": letter.message,
        "classifiers": letter.classifiers,
        "replays": letter.replays,
        "value_bytes": letter.lost_bytes if letter.value is None else len(letter.value),
        "value_lost": letter.lost_bytes is not None,
    }
    if show_text:
        told.update({**_content("key", letter.key), **_content("value", letter.value)})
        told["headers"] = [
            {**_content("name", name.encode(errors="surrogateescape")), **_content("value", value)}
            for name, value in letter.headers
        ]
    return told


def _content(name: str, data: bytes | None) -> dict[str, str | None]:
    """As text where it is one, else as `…_base64`."""
    try:
        return {name: None if data is None else data.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(data or b"").decode()}


def write_outcome(topic: str, outcome: Replayed, *, dry_run: bool, as_json: bool) -> None:
    """What was replayed, and why the others were not."""
    num_replayed = sum(outcome.sources.values())
    if as_json:
        told = {"topic": topic, "dry_run": dry_run, "num_replayed": num_replayed, "sources": dict(outcome.sources)}
        write(json.dumps({**told, "kept": dict(outcome.kept), "refusals": outcome.refusals}))
        return
    write(f"{num_replayed} {'would be' if dry_run else 'were'} replayed from {printable(topic)}")
    for source, number in sorted(outcome.sources.items()):
        write(f"    {number} to {printable(source)}")
    for reason, what in _REASONS.items():
        if outcome.kept[reason]:
            write(f"{outcome.kept[reason]} {what}")
    for source, why in sorted(outcome.refusals.items()):
        write(f"    {printable(source)}: {printable(why)}")


def _time(timestamp_ms: int | None) -> str:
    if timestamp_ms is None:
        return "-"
    try:
        return (_EPOCH + timedelta(milliseconds=timestamp_ms)).strftime("%Y-%m-%dT%H:%M:%SZ")
    except OverflowError:  # a year that datetime does not know
        return str(timestamp_ms)


def _size(letter: Letter) -> str:
    if letter.lost_bytes is not None:
        return f"value of {letter.lost_bytes} bytes lost"
    return "null value" if letter.value is None else f"{len(letter.value)} bytes"


def _shown(data: bytes | None) -> str:
    return "null" if data is None else printable(_text(data))


def _text(data: bytes) -> str:
    return data.decode(errors="backslashreplace")
