"""Sends sample messages to `support.messages`, two a second, until it is stopped: the input of compose.yaml."""

from __future__ import annotations

import itertools
import json
import os
import time

from kafka import KafkaProducer

SENTENCES = [
    "My card was swallowed by the machine, what now?",
    "How long does a transfer to Lisbon take?",
    "I want to change the address on my account.",
    "Somebody paid with my card and it wasn't me.",
    "Thanks, that solved it!",
    "Which exchange rate do you use at the weekend?",
]


def main() -> None:
    """Send for ever; the broker's address is in KAFKA_BOOTSTRAP."""
    producer = KafkaProducer(bootstrap_servers=os.environ["KAFKA_BOOTSTRAP"], linger_ms=50)
    for customer, body in enumerate(itertools.cycle(SENTENCES)):
        value = json.dumps({"customer": customer % 100, "body": body}).encode()
        producer.send("support.messages", key=b"%d" % (customer % 100), value=value)
        time.sleep(0.5)


if __name__ == "__main__":
    main()
