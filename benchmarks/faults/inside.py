"""`stream-classifier` with a thread beside it that counts what nobody outside can see: for soak.py.

    python -m benchmarks.faults.inside counts.json run pipeline.toml

Every second the file holds {"tasks": asyncio tasks of all event loops, "blocks": what its allocator gave out}.
A task that is never done, or an object that is kept for each batch, shows there long before it does in the resident
memory.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from pathlib import Path

from stream_classifier.cli import main

_EVERY_S = 1.0


class _Counted(asyncio.DefaultEventLoopPolicy):
    """Asyncio's own policy, which remembers the loops it made."""

    def __init__(self) -> None:
        super().__init__()
        self.loops: list[asyncio.AbstractEventLoop] = []

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        loop = super().new_event_loop()
        self.loops.append(loop)
        return loop


def _count(policy: _Counted, file: Path) -> None:
    aside = file.with_suffix(".new")
    while True:
        time.sleep(_EVERY_S)
        tasks = sum(len(asyncio.all_tasks(loop)) for loop in policy.loops)
        aside.write_text(json.dumps({"tasks": tasks, "blocks": sys.getallocatedblocks()}))
        aside.replace(file)


if __name__ == "__main__":
    counted = _Counted()
    asyncio.set_event_loop_policy(counted)
    threading.Thread(target=_count, args=(counted, Path(sys.argv.pop(1))), daemon=True).start()
    sys.exit(main())
