"""How long a worker may take to stop, and what is said of one that takes longer."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from stream_classifier.config import Settings
from stream_classifier.stream import worker


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(worker, "_CLOSE_S", 0.1)
    app = {"id": "app", "broker": "kafka://127.0.0.1:1", "drain_timeout_s": 0.1}
    classifier = {"name": "null", "model": "null", "source": "texts", "sink": "labels"}
    return Settings.model_validate({"app": app, "classifier": [classifier]})


class App:
    """Of Faust's only what a stop needs."""

    def __init__(self, stop: Any) -> None:
        self.stop = stop


async def test_one_that_does_not_stop_is_left_behind_though_it_pays_no_heed_to_a_cancellation(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    released = asyncio.Event()

    async def stop() -> None:
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue  # as mode does with what its services are stopped by

    started = time.monotonic()
    assert not await worker._Run(App(stop), settings)._stop()  # type: ignore[arg-type]  # a part of an app
    assert time.monotonic() - started < 5.0
    assert "not stopped after" in caplog.text
    released.set()


async def test_one_that_stops_in_time_is_waited_for_and_its_error_comes_through(settings: Settings) -> None:
    async def stop() -> None:
        await asyncio.sleep(0.01)

    async def fail() -> None:
        raise OSError("gone")

    assert await worker._Run(App(stop), settings)._stop()  # type: ignore[arg-type]  # a part of an app
    with pytest.raises(OSError, match="gone"):
        await worker._Run(App(fail), settings)._stop()  # type: ignore[arg-type]  # a part of an app


def test_a_heartbeat_is_never_far_off_however_long_a_session_is(settings: Settings, tmp_path: Path) -> None:
    for session_s, heartbeat_s in ((6.0, 2.0), (60.0, 3.0)):
        longer = {"session_timeout_s": session_s, "rebalance_timeout_s": 60.0}
        changed = settings.model_copy(update={"app": settings.app.model_copy(update=longer)})
        app = worker.make_app(changed, broker="kafka://127.0.0.1:1", datadir=str(tmp_path))
        assert app.conf.broker_heartbeat_interval == pytest.approx(heartbeat_s)
