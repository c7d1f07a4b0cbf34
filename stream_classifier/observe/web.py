"""/metrics, /livez and /readyz on a Faust app's web server.

It works on the app object and imports no Faust. It takes its routes when the web server starts and the app's own pages
are known: aiohttp refuses a second handler for a path.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from aiohttp.web import Request, StreamResponse, json_response, middleware

from stream_classifier.errors import ConfigError
from stream_classifier.observe.health import Health
from stream_classifier.observe.metrics import Metrics, registry_of

__all__ = ["LIVEZ", "METRICS", "READYZ", "WebApp", "mount"]

logger = logging.getLogger(__name__)

METRICS = "/metrics"
LIVEZ = "/livez"
READYZ = "/readyz"

# Probes of an orchestrator carry no secrets, and these two pages tell none.
OPEN_PAGES = frozenset({LIVEZ, READYZ})

_Handler = Callable[[Request], Awaitable[StreamResponse]]


class WebApp(Protocol):
    """What is used of a `faust.App`."""

    @property
    def on_webserver_init(self) -> Callable[[Any], None]:
        """The hook that Faust calls with its aiohttp driver before the server starts."""

    @property
    def page(self) -> Callable[..., Callable[[Any], Any]]:
        """The decorator `app.page(path, name=…)`."""


def mount(app: WebApp, metrics: Metrics, health: Health, *, token: str | None = None) -> None:
    """Serve the three pages from the moment the app's web server starts. To be called once an app, before that.

    Where the app has a page at one of the paths itself, that page stays. If it is `/metrics`, our collectors join the
    registry it renders; for the others a warning is logged.

    Args:
        token: ask for `Authorization: Bearer <token>` on every page of the app but /livez and /readyz. None: ask for
            nothing, as it is the user's own web server.

    Raises:
        ConfigError: the token is empty or blank; when the server starts: the registry to join has our names already.
    """
    if token is not None and (not token or token != token.strip()):
        raise ConfigError(
            "web.token is empty or has blanks around it, which no header carries; "
            "give the token alone, or leave the key out"
        )
    pages = _Pages(app, metrics, health, token)
    inner = app.on_webserver_init

    def on_webserver_init(web: Any) -> None:
        inner(web)
        pages.add_to(web)

    # Not through app.web: making it reads the settings, so from inside Faust's configuration signals it would give us
    # a second Web that the one being made replaces, with our pages and the token's guard.
    setattr(app, "on_webserver_init", on_webserver_init)  # noqa: B010 - Faust declares a method, to be overridden


class _Pages:
    """The pages of one app."""

    def __init__(self, app: WebApp, metrics: Metrics, health: Health, token: str | None) -> None:
        self._app = app
        self._metrics = metrics
        self._health = health
        self._token = token
        self._added = False

    def add_to(self, web: Any) -> None:
        """Add the guard, and the pages whose paths are free. Once: a restarted server keeps its routes."""
        if self._added:
            return
        self._added = True
        if self._token is not None:
            web.web_app.middlewares.append(_bearer(self._token))
        taken = {resource.canonical for resource in web.web_app.router.resources()}
        if METRICS in taken:
            self._join(web.views)
        else:
            self._app.page(METRICS, name="stream_classifier.metrics")(self._metrics_page())
        for path, answer in ((LIVEZ, self._health.livez), (READYZ, self._health.readyz)):
            if path in taken:
                logger.warning("the app has a page %s of its own: it stays, and the classifier's is not served", path)
            else:
                self._app.page(path, name=f"stream_classifier.{path[1:]}")(_health_page(answer))

    def _join(self, views: Mapping[str, Any]) -> None:
        view = views.get(METRICS)  # None: a route added to aiohttp directly
        self._metrics.join(registry_of(None if view is None else view.get))
        logger.info("the app serves %s itself: the classifier's metrics joined its registry", METRICS)

    def _metrics_page(self) -> Callable[[Any, Request], Awaitable[Any]]:
        async def metrics(view: Any, request: Request) -> Any:
            """Prometheus metrics of the stream classifier."""
            body, content_type = self._metrics.render(request.headers.get("Accept", ""))
            # As a header: aiohttp's content_type argument allows no parameters, and the version is one.
            return view.bytes(body, headers={"Content-Type": content_type})

        return metrics


def _health_page(answer: Callable[[], tuple[int, dict[str, Any]]]) -> Callable[[Any, Request], Awaitable[Any]]:
    async def health(view: Any, request: Request) -> Any:
        """Health of the stream classifier."""
        status, reason = answer()
        return view.json(reason, status=status, headers={"Cache-Control": "no-store"})

    return health


def _bearer(token: str) -> Callable[[Request, _Handler], Awaitable[StreamResponse]]:
    expected = token.encode("utf-8", "surrogateescape")

    @middleware
    async def require_token(request: Request, handler: _Handler) -> StreamResponse:
        # By the resource that will answer, not by the path as it was written: nothing else can pass for one of these.
        resource = request.match_info.route.resource
        if resource is not None and resource.canonical in OPEN_PAGES:
            return await handler(request)
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        # Bytes: compare_digest refuses text beyond ASCII, and headers may hold anything.
        given_bytes = given.strip().encode("utf-8", "surrogateescape")
        if scheme.lower() == "bearer" and hmac.compare_digest(given_bytes, expected):
            return await handler(request)
        return json_response(
            {"error": "send the header 'Authorization: Bearer <token>' with the token of web.token"},
            status=401,
            headers={"WWW-Authenticate": 'Bearer realm="stream-classifier"'},
        )

    return require_token
