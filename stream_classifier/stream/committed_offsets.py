"""Committed offsets, read so that an error is never taken for "nothing is committed".

Since version 2 the answer to an OffsetFetch request has an error for the whole group, and no partitions then: while its
coordinator loads after a broker's restart, or has moved. aiokafka (0.14) looks at the errors of partitions alone and
would begin where a new group does: at the beginning, repeating everything, or at the end, losing it.
"""

from __future__ import annotations

from typing import Any

import aiokafka
from aiokafka import errors
from aiokafka.protocol.commit import OffsetFetchRequest

__all__ = ["heed_group_errors"]


def heed_group_errors(consumer: aiokafka.AIOKafkaConsumer) -> None:
    """Let this consumer, which was started, ask again for committed offsets as long as its coordinator says nothing."""
    coordinator = consumer._coordinator
    send = coordinator._send_req

    async def send_and_check(request: Any) -> Any:
        response = await send(request)
        if isinstance(request, OffsetFetchRequest):
            error = errors.for_code(getattr(response, "error_code", errors.NoError.errno))
            if error in (errors.NotCoordinatorForGroupError, errors.GroupCoordinatorNotAvailableError):
                coordinator.coordinator_dead()
            if error is not errors.NoError:
                raise error(coordinator.group_id)
        return response

    coordinator._send_req = send_and_check
