"""Where log lines go: to stderr, as text or as one JSON object a line. Handlers are set here and nowhere else."""

from __future__ import annotations

import json
import logging
import sys
import time

__all__ = ["set_up_logging"]


def set_up_logging(level: str = "info", format: str = "text") -> None:
    """Send log lines to stderr: ours from `level` on, those of libraries from warning on.

    Args:
        level: "debug", "info", "warning" or "error".
        format: "text" or "json".
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if format == "json" else _TextFormatter())
    ours = getattr(logging, level.upper())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(ours, logging.WARNING))
    logging.getLogger("stream_classifier").setLevel(ours)
    logging.captureWarnings(True)


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
