"""`stream-classifier run`: the worker of a configuration."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType

import click

from stream_classifier.cli.group import examples

__all__ = ["command"]


@click.command(
    "run",
    short_help="Classify the records of Kafka topics, as a file says.",
    epilog=examples(
        "stream-classifier run pipeline.toml",
        "stream-classifier run pipeline.toml --set app.broker=kafka://localhost:9092",
        "STREAM_CLASSIFIER__APP__BROKER=embedded stream-classifier run pipeline.toml",
        "stream-classifier run pipeline.toml --set classifier.intent.threshold=0.9 --set log.level=debug",
    ),
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting; may be repeated.")
def command(file: Path, overrides: tuple[str, ...]) -> int:
    """Classify the records of Kafka topics, as FILE (TOML) says.

    Settings in the environment (STREAM_CLASSIFIER__APP__BROKER=…) come over the file, --set over both. SIGTERM and
    Ctrl-C finish what is in flight and end it with exit code 0.
    """
    _stop_at_a_signal_while_loading()
    from stream_classifier import config
    from stream_classifier.cli.logs import set_up_logging

    set_up_logging()
    settings = config.load(file, overrides=overrides)
    set_up_logging(settings.log.level, settings.log.format)
    from stream_classifier.stream import worker

    return worker.run(settings)


def _stop_at_a_signal_while_loading() -> None:
    """Until the worker has its own handlers nothing is in flight: a signal just ends the process, with exit code 0."""

    def stop(number: int, frame: FrameType | None) -> None:
        sys.exit(0)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
