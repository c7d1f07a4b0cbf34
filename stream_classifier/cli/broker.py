"""`stream-classifier broker`: the embedded broker in the foreground."""

from __future__ import annotations

import signal
import threading
from types import FrameType

import click

from stream_classifier.cli.group import examples
from stream_classifier.cli.output import write
from stream_classifier.errors import FatalError

__all__ = ["command"]

_LOOK_EVERY_S = 0.2


@click.command(
    "broker",
    short_help="Run a Kafka-compatible broker on this machine.",
    epilog=examples(
        "stream-classifier broker",
        "stream-classifier broker --port 19092",
        "stream-classifier run pipeline.toml --set app.broker=kafka://127.0.0.1:9092",
    ),
)
@click.option("--port", type=int, default=9092, show_default=True, help="Port on 127.0.0.1.")
def command(port: int) -> int:
    """Run a Kafka-compatible broker on this machine, for trying things out.

    Prints its address once it answers. It keeps everything in memory: Ctrl-C ends it, and what it held is gone.
    """
    from stream_classifier.broker import EmbeddedBroker

    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    broker = EmbeddedBroker(port)
    try:
        write(broker.start())
        click.echo("the broker runs; Ctrl-C ends it", err=True)
        while not stopped.is_set():
            code = broker.wait(_LOOK_EVERY_S)
            if code is not None and not stopped.is_set():
                raise FatalError(f"the broker ended by itself with exit code {code}; start it again")
    finally:
        broker.stop()
    return 0
