"""The whole demo: broker, model, worker, traffic and view, and everything ended again."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from stream_classifier.broker import EmbeddedBroker, free_port, spawn_tied
from stream_classifier.demo.model import prepare_model
from stream_classifier.demo.news import held_out
from stream_classifier.demo.traffic import DEAD_LETTERS, SINK, SOURCE, Producer, Reader
from stream_classifier.demo.view import LiveView, PlainView, View, summary
from stream_classifier.errors import ConfigError, FatalError

__all__ = ["show"]

_THRESHOLD = 0.9
_READY_S = 120.0
_DONE_S = 120.0
_PARTITIONS = 2

_CONFIGURATION = """\
[app]
id = "demo"
broker = "kafka://{broker}"
session_timeout_s = 6.0
rebalance_timeout_s = 6.0
drain_timeout_s = 5.0

[web]
port = {port}

[log]
level = "warning"

[[classifier]]
name = "news"
model = {model}
source = "{source}"
sink = "{sink}"
dead_letter = "{dead_letter}"
threshold = {threshold}
"""


def show(*, once: bool, num_records: int | None, rate: float, model: Path | None, retrain: bool) -> str:
    """Run the demo until Ctrl-C, or until all records are through; returns the summary.

    Args:
        once: send each held-out article once and end.
        num_records: end after so many records; None: all held-out articles with `once`, else no end.
        rate: records a second.
        model: a model directory to use instead of the demo's own.
        retrain: train the demo's own model even if there is one.

    Raises:
        ConfigError: something the demo needs is missing.
        FatalError: training or the worker failed.
    """
    articles = held_out()
    view: View = _view()
    directory = prepare_model(retrain=retrain) if model is None else model
    limit = len(articles) if once and num_records is None else num_records
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(EmbeddedBroker())
        _make_source(broker)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stream-classifier-demo-")))
        port = free_port()
        file = folder / "pipeline.toml"
        file.write_text(
            _CONFIGURATION.format(
                broker=broker,
                port=port,
                model=json.dumps(str(directory.absolute())),
                source=SOURCE,
                sink=SINK,
                dead_letter=DEAD_LETTERS,
                threshold=_THRESHOLD,
            )
        )
        print(f"broker: {broker}; metrics: http://127.0.0.1:{port}/metrics", file=sys.stderr)
        print(f"worker: stream-classifier run {file}", file=sys.stderr)
        worker = stack.enter_context(_worker(file))
        _wait_until_ready(worker, port)
        producer, reader = Producer(broker, articles, rate=rate, limit=limit), Reader(broker)
        stack.callback(reader.stop)
        stack.callback(producer.stop)
        reader.start()
        producer.start()
        with contextlib.suppress(KeyboardInterrupt), view:
            _watch(producer, reader, worker, view)
        producer.stop()
        return summary(producer, reader.tally)


def _view() -> View:
    if not sys.stdout.isatty():
        return PlainView()
    try:
        return LiveView()
    except ImportError as error:
        raise ConfigError("the live view needs rich; run: pip install 'stream-classifier[demo]'") from error


def _watch(producer: Producer, reader: Reader, worker: subprocess.Popen[bytes], view: View) -> None:
    """Until all that was sent came back; an endless producer ends with Ctrl-C."""
    ended_at: float | None = None
    while True:
        view.update(producer, reader.tally)
        if worker.poll() is not None:
            raise FatalError(f"the worker ended with exit code {worker.returncode}; what it said stands above")
        if not producer.is_alive():
            ended_at = ended_at or time.monotonic()
            came_back = reader.tally.num_results + reader.tally.num_dead_letters
            if came_back >= producer.num_sent:
                return
            if time.monotonic() - ended_at > _DONE_S:
                raise FatalError(f"{producer.num_sent - came_back} of {producer.num_sent} records did not come back")
        time.sleep(0.2)


@contextlib.contextmanager
def _worker(file: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`stream-classifier run` as a child in a session of its own: Ctrl-C reaches us alone, and we end it."""
    command = [sys.executable, "-m", "stream_classifier", "run", str(file)]
    process = spawn_tied(command, log=sys.stderr.buffer)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin is not None:
            process.stdin.close()


def _wait_until_ready(worker: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline:
        if worker.poll() is not None:
            raise FatalError(f"the worker ended with exit code {worker.returncode}; what it said stands above")
        # OSError: it does not listen yet, or answers 503, not ready
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2):
            return
        time.sleep(0.1)
    raise FatalError(f"the worker was not ready after {_READY_S:g} s")


def _make_source(broker: str) -> None:
    """The source with its partitions; the worker makes the topics it writes to."""
    from kafka import KafkaAdminClient

    with contextlib.closing(KafkaAdminClient(bootstrap_servers=broker)) as admin:
        admin.create_topics({SOURCE: {"num_partitions": _PARTITIONS, "replication_factor": 1}})
