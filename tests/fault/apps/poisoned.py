"""A Faust app whose model does what its texts say: raise, answer NaN, run out of memory, break for good, hang."""

import os
import time

import faust
import numpy as np

from stream_classifier import StreamClassifier, TransientError

prefix = os.environ["PREFIX"]
app = faust.App(
    f"{prefix}-app",
    broker=f"kafka://{os.environ['BROKER']}",
    datadir=os.environ["DATADIR"],
    broker_session_timeout=6.0,
    broker_heartbeat_interval=1.0,
    broker_rebalance_timeout=6.0,
    web_port=int(os.environ["PORT"]),
    web_bind="127.0.0.1",
    canonical_url=f"http://127.0.0.1:{os.environ['PORT']}",
)


class Obedient:
    """A TextModel with two labels; long texts are "long"."""

    labels = ("short", "long")
    problem_type = "single_label_classification"

    def __init__(self) -> None:
        self.broken = False

    def logits(self, texts):
        if any(text.startswith("break") for text in texts):
            self.broken = True
        if any(text.startswith("hang") for text in texts):
            time.sleep(3600)
        if self.broken or any(text.startswith("raise") for text in texts):
            raise ValueError("as the text says")
        if len(texts) > int(os.environ.get("MEMORY", "1000000")):
            raise TransientError("out of memory")
        lengths = np.array([len(text) for text in texts], dtype=np.float32)
        logits = np.stack([10 - lengths, lengths - 10], axis=1)
        logits[[text.startswith("nan") for text in texts]] = np.nan
        return logits


StreamClassifier(
    app, model=Obedient(), name="obedient", source=f"{prefix}.texts", sink=f"{prefix}.results", inference_timeout_s=2.0
)

if __name__ == "__main__":
    app.main()
