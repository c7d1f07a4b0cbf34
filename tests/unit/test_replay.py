"""Dead letters opened again, the position of replays, and what the commands refuse and print."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_classifier.cli import main
from stream_classifier.cli.letter_options import selection
from stream_classifier.cli.letter_output import printable, write_letters
from stream_classifier.errors import ConfigError, RecordError
from stream_classifier.stream.dead_letter import Letter, envelope, open_letter, replay_record, without_value
from stream_classifier.stream.letters import Counts, Selection
from stream_classifier.stream.replay import Position
from tests.plugins.records import record

# Header keys as they are read: any bytes, those that are not UTF-8 with escaped surrogates.
KEYS = st.binary(max_size=12).map(lambda raw: raw.decode(errors="surrogateescape")) | st.sampled_from(
    ["__connect.errors.topic", "__connect.errors.stage", "stream-classifier.classifiers"]
)
HEADERS = st.lists(st.tuples(KEYS, st.none() | st.binary(max_size=8)), max_size=6)
ERROR = RecordError("infer", "ValueError", "the model fails on this text: ValueError")


def read_back(produced: Any, *, offset: int = 5) -> Any:
    key, value, timestamp, headers = produced
    return record(offset, topic="texts.dead-letter", timestamp=timestamp, key=key, value=value, headers=headers)


@given(HEADERS, st.none() | st.binary(max_size=20), st.none() | st.binary(max_size=20))
def test_a_replayed_record_is_the_source_record_byte_for_byte(headers: Any, key: Any, value: Any) -> None:
    source = record(7, partition=3, timestamp=123_456, key=key, value=value, headers=headers)
    letter = open_letter(read_back(envelope(source, ERROR, ["intent", "spam"])))
    assert letter is not None
    assert (letter.source, letter.source_partition, letter.source_offset) == ("texts", 3, 7)
    assert (letter.stage, letter.error, letter.message) == (ERROR.stage, ERROR.reason, ERROR.message)
    again = [("stream-classifier.only", b"intent,spam"), ("stream-classifier.replays", b"1")]
    assert replay_record(letter) == (key, value, 123_456, [*headers, *again])


def test_a_record_that_fails_again_keeps_its_own_headers_and_counts_its_replays() -> None:
    letter = open_letter(read_back(envelope(record(headers=[("trace", b"1")]), ERROR, ["intent", "spam"])))
    for number in (1, 2, 3):
        assert letter is not None
        key, value, timestamp, headers = replay_record(letter)
        replayed = record(50 + number, key=key, value=value, timestamp=timestamp, headers=headers)
        letter = open_letter(read_back(envelope(replayed, ERROR, ["spam"])))
        assert letter is not None
        assert (letter.replays, letter.headers, letter.classifiers) == (number, (("trace", b"1"),), ("spam",))


@pytest.mark.parametrize("value", [None, b"", b"-1", b"x", b"1_0", b"9" * 5000, "\u0663".encode()])
def test_a_count_of_replays_that_somebody_else_wrote_does_not_hide_the_letter(value: bytes | None) -> None:
    source = record(headers=[("stream-classifier.replays", value)])
    letter = open_letter(read_back(envelope(source, ERROR, ["spam"])))
    assert letter is not None
    assert (letter.replays, letter.headers) == (0, ())


def test_a_letter_whose_timestamp_was_refused_gets_it_back() -> None:
    key, value, _, headers = envelope(record(timestamp=99), ERROR, ["intent"])
    letter = open_letter(read_back((key, value, 7_000, [*headers, ("stream-classifier.source-timestamp", b"99")])))
    assert letter is not None
    assert letter.timestamp == 99


def test_a_letter_without_its_value_tells_so() -> None:
    letter = open_letter(read_back(without_value(envelope(record(value=b"x" * 10), ERROR, ["intent"]))))
    assert letter is not None
    assert letter.lost_bytes == 10


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("trace", b"1")],
        [("__connect.errors.topic", b"texts")],
        [("__connect.errors.topic", b"texts"), ("__connect.errors.partition", b"zero")],
    ],
)
def test_other_records_of_the_topic_are_no_letters(headers: Any) -> None:
    assert open_letter(record(headers=headers)) is None


@given(st.integers(0, 10**9), st.lists(st.integers(0, 3000), max_size=200), st.integers(0, 3000))
def test_a_position_is_the_same_when_it_is_read_back(start: int, done: list[int], begin: int) -> None:
    position = Position(start)
    for at in range(0, len(done), 7):
        position.add([start + offset for offset in done[at : at + 7]])
        position = Position(position.offset, position.metadata())
    assert {offset for offset in range(3001) if start + offset in position} == set(done)
    assert start + 0 in position or position.offset == start
    position.forget_before(start + begin)
    assert {offset for offset in range(begin, 3001) if start + offset in position} == {at for at in done if at >= begin}


def test_a_position_of_many_letters_fits_a_commit() -> None:
    position = Position(0)
    position.add(range(1, 20_000, 2))
    assert len(position.metadata()) < 200, "regular patterns are nothing"
    position.add(offset for offset in range(20_000) if hash(str(offset * 7919)) & 1)
    assert len(position.metadata()) < 4000


def a_letter(**fields: Any) -> Letter:
    letter = open_letter(read_back(envelope(record(**fields), ERROR, ["intent"])))
    assert letter is not None
    return letter


@pytest.mark.parametrize(
    ("chosen", "wanted"),
    [
        (Selection(), True),
        (Selection(stages=frozenset({"infer"}), errors=frozenset({"ValueError"})), True),
        (Selection(stages=frozenset({"decode"})), False),
        (Selection(classifiers=frozenset({"spam", "intent"})), True),
        (Selection(classifiers=frozenset({"spam"})), False),
        (Selection(sources=frozenset({"other"})), False),
        (Selection(since=100, until=101), True),
        (Selection(since=101), False),
        (Selection(until=100), False),
        (Selection(offsets=(5, 5), partitions=frozenset({0})), True),
        (Selection(offsets=(6, 9)), False),
        (Selection(partitions=frozenset({1})), False),
    ],
)
def test_a_selection_holds_for_all_that_is_given(chosen: Selection, wanted: bool) -> None:
    assert chosen.has(a_letter(timestamp=100)) is wanted


def test_letters_are_counted_by_cause_with_their_time_range() -> None:
    counts = Counts()
    for timestamp in (300, 100, 200):
        counts.add(a_letter(timestamp=timestamp))
    [(group, count)] = counts.largest_first()
    assert group == ("texts", "infer", "ValueError", ("intent",))
    assert (count.num_letters, count.oldest, count.newest) == (3, 100, 300)


NO_SELECTION: dict[str, Any] = dict.fromkeys(["source", "stage", "error", "classifier", "partition"], ())
NO_SELECTION.update(dict.fromkeys(["since", "until", "offset"]))


@pytest.mark.parametrize(
    ("given_time", "expected"),
    [("2026-11-25T18:00", 1_795_629_600_000), ("2026-11-25T18:00:00Z", 1_795_629_600_000), ("1970-01-01", 0)],
)
def test_times_are_utc_unless_they_say_otherwise(given_time: str, expected: int) -> None:
    assert selection(**{**NO_SELECTION, "since": given_time}).since == expected
    assert selection(**{**NO_SELECTION, "until": given_time}).until == expected


def test_a_time_can_be_so_long_ago() -> None:
    since = selection(**{**NO_SELECTION, "since": "2h"}).since
    assert since is not None
    assert abs(time.time() * 1000 - 7_200_000 - since) < 60_000


@pytest.mark.parametrize(("written", "expected"), [("42", (42, 42)), ("42-99", (42, 99)), ("42-", (42, 2**63 - 1))])
def test_offsets_are_one_or_a_range(written: str, expected: tuple[int, int]) -> None:
    assert selection(**{**NO_SELECTION, "offset": written}).offsets == expected


@pytest.mark.parametrize(
    ("option", "value"), [("since", "yesterday"), ("offset", "-3"), ("offset", "9-3"), ("offset", "4-5-6")]
)
def test_what_is_no_time_or_offset_is_refused_with_the_fix(option: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"--{option} {value}: .*; write"):
        selection(**{**NO_SELECTION, option: value})


TOML = """\
[app]
id = "support"
broker = "{broker}"

[[classifier]]
name = "intent"
model = "null"
source = "a"
sink = "a.results"

[[classifier]]
name = "spam"
model = "null"
source = "b"
sink = "b.results"
"""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["a.dead-letter"], "give either --broker HOST:PORT or --config FILE"),
        (["a.dead-letter", "--broker", "h:1", "--config", "FILE"], "give either"),
        (["--broker", "localhost:9092"], "name the dead-letter topic"),
        (["a.dead-letter", "--broker", "localhost"], "write localhost:9092"),
        (["a.dead-letter", "--broker", "http://localhost:1"], "only kafka:// is known"),
        (["--config", "FILE"], "several dead-letter topics; name one: a.dead-letter, b.dead-letter"),
        (["c.dead-letter", "--config", "FILE"], "c.dead-letter is no dead-letter topic of"),
        (["a.dead-letter", "--config", "FILE", "--set", "app.broker=embedded"], "cannot be reached from outside"),
        (["a.dead-letter", "--broker", "h:1", "--set", "app.id=x"], "leave it out"),
    ],
)
@pytest.mark.parametrize("command", ["list", "show", "replay"])
def test_a_topic_or_broker_that_is_not_known_is_refused(
    command: str, arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "pipeline.toml"
    file.write_text(TOML.format(broker="kafka://localhost:9092"))
    assert main(["dead-letters", command, *(str(file) if part == "FILE" else part for part in arguments)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert says in err


def test_nothing_of_a_record_reaches_the_terminal_unescaped(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b]0;owned\x07\x9b31m\u202e"
    headers = [(evil, evil.encode()), ("\udcff", b"\xff")]
    letter = a_letter(key=evil.encode(), value=evil.encode() + b"\xff", headers=headers)
    write_letters("t", [letter], show_text=True, as_json=False)
    shown = capsys.readouterr().out
    assert "owned" in shown
    assert "\\udcff" not in shown
    assert all(line.isprintable() for line in shown.splitlines())
    write_letters("t", [letter], show_text=True, as_json=True)
    told = json.loads(capsys.readouterr().out)["letters"][0]
    assert told["key"] == evil
    assert told["value_base64"]
    assert told["headers"][1] == {"name_base64": "/w==", "value_base64": "/w=="}


def test_without_show_text_nothing_of_key_value_or_headers_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    letter = a_letter(key=b"secret", value=b"secret", headers=[("secret", b"secret")])
    for as_json in (False, True):
        write_letters("t", [letter], show_text=False, as_json=as_json)
    assert "secret" not in capsys.readouterr().out


@given(st.text())
def test_printable_text_stays_as_it_is(text: str) -> None:
    assert printable(text).isprintable()
    if text.isprintable():
        assert printable(text) == text
