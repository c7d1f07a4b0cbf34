"""A Faust app with two classifiers on one topic and an agent of its own, which classifies on another.

    stream-classifier broker                 # in one terminal
    python examples/app.py worker -l info    # in another

The models are `null`, which answers without weights; name a model directory instead and leave out labels.
"""

from __future__ import annotations

import os

import faust

from stream_classifier import RecordError, StreamClassifier

app = faust.App(
    "support",
    broker=f"kafka://{os.environ.get('BROKER', '127.0.0.1:9092')}",
    store="memory://",
    topic_partitions=4,
    broker_session_timeout=6.0,  # joining a group on the embedded broker waits for half of it
    broker_heartbeat_interval=1.0,
    broker_rebalance_timeout=6.0,
    web_bind="127.0.0.1",  # metrics and health; Faust's own default is open to the world
    web_port=int(os.environ.get("PORT", "6066")),
    stream_wait_empty=False,
)

# Two classifiers of one topic: it is read and decoded once, and answered by both.
StreamClassifier(
    app,
    name="intent",
    model="null",
    labels=["card_lost", "transfer", "other"],
    source="support.messages",
    sink="support.intents",
    text="/body",
    passthrough={"customer": "/customer"},
    threshold=0.6,
    route={"uncertain": "support.review"},
)
StreamClassifier(
    app,
    name="mood",
    model="null",
    labels=["negative", "positive"],
    source="support.messages",
    sink="support.moods",
    text="/body",
)

# A third one has no topics: it answers inside an agent.
urgency = StreamClassifier(app, name="urgency", model="null", labels=["later", "now"])
mails = app.topic("support.mails", value_serializer="json")
urgent = app.topic("support.urgent", value_serializer="json")


@app.agent(mails)
async def triage(stream):
    """Forward what is urgent; mails without a body are left out."""
    async for batch in urgency.classify(stream, text=lambda mail: mail["body"]):
        for event, prediction in batch:
            if not isinstance(prediction, RecordError) and prediction.label == "now":
                await urgent.send(value={**event.value, "score": prediction.score})


if __name__ == "__main__":
    app.main()
