"""A Faust app's web server stays the user's; one that is open to the network is warned of."""

from pathlib import Path

import faust
import pytest

from stream_classifier.stream.plugin import AppClassifiers


@pytest.mark.parametrize(
    ("settings", "token", "warned"),
    [
        ({}, None, True),
        ({"web_bind": "0.0.0.0"}, None, True),
        ({"web_bind": "0.0.0.0"}, "secret", False),
        ({"web_bind": "127.0.0.1"}, None, False),
        ({"web_bind": "localhost"}, None, False),
        ({"web_enabled": False}, None, False),
    ],
)
def test_a_web_server_open_to_the_network_is_warned_of_at_start(
    settings: dict[str, object], token: str | None, warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = faust.App("open", broker="kafka://127.0.0.1:1", datadir=tmp_path, **settings)
    AppClassifiers(app, token=token)
    list(app.boot_strategy.server())
    assert ("keeps it to this machine" in caplog.text) is warned
