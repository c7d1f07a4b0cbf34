"""The stock Faust agent: `take` and `topic.send`, doing what the null model's pipeline does, with the same results.

Written as Faust's documentation does it. `take_events` is `take` for agents that need more than the value: the key, and
where the record came from. Run by benchmarks/stream.py:

    BENCH_BROKER=… BENCH_SOURCE=… BENCH_SINK=… faust -A benchmarks.peers.stock_faust worker -l info --without-web

and by benchmarks/faults, with the group, the guarantee and the time-outs of the workers it is compared with.
"""

from __future__ import annotations

import math
import os
from typing import Any
from zlib import crc32

import faust
import orjson

THRESHOLD = 0.75
LABELS = ("even", "odd")

app = faust.App(
    os.environ["BENCH_SINK"],
    broker=f"kafka://{os.environ['BENCH_BROKER']}",
    datadir=os.environ["BENCH_DATADIR"],
    topic_disable_leader=True,
    processing_guarantee=os.environ.get("BENCH_GUARANTEE", "at_least_once"),
    broker_session_timeout=float(os.environ.get("BENCH_SESSION_TIMEOUT_S", "60")),
    broker_heartbeat_interval=float(os.environ.get("BENCH_SESSION_TIMEOUT_S", "9")) / 3,
)
source = app.topic(os.environ["BENCH_SOURCE"], key_serializer="raw", value_serializer="raw")
sink = app.topic(os.environ["BENCH_SINK"], key_serializer="raw", value_serializer="raw")


def result(message: Any, value: bytes, timestamp_ms: int) -> bytes:
    """The result record of one message, classified as the null model does."""
    text = value.decode()
    number = crc32(text.encode())
    index = number % 2
    score = 0.5 + (number >> 16) / 131072
    rest = min(1.0 - score, math.nextafter(0.5, 0.0))
    return orjson.dumps(
        {
            "classifier": "bench",
            "task": "free",
            "label": LABELS[index],
            "score": score,
            "decision": "accepted" if score >= THRESHOLD else "uncertain",
            "scores": [{"label": LABELS[index], "score": score}, {"label": LABELS[1 - index], "score": rest}],
            "passthrough": {},
            "model": {"name": "bench", "digest": None},
            "source": {
                "topic": message.topic,
                "partition": message.partition,
                "offset": message.offset,
                "timestamp": timestamp_ms,
            },
        }
    )


@app.agent(source)
async def classify(stream: Any) -> None:
    async for events in stream.take_events(256, within=0.1):
        for event in events:
            message = event.message
            timestamp_ms = round(message.timestamp * 1000)  # Faust keeps seconds
            await sink.send(
                key=event.key,
                value=result(message, event.value, timestamp_ms),
                timestamp=(timestamp_ms + 0.5) / 1000,  # its producer cuts to whole milliseconds
            )


if __name__ == "__main__":
    app.main()
