"""The network between a worker and Apache Kafka, under a test's control: a proxy that reads along and breaks it.

    with ProxiedKafka(kafka_script(), tmp_path) as kafka:        # kafka.broker: the broker itself, for the test
        worker = start_worker(kafka.address, …)                  # all its connections go through kafka.proxy
        struck = kafka.proxy.strike("cut request", PRODUCE)      # half of the next produce request arrives

The broker has a listener of its own for the proxy, and tells clients of that listener the proxy's address.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import threading
from collections import defaultdict, deque
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from tests.plugins.brokers import ApacheKafka, Broker
from tests.plugins.ports import free_port, free_port_pair

PRODUCE, FETCH, METADATA, OFFSET_COMMIT, FIND_COORDINATOR, HEARTBEAT = 0, 1, 3, 8, 10, 12
CREATE_TOPICS, DESCRIBE_CONFIGS = 19, 32
INIT_PRODUCER_ID, ADD_PARTITIONS, ADD_OFFSETS, END_TRANSACTION, TRANSACTION_OFFSETS = 22, 24, 25, 26, 28
"""The keys of the Kafka protocol's requests."""

Fault = Literal["cut request", "cut answer", "swallow answer"]


class KafkaProxy:
    """Forwards connections to a port of a broker on loopback, request by request and answer by answer.

    What it can do to the next request of a kind, whichever connection it comes on:

    - "cut request": the broker gets half of its bytes, then the connection ends;
    - "cut answer": the broker gets all of it and the client half of the answer, then the connection ends;
    - "swallow answer": the client gets neither the answer nor any later one on that connection, which stays open.
    """

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self._target_port = target_port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._open: set[_Connection] = set()
        self._strikes: defaultdict[tuple[Fault, int], deque[threading.Event]] = defaultdict(deque)
        self._silent: set[int] = set()

    def start(self) -> None:
        """Listen on a free port."""
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        """End all connections and listen no more."""
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def strike(self, fault: Fault, request: int) -> threading.Event:
        """Do this to the next request of that kind; the event is set when it is done."""
        struck = threading.Event()
        self._strikes[fault, request].append(struck)
        return struck

    def silence(self, *requests: int) -> None:
        """From now on swallow the answers to requests of these kinds; without any, to none again.

        A connection on which an answer was swallowed stays silent.
        """
        self._silent = set(requests)

    def cut_all(self) -> None:
        """End all open connections now, whatever is under way on them."""
        self._loop.call_soon_threadsafe(lambda: [connection.end() for connection in list(self._open)])

    def hit(self, fault: Fault, request: int) -> bool:
        """Whether this is to be done now."""
        if fault == "swallow answer" and request in self._silent:
            return True
        strikes = self._strikes[fault, request]
        if strikes:
            strikes.popleft().set()
            return True
        return False

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            broker = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:  # the broker is away, and so are we
            writer.transport.abort()
            return
        connection = _Connection(self, (reader, writer), broker)
        self._open.add(connection)
        try:
            await connection.forward()
        finally:
            self._open.discard(connection)

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for connection in list(self._open):
            connection.end()
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)


class _Connection:
    """One connection of a client and the one to the broker behind it."""

    def __init__(
        self,
        proxy: KafkaProxy,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        broker: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._proxy = proxy
        self._from_client, self._to_client = client
        self._from_broker, self._to_broker = broker
        self._asked: deque[int] = deque()  # a broker answers the requests of a connection in their order
        self._silent = False

    async def forward(self) -> None:
        """Until either side ends it."""
        ways = [asyncio.ensure_future(self._requests()), asyncio.ensure_future(self._answers())]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for writer in (self._to_client, self._to_broker):
            writer.close()  # what was written still goes out
        for way in ways:
            way.cancel()
            with contextlib.suppress(asyncio.CancelledError, asyncio.IncompleteReadError, OSError):
                await way

    def end(self) -> None:
        self._to_client.transport.abort()
        self._to_broker.transport.abort()

    async def _requests(self) -> None:
        while True:
            frame = await _frame(self._from_client)
            (request,) = struct.unpack_from(">h", frame, 4)
            self._asked.append(request)
            if self._proxy.hit("cut request", request):
                self._to_broker.write(frame[: len(frame) // 2])
                return
            self._to_broker.write(frame)
            await self._to_broker.drain()

    async def _answers(self) -> None:
        while True:
            frame = await _frame(self._from_broker)
            request = self._asked.popleft()
            if self._silent or self._proxy.hit("swallow answer", request):
                self._silent = True
                continue
            if self._proxy.hit("cut answer", request):
                self._to_client.write(frame[: len(frame) // 2])
                return
            self._to_client.write(frame)
            await self._to_client.drain()


async def _frame(reader: asyncio.StreamReader) -> bytes:
    """A request or an answer, with the four bytes of its size."""
    size = await reader.readexactly(4)
    return size + await reader.readexactly(*struct.unpack(">i", size))


class ProxiedKafka:
    """One Apache Kafka node and a proxy before it, as a context manager.

    Attributes:
        node: to kill and to start again.
        broker: the node without the proxy, for what a test itself does.
        proxy: between the node and whoever uses `address`.
        address: for `app.broker`.
    """

    def __init__(self, script: Path, data_dir: Path) -> None:
        inner = free_port()
        self.proxy = KafkaProxy(inner)
        self.proxy.start()
        self.address = f"kafka://127.0.0.1:{self.proxy.port}"
        port = free_port_pair()
        self.node = ApacheKafka(
            script,
            data_dir,
            port,
            settings=[
                f"listeners=PLAINTEXT://127.0.0.1:{port},WORKERS://127.0.0.1:{inner},CONTROLLER://127.0.0.1:{port + 1}",
                f"advertised.listeners=PLAINTEXT://127.0.0.1:{port},WORKERS://127.0.0.1:{self.proxy.port}",
                "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,WORKERS:PLAINTEXT,CONTROLLER:PLAINTEXT",
                "inter.broker.listener.name=PLAINTEXT",
            ],
        )
        self.broker = Broker(self.node.bootstrap, "kafka")

    def __enter__(self) -> ProxiedKafka:
        try:
            self.node.start()
        except BaseException:
            self.proxy.stop()
            raise
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.proxy.stop()
        self.node.kill()
