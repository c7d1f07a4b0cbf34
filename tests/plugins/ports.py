"""Loopback ports for servers of the tests.

Below those that the system gives to outgoing connections: one of them could take a port between the moment it is found
free and the moment a server, or a server started again, binds it.
"""

from __future__ import annotations

import contextlib
import random
import socket

__all__ = ["free_port", "free_port_pair"]

_PORTS = range(20_000, 32_000)


def free_port() -> int:
    """A loopback port that is free now."""
    return _first_of(1)


def free_port_pair() -> int:
    """A free port whose successor is free too: Kafka's own and its controller's."""
    return _first_of(2)


def _first_of(count: int) -> int:
    dice = random.SystemRandom()  # other test runs on this machine draw other ports
    for _ in range(1_000):
        first = dice.choice(_PORTS)
        with contextlib.ExitStack() as probes, contextlib.suppress(OSError):
            for port in range(first, first + count):
                probes.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
    raise RuntimeError(f"no {count} neighbouring loopback ports are free between {_PORTS.start} and {_PORTS.stop}")
