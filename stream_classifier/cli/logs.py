"""Where log lines go: to stderr, as text or as one JSON object a line. Handlers are set here and nowhere else."""

from __future__ import annotations

import json
import logging
import math
import sys
import time

from stream_classifier.errors import StreamClassifierError

__all__ = ["set_up_logging"]

_OURS = "stream_classifier"
_MAX_REPEATS = 1000


def set_up_logging(level: str = "info", format: str = "text") -> None:
    """Send log lines to stderr: ours from `level` on, those of libraries from warning on.

    Whatever was set up in this process before, as by an imported package, is undone for our own loggers.

    Args:
        level: "debug", "info", "warning" or "error".
        format: "text" or "json".
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if format == "json" else _TextFormatter())
    ours = getattr(logging, level.upper())
    handler.addFilter(_Repeats())
    if level != "debug":
        handler.addFilter(_leave_out_known_traceback)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(ours, logging.WARNING))
    logging.disable(logging.NOTSET)
    _reset_our_loggers()
    logging.getLogger(_OURS).setLevel(ours)
    logging.captureWarnings(True)


def _reset_our_loggers() -> None:
    """Let all lines of this package reach the root's handlers, as in a process where nobody touched logging."""
    for name in [_OURS, *(name for name in logging.root.manager.loggerDict if name.startswith(f"{_OURS}."))]:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate, logger.disabled = True, False
        logger.setLevel(logging.NOTSET)


def _leave_out_known_traceback(record: logging.LogRecord) -> bool:
    """Errors of ours and of Kafka say in their message what happened; Faust logs them with page-long tracebacks."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, StreamClassifierError) or type(error).__module__ == "aiokafka.errors":
        record.exc_info = record.exc_text = None
    return True


class _Repeats(logging.Filter):
    """Thins out what libraries repeat, such as aiokafka's errors while a broker is away: one line in ten seconds."""

    def __init__(self, *, interval_s: float = 10.0) -> None:
        super().__init__()
        self._interval_s = interval_s
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.startswith(_OURS) or record.levelno >= logging.CRITICAL:
            return True
        key = (record.name, str(record.msg))
        shown_at, num_dropped = self._seen.get(key, (-math.inf, 0))
        if record.created - shown_at < self._interval_s:
            self._seen[key] = (shown_at, num_dropped + 1)
            return False
        if len(self._seen) >= _MAX_REPEATS:
            self._seen.clear()
        self._seen[key] = (record.created, 0)
        if num_dropped:
            record.msg, record.args = f"{record.getMessage()} (and {num_dropped} more like it)", ()
        return True


class _TextFormatter(logging.Formatter):
    """2026-01-31T12:00:00.250Z INFO stream_classifier.stream.worker: running"""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")


class _JsonFormatter(_TextFormatter):
    """{"time": …, "level": "info", "logger": …, "message": …, "exception": … where there is one}"""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
