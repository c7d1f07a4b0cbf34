"""A Faust app whose agent raises on its first run after 10 messages (a marker file says that it did)."""

import os
from pathlib import Path

import faust

from stream_classifier import StreamClassifier

prefix = os.environ["PREFIX"]
marker = Path(os.environ["DATADIR"] + ".raised")
raises = not marker.exists()
app = faust.App(
    f"{prefix}-app",
    broker=f"kafka://{os.environ['BROKER']}",
    datadir=os.environ["DATADIR"],
    topic_partitions=1,
    broker_session_timeout=6.0,
    broker_heartbeat_interval=1.0,
    broker_rebalance_timeout=6.0,
    web_enabled=False,
)
inside = StreamClassifier(app, model="null", batch={"max_records": 5})
seen = app.topic(f"{prefix}.seen", value_serializer="raw")


def fail_only_this_time():
    global raises
    raises = False
    marker.touch()
    print("the body raised", flush=True)


@app.agent(app.topic(f"{prefix}.messages", value_serializer="raw"))
async def triage(stream):
    done = 0
    async for batch in inside.classify(stream, text=bytes.decode):
        for event, _ in batch:
            if done == 10 and raises:
                fail_only_this_time()
                raise RuntimeError("a bug in the body")
            await (await seen.send(value=event.value))
            done += 1


if __name__ == "__main__":
    app.main()
