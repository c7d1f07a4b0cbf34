"""Sends lines to a topic, each as the value of one record: `python send.py TOPIC < lines.txt`.

The broker is that of the environment variable BROKER, 127.0.0.1:9092 unless set.
"""

from __future__ import annotations

import os
import sys

from kafka import KafkaProducer

if len(sys.argv) != 2:
    raise SystemExit("usage: python send.py TOPIC < lines.txt")
producer = KafkaProducer(bootstrap_servers=os.environ.get("BROKER", "127.0.0.1:9092"))
sent = 0
for line in sys.stdin.buffer:
    producer.send(sys.argv[1], value=line.rstrip(b"\r\n"))
    sent += 1
producer.flush()
producer.close()
print(f"{sent} records sent to {sys.argv[1]}", file=sys.stderr)
