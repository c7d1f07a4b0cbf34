"""The pages on a real Faust app's web server, asked over HTTP; no broker."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import aiohttp.web
import faust
import pytest
from faust.sensors.prometheus import setup_prometheus_sensors
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families as parse_text
from yarl import URL

from stream_classifier.errors import ConfigError
from stream_classifier.observe.health import Health
from stream_classifier.observe.metrics import Metrics
from stream_classifier.observe.web import mount
from tests.plugins.ports import free_port

Get = Callable[..., Awaitable[tuple[int, dict[str, str], str]]]


class Site:
    """A Faust app with the three pages mounted, its web server not started yet."""

    def __init__(
        self,
        datadir: Path,
        *,
        token: str | None = None,
        mounted: bool = True,
        app_class: type[faust.App] = faust.App,
        **settings: Any,
    ) -> None:
        self.app = app_class(
            "x",
            broker="kafka://127.0.0.1:1",
            web_enabled=True,
            web_bind="127.0.0.1",
            web_port=free_port(),
            datadir=datadir,
            **settings,
        )
        self.pending = False
        self.now = 0.0
        self.metrics = Metrics()
        self.health = Health(pending=lambda: self.pending, broker_answers=lambda: True, clock=lambda: self.now)
        if mounted:
            self.mount(token=token)

    def mount(self, *, token: str | None = None) -> None:
        mount(self.app, self.metrics, self.health, token=token)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Get]:
        """A GET on the started web server: (status, headers, body)."""
        try:
            await self.app.web.start()
            async with aiohttp.ClientSession() as session:

                async def get(path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
                    # Encoded: odd paths must arrive as they are written.
                    url = URL(f"http://127.0.0.1:{self.app.conf.web_port}{path}", encoded=True)
                    async with session.request(method, url, headers=headers) as response:
                        return response.status, dict(response.headers), await response.text()

                yield get
        finally:
            await self.app.web.stop()


def names(exposition: str) -> set[str]:
    return {family.name for family in parse_text(exposition)}


async def test_metrics_page_serves_prometheus_text_with_its_version(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.metrics.tokens("intent", 42)
    async with site.serving() as get:
        status, headers, body = await get("/metrics")
        assert status == 200
        assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert 'stream_classifier_tokens_total{classifier="intent"} 42.0' in body.splitlines()
        assert (await get("/metrics", method="HEAD"))[0] == 200


async def test_metrics_page_serves_openmetrics_to_those_who_ask(tmp_path: Path) -> None:
    async with Site(tmp_path).serving() as get:
        status, headers, body = await get("/metrics", Accept="application/openmetrics-text;version=1.0.0")
        assert status == 200
        assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
        assert body.endswith("# EOF\n")


async def test_health_pages_follow_the_worker(tmp_path: Path) -> None:
    site = Site(tmp_path)
    async with site.serving() as get:
        assert (await get("/livez"))[0] == 200
        status, headers, body = await get("/readyz")
        assert status == 503
        assert headers["Content-Type"].startswith("application/json")
        assert "assignment" in body
        site.health.warm()
        site.health.assigned()
        assert (await get("/readyz"))[0] == 200
        site.pending = True
        assert (await get("/livez"))[0] == 200
        site.now = 61.0
        assert (await get("/livez"))[0] == 503


async def test_pages_work_with_the_web_server_in_its_own_thread(tmp_path: Path) -> None:
    async with Site(tmp_path, web_in_thread=True).serving() as get:
        for _ in range(100):  # the thread's server answers a moment after start() returns
            try:
                assert (await get("/metrics"))[0] == 200
                break
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.02)
        assert (await get("/livez"))[0] == 200


async def test_pages_and_guard_hold_when_mounted_while_faust_is_being_configured(tmp_path: Path) -> None:
    """As the plugin does it; a page of the user's is then the first to ask for `app.web`, which reads the settings."""
    site = Site(tmp_path, mounted=False)
    site.app.on_after_configured.connect(lambda *_, **__: site.mount(token="s3cret"), weak=False)

    @site.app.page("/own")
    async def own(view: Any, request: Any) -> Any:
        return view.text("private")

    async with site.serving() as get:
        assert (await get("/livez"))[0] == 200
        for path in ("/own", "/metrics"):
            assert (await get(path))[0] == 401
            assert (await get(path, Authorization="Bearer s3cret"))[0] == 200


async def test_hook_of_the_app_s_own_is_still_called(tmp_path: Path) -> None:
    called = []

    class App(faust.App):
        def on_webserver_init(self, web: Any) -> None:
            called.append(web)

    site = Site(tmp_path, app_class=App)
    async with site.serving() as get:
        assert (await get("/livez"))[0] == 200
    assert called == [site.app.web]


async def test_token_guards_every_page_but_the_health_pages(tmp_path: Path) -> None:
    site = Site(tmp_path, token="s3cret-ü")

    @site.app.page("/own")
    async def own(view: Any, request: Any) -> Any:
        return view.text("private")

    async with site.serving() as get:
        for path in (
            "/metrics",
            "/own",
            "/",
            "/router/",
            "/nowhere",
            "/livez/",
            "//livez",
            "/livez/../metrics",
            "/%6Cetrics",
        ):
            status, headers, body = await get(path)
            assert status == 401, path
            assert headers["WWW-Authenticate"].startswith("Bearer")
            assert "private" not in body
            assert "stream_classifier_" not in body
        assert (await get("/livez"))[0] == 200
        assert (await get("/readyz"))[0] == 503
        for wrong in ("", "Bearer", "Bearer ", "Bearer s3cret", "Basic s3cret-ü", "s3cret-ü", "Bearer s3cret-ü x"):
            assert (await get("/own", Authorization=wrong))[0] == 401, wrong
        for right in ("Bearer s3cret-ü", "bearer  s3cret-ü"):
            status, _, body = await get("/own", Authorization=right)
            assert (status, body) == (200, "private")


@pytest.mark.parametrize("token", ["", " ", "secret\n"])
def test_token_that_no_header_can_carry_is_refused_without_showing_it(tmp_path: Path, token: str) -> None:
    with pytest.raises(ConfigError, match=r"web\.token") as caught:
        Site(tmp_path, token=token)
    assert "secret" not in str(caught.value)


@pytest.fixture
def default_registry_restored() -> Any:
    before = set(REGISTRY._collector_to_names)
    yield
    for collector in set(REGISTRY._collector_to_names) - before:
        REGISTRY.unregister(collector)


@pytest.mark.usefixtures("default_registry_restored")
@pytest.mark.parametrize("own_registry", [False, True], ids=["default registry", "registry of the user's"])
@pytest.mark.parametrize("mounted_first", [False, True])
async def test_metrics_join_the_registry_of_faust_s_prometheus_sensors(
    tmp_path: Path, own_registry: bool, mounted_first: bool
) -> None:
    site = Site(tmp_path, mounted=False)
    if mounted_first:
        site.mount()
    if own_registry:
        setup_prometheus_sensors(site.app, registry=CollectorRegistry())
    else:
        setup_prometheus_sensors(site.app)
    if not mounted_first:
        site.mount()
    site.metrics.tokens("intent", 42)
    async with site.serving() as get:
        status, _, body = await get("/metrics")
        assert status == 200
        assert {"stream_classifier_tokens", "x_messages_received"} <= names(body)
        assert 'stream_classifier_tokens_total{classifier="intent"} 42.0' in body.splitlines()
        assert (await get("/livez"))[0] == 200
    joined_default = any(family.name.startswith("stream_classifier_") for family in REGISTRY.collect())
    assert joined_default is not own_registry


@pytest.mark.usefixtures("default_registry_restored")
async def test_metrics_route_added_to_aiohttp_itself_is_left_alone(tmp_path: Path) -> None:
    site = Site(tmp_path)

    async def own(request: aiohttp.web.Request) -> aiohttp.web.Response:
        return aiohttp.web.Response(text="own")

    web: Any = site.app.web  # Faust types the driver by its base class
    web.web_app.router.add_get("/metrics", own)
    async with site.serving() as get:
        assert (await get("/metrics"))[2] == "own"


async def test_health_page_of_the_app_stays_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    site = Site(tmp_path)

    @site.app.page("/livez")
    async def livez(view: Any, request: Any) -> Any:
        return view.text("mine")

    with caplog.at_level(logging.WARNING, "stream_classifier"):
        async with site.serving() as get:
            assert (await get("/livez"))[2] == "mine"
            assert (await get("/readyz"))[0] == 503
    assert "/livez" in caplog.text


async def test_pages_of_the_user_and_of_faust_go_on_working(tmp_path: Path) -> None:
    site = Site(tmp_path)

    @site.app.page("/own")
    async def own(view: Any, request: Any) -> Any:
        return view.text("hello")

    async with site.serving() as get:
        assert (await get("/own"))[2] == "hello"
        assert (await get("/"))[0] == 200
        assert (await get("/router/"))[0] == 200
