"""What libraries repeat is thinned out; our own lines and what is critical never are."""

from __future__ import annotations

import logging

import pytest
from aiokafka.errors import TopicAuthorizationFailedError

from stream_classifier.cli.logs import _leave_out_known_traceback, _Repeats
from stream_classifier.errors import DeliveryError


def record(name: str, message: str, at: float, level: int = logging.ERROR) -> logging.LogRecord:
    made = logging.LogRecord(name, level, "file.py", 1, message, (), None)
    made.created = at
    return made


def test_a_librarys_line_is_shown_once_in_ten_seconds_and_says_how_many_were_dropped() -> None:
    repeats = _Repeats()
    shown = [line for at in range(25) if repeats.filter(line := record("aiokafka", "no broker", float(at)))]
    assert [(line.created, line.getMessage()) for line in shown] == [
        (0.0, "no broker"),
        (10.0, "no broker (and 9 more like it)"),
        (20.0, "no broker (and 9 more like it)"),
    ]


def test_different_lines_our_own_and_critical_ones_all_pass() -> None:
    repeats = _Repeats()
    lines = [record("aiokafka", f"error {i}", 0.0) for i in range(3)]
    lines += [record("stream_classifier.stream", "same", 0.0)] * 3
    lines += [record("faust", "same", 0.0, logging.CRITICAL)] * 3
    assert all(repeats.filter(line) for line in lines)


@pytest.mark.parametrize(
    ("error", "kept"),
    [(DeliveryError("why"), False), (TopicAuthorizationFailedError("topic"), False), (ValueError("a bug"), True)],
)
def test_the_traceback_of_an_error_that_explains_itself_is_left_out(error: Exception, kept: bool) -> None:
    line = record("mode", f"Crashed reason={error!r}", 0.0)
    line.exc_info = (type(error), error, None)
    assert _leave_out_known_traceback(line)
    assert (line.exc_info is not None) == kept
