"""Prints the values of a topic from its beginning, a line each: `python show.py TOPIC [NUMBER]`.

With NUMBER it ends after so many records, else with Ctrl-C. Headers follow the value, indented. The broker is that of
the environment variable BROKER, 127.0.0.1:9092 unless set.
"""

from __future__ import annotations

import itertools
import os
import sys

from kafka import KafkaConsumer

if len(sys.argv) not in (2, 3):
    raise SystemExit("usage: python show.py TOPIC [NUMBER]")
number = int(sys.argv[2]) if len(sys.argv) == 3 else None
consumer = KafkaConsumer(
    sys.argv[1],
    bootstrap_servers=os.environ.get("BROKER", "127.0.0.1:9092"),
    auto_offset_reset="earliest",
    enable_auto_commit=False,
    group_id=None,
)
try:
    for record in itertools.islice(consumer, number):
        print("(null)" if record.value is None else record.value.decode(errors="replace"))
        for name, value in record.headers:
            print(f"    {name}: {(value or b'').decode(errors='replace')}")
except KeyboardInterrupt:
    pass
finally:
    consumer.close()
