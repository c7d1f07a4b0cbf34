"""How much one worker holds at once, from the moment it is read until it is delivered or dropped.

The consumer stops fetching while the budget is used up, so everything behind it (decoding, inference, output) is
bounded by the same two numbers. A fetch may overshoot the bytes by what one answer of the broker holds.
"""

from __future__ import annotations

import asyncio

__all__ = ["Budget"]


class Budget:
    """Records and bytes in flight against their limits. Event loop only.

    Args:
        max_records: records in flight at most.
        max_bytes: bytes of keys, values and headers after which nothing more is fetched.
    """

    def __init__(self, max_records: int, max_bytes: int) -> None:
        self.max_records = max_records
        self.max_bytes = max_bytes
        self.records = 0
        self.bytes = 0
        self._freed = asyncio.Event()

    @property
    def room(self) -> int:
        """How many records may be fetched now; 0 when either limit is reached."""
        return max(0, self.max_records - self.records) if self.bytes < self.max_bytes else 0

    def take(self, num_records: int, num_bytes: int) -> None:
        """Count what was read."""
        self.records += num_records
        self.bytes += num_bytes

    def give(self, num_records: int, num_bytes: int) -> None:
        """Count what was delivered or dropped, and wake whoever waits for room."""
        self.records -= num_records
        self.bytes -= num_bytes
        self._freed.set()

    async def wait_for_room(self, timeout_s: float) -> bool:
        """Wait until something may be fetched, `timeout_s` at most; whether there is room now."""
        try:
            await asyncio.wait_for(self._until_room(), timeout_s)
        except asyncio.TimeoutError:
            return self.room > 0
        return True

    async def _until_room(self) -> None:
        while not self.room:
            self._freed.clear()
            await self._freed.wait()
