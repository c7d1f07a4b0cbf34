"""A headless Chromium for tests that open a page, driven over its DevTools protocol through two pipes.

https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["Browser", "find_browser"]

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    "--headless=new", "--remote-debugging-pipe", "--hide-scrollbars", "--disable-gpu", "--no-first-run",
    "--no-sandbox",  # it has no user of its own in a container, and opens pages of ours alone
    "--disable-dev-shm-usage", "--disable-breakpad", "--disable-background-networking", "--disable-component-update",
)  # fmt: skip
_DOMAINS = ("Page", "Network", "Runtime", "Log")


def find_browser() -> str | None:
    """The path of a Chromium on this machine."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


class Browser:
    """A browser with one tab, as a context manager.

    Attributes:
        requests: the addresses asked for since `open`, that of the page included.
        messages: what went to the page's console since `open`: errors of scripts, of the network, of the policy.
    """

    def __init__(self, program: str) -> None:
        self.requests: list[str] = []
        self.messages: list[str] = []
        self._program = program
        self._numbers = itertools.count(1)
        self._session: str | None = None
        self._is_loaded = False

    def __enter__(self) -> Browser:
        self._profile = tempfile.mkdtemp(prefix="browser-")
        read_there, write_here = os.pipe()
        read_here, write_there = os.pipe()
        silence = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(3)]
        pipes = [(os.POSIX_SPAWN_DUP2, read_there, 3), (os.POSIX_SPAWN_DUP2, write_there, 4)]  # where Chromium looks
        self._pid = os.posix_spawn(
            self._program,
            [self._program, f"--user-data-dir={self._profile}", *_FLAGS, "about:blank"],
            os.environ,
            file_actions=[*silence, *pipes],
            setpgroup=0,
        )
        os.close(read_there)
        os.close(write_there)
        self._write, self._read = os.fdopen(write_here, "wb", buffering=0), os.fdopen(read_here, "rb")
        tab = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]
        for domain in _DOMAINS:
            self.call(f"{domain}.enable")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._write.close()
        self._read.close()
        with contextlib.suppress(ProcessLookupError):  # it ends by itself when its pipe does
            os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        shutil.rmtree(self._profile, ignore_errors=True)  # its children may still be letting go of it

    def open(self, page: Path, *, width: int = 1280, dark: bool = False) -> None:
        """Shows a file in a window that is so many CSS pixels wide, and returns when all of it is there."""
        window = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **window)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.requests.clear()
        self.messages.clear()
        self._is_loaded = False
        self.call("Page.navigate", url=page.resolve().as_uri())
        while not self._is_loaded:
            self._receive()

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page; a script error raises."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer to a command of the protocol."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        self._write.write(json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != number:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def _receive(self) -> dict[str, Any]:
        data = bytearray()
        while (byte := self._read.read(1)) != b"\0":  # buffered
            if not byte:
                raise RuntimeError("the browser ended")
            data += byte
        message: dict[str, Any] = json.loads(data)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, method: str, event: Mapping[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._is_loaded = True
        elif method == "Network.requestWillBeSent":
            self.requests.append(event["request"]["url"])
        elif method == "Log.entryAdded":
            self.messages.append(event["entry"]["text"])
        elif method in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
            self.messages.append(json.dumps(event))
