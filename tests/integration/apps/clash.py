"""A Faust app with an agent of its own on the source of a classifier: it must refuse to start."""

import os

import faust

from stream_classifier import StreamClassifier

prefix = os.environ["PREFIX"]
app = faust.App(
    f"{prefix}-app", broker=f"kafka://{os.environ['BROKER']}", datadir=os.environ["DATADIR"], web_enabled=False
)
StreamClassifier(app, model="null", source=f"{prefix}.texts", sink=f"{prefix}.first")


@app.agent(app.topic(f"{prefix}.texts", value_serializer="raw"))
async def mine(stream):
    async for _ in stream:
        pass


if __name__ == "__main__":
    app.main()
