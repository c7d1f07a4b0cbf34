"""A Faust app: agents, a table and a timer beside two classifiers that share a source, and one inside an agent.

Run by test_faust_app.py: `python beside.py worker`, with BROKER, PREFIX, PARTITIONS and PORT in the environment;
GUARANTEE is the app's `processing_guarantee`.
"""

import os

import faust

from stream_classifier import RecordError, StreamClassifier

prefix = os.environ["PREFIX"]
app = faust.App(
    f"{prefix}-app",
    broker=f"kafka://{os.environ['BROKER']}",
    datadir=f"{os.environ['DATADIR']}",
    topic_partitions=int(os.environ["PARTITIONS"]),
    broker_session_timeout=6.0,
    broker_heartbeat_interval=1.0,
    broker_rebalance_timeout=6.0,
    stream_wait_empty=False,
    processing_guarantee=os.environ.get("GUARANTEE", "at_least_once"),
    web_port=int(os.environ["PORT"]),
    web_bind="127.0.0.1",
    canonical_url=f"http://127.0.0.1:{os.environ['PORT']}",
)

StreamClassifier(app, model="null", name="first", source=f"{prefix}.texts", sink=f"{prefix}.first")
StreamClassifier(app, model="null", name="second", source=f"{prefix}.texts", sink=f"{prefix}.second", labels=["a", "b"])
inside = StreamClassifier(app, model="null", name="inside", threshold=0.75)

orders = app.topic(f"{prefix}.orders", value_type=bytes, value_serializer="raw")
counted = app.topic(f"{prefix}.counted", value_serializer="json")
messages = app.topic(f"{prefix}.messages", value_serializer="json")
triaged = app.topic(f"{prefix}.triaged", value_serializer="json")
beats = app.topic(f"{prefix}.beats", value_serializer="json")
counts = app.Table(f"{prefix}-counts", default=int)


@app.agent(orders)
async def count(stream):
    async for order in stream:
        counts["all"] += 1
        await counted.send(value={"order": order.decode(), "count": counts["all"]})


@app.agent(messages)
async def triage(stream):
    async for batch in inside.classify(stream, text=lambda value: value["body"]):
        for event, prediction in batch:
            failed = isinstance(prediction, RecordError)
            answer = prediction.reason if failed else f"{prediction.label} {prediction.decision}"
            await triaged.send(value={"id": event.value["id"], "answer": answer})


@app.timer(interval=0.3)
async def beat():
    await beats.send(value={"beat": True})


if __name__ == "__main__":
    app.main()
