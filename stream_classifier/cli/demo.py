"""`stream-classifier demo`: the whole thing on this machine, with real news."""

from __future__ import annotations

import signal
from pathlib import Path

import click

from stream_classifier.cli.group import examples
from stream_classifier.cli.output import write

__all__ = ["command"]

_NEXT = """
Next, your own topic:
  stream-training fit messages.csv --task intent --out models/intent
  stream-classifier check models/intent
  stream-classifier run pipeline.toml        # docs/tutorial.md shows the file"""


@click.command(
    "demo",
    short_help="Broker, model, stream and live view on this machine.",
    epilog=examples(
        "stream-classifier demo",
        "stream-classifier demo --once",
        "stream-classifier demo --once --records 100 --rate 20",
        "stream-classifier demo --model models/news",
    ),
)
@click.option("--once", is_flag=True, help="Send each held-out article once, then end with the summary.")
@click.option("--records", "num_records", type=click.IntRange(min=1), help="End after so many records.")
@click.option("--rate", type=click.FloatRange(min=0.1), default=8.0, show_default=True, help="Records a second.")
@click.option(
    "--model", type=click.Path(path_type=Path), help="A model directory of your own.  [default: trained once]"
)
@click.option("--retrain", is_flag=True, help="Train the demo's model even if there is one.")
def command(once: bool, num_records: int | None, rate: float, model: Path | None, retrain: bool) -> int:
    """Watch real news articles flow through a broker, a worker and a model trained on this machine.

    The first time, the model is trained: about a minute on two cores. Articles it was not trained on are streamed, a
    few broken records among them. Ctrl-C ends the demo with a summary; --once ends it when each article was sent.
    """
    from stream_classifier.demo.show import show

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends it in order, as Ctrl-C does
    write(show(once=once, num_records=num_records, rate=rate, model=model, retrain=retrain))
    click.echo(_NEXT, err=True)
    return 0
