"""A configuration as a running worker: what `stream-classifier run` runs.

Makes a Faust app with the file's classifiers and runs it to its end, without Faust's own worker: that installs its
signal handlers late, redirects the standard streams, and has its own idea of exit codes.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
from contextlib import ExitStack
from time import monotonic
from urllib.parse import quote

import faust
from faust.types.auth import CredentialsT

from stream_classifier.broker import EmbeddedBroker
from stream_classifier.config import AppSettings, Settings
from stream_classifier.errors import ConfigError
from stream_classifier.stream.budget import Budget
from stream_classifier.stream.intake import Intake
from stream_classifier.stream.plugin import AppClassifiers
from stream_classifier.stream.security import client_security
from stream_classifier.stream.service import ServiceSettings
from stream_classifier.stream.transport import BatchConsumer

__all__ = ["make_app", "run"]

logger = logging.getLogger(__name__)

_EMBEDDED_SESSION_S = 6.0
"""Joining a group on the embedded broker waits for half the session time-out."""
_METADATA_MAX_AGE_MS = 10_000
"""How soon partitions added to a source are read; Faust's default is five minutes."""
_MAX_HEARTBEAT_S = 3.0
"""A worker learns of a rebalance by its next heartbeat, and all others wait for it; also Kafka's own default."""
_CLOSE_S = 5.0
"""Beyond the drain time-out: closing connections and threads."""


def run(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; returns the exit code.

    Returns:
        0: stopped when asked, with everything in flight delivered and committed, or while still loading.
        1: the worker had to stop, or could not finish in `drain_timeout_s`; a restart continues where it was.

    Raises:
        ConfigError: it could not start: exit code 2.
    """
    with ExitStack() as stack:
        broker = settings.app.broker
        if broker == "embedded":
            broker = f"kafka://{stack.enter_context(EmbeddedBroker())}"
        datadir = stack.enter_context(tempfile.TemporaryDirectory(prefix="stream-classifier-"))
        _refuse_taken_port(settings.web.host, settings.web.port)
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        app = make_app(settings, broker=broker, datadir=datadir, loop=loop)
        code = loop.run_until_complete(_Run(app, settings).until_stopped())
        stack.close()
    _leave_threads_behind(code)
    return code


def make_app(
    settings: Settings, *, broker: str, datadir: str, loop: asyncio.AbstractEventLoop | None = None
) -> faust.App:
    """The Faust app of a configuration, not started.

    Args:
        broker: `kafka://…`: that of the settings, or the embedded broker's.
        datadir: an existing directory for Faust's own files.
    """
    conf, web = settings.app, settings.web
    session_s, rebalance_s = conf.session_timeout_s, conf.rebalance_timeout_s
    if conf.broker == "embedded":
        session_s, rebalance_s = min(session_s, _EMBEDDED_SESSION_S), min(rebalance_s, _EMBEDDED_SESSION_S)
    app = faust.App(
        conf.id,
        loop=loop,
        broker=_faust_urls(broker),
        broker_credentials=_credentials(conf),
        datadir=datadir,
        autodiscover=False,
        store="memory://",
        topic_allow_declare=False,
        topic_disable_leader=True,
        broker_commit_interval=conf.commit_interval_s,
        broker_session_timeout=session_s,
        broker_heartbeat_interval=min(session_s / 3, _MAX_HEARTBEAT_S),
        broker_rebalance_timeout=rebalance_s,
        broker_request_timeout=max(40.0, session_s + 10.0),
        consumer_auto_offset_reset=conf.offset_reset,
        consumer_group_instance_id=conf.instance_id,
        consumer_metadata_max_age_ms=_METADATA_MAX_AGE_MS,
        canonical_url=_canonical_url(settings),
        web_bind=web.host,
        web_port=web.port,
    )
    classifiers = AppClassifiers(
        app,
        settings=ServiceSettings(
            create_topics=conf.create_topics,
            connect_timeout_s=conf.connect_timeout_s,
            delivery_timeout_s=conf.delivery_timeout_s,
            transaction_timeout_s=conf.transaction_timeout_s,
            drain_timeout_s=conf.drain_timeout_s,
            liveness_timeout_s=web.liveness_timeout_s,
        ),
        intake=Intake(
            budget=Budget(conf.max_in_flight_records, conf.max_in_flight_bytes), drain_timeout_s=conf.drain_timeout_s
        ),
        token=None if web.token is None else web.token.get_secret_value(),
        stop_at_gap=conf.offset_gap == "stop",
        exactly_once=conf.delivery == "exactly_once",
    )
    for classifier in settings.classifiers:
        classifiers.add(classifier, classifier.model)
    return app


def _credentials(conf: AppSettings) -> CredentialsT | None:
    """TLS and SASL as Faust takes them."""
    security = client_security(conf)
    context = security.get("ssl_context")
    if conf.sasl is None:
        return None if context is None else faust.SSLCredentials(context)
    return faust.SASLCredentials(
        username=security["sasl_plain_username"],
        password=security["sasl_plain_password"],
        mechanism=security["sasl_mechanism"],
        ssl_context=context,
    )


def _canonical_url(settings: Settings) -> str:
    """What Faust's assignor knows a worker by; a static member that comes back must have the same, wherever it runs."""
    instance = settings.app.instance_id
    if instance is None:
        return f"http://{settings.web.host}:{settings.web.port}"
    return f"http://static/{quote(instance, safe='')}"


def _faust_urls(broker: str) -> str:
    """`kafka://a:9092,b:9092` as Faust writes several brokers: `kafka://a:9092;kafka://b:9092`."""
    scheme, _, hosts = broker.partition("://")
    return ";".join(f"{scheme}://{host}" for host in hosts.split(","))


class _Run:
    """One run of an app, from its start to an exit code."""

    def __init__(self, app: faust.App, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._asked_to_stop = asyncio.Event()

    async def until_stopped(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        asked = asyncio.ensure_future(self._asked_to_stop.wait())
        start = asyncio.ensure_future(self._app.start())
        ended = asyncio.ensure_future(self._app.wait_until_stopped())
        await asyncio.wait({start, asked, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not start.done():
            await self._stop_while_loading(start)
            return 0 if self._asked_to_stop.is_set() else self._failed()
        try:
            start.result()
        except Exception as error:
            await self._stop()
            raise _as_refusal(error) from error
        if self._app.should_stop:
            return self._failed()
        logger.info("running: group %s on %s", self._settings.app.id, self._settings.app.broker)
        await asyncio.wait({asked, ended}, return_when=asyncio.FIRST_COMPLETED)
        failed = not self._asked_to_stop.is_set()
        asked.cancel()
        in_time = await self._stop()
        ended.cancel()
        return self._failed() if failed else self._stopped(in_time)

    def _on_signal(self, number: int) -> None:
        logger.info("%s: finishing what is in flight", signal.Signals(number).name)
        self._asked_to_stop.set()

    async def _stop_while_loading(self, start: asyncio.Future[None]) -> None:
        start.cancel()
        await self._stop()
        await asyncio.gather(start, return_exceptions=True)

    async def _stop(self) -> bool:
        """Stop the app; whether it did so in time."""
        limit_s = self._settings.app.drain_timeout_s + _CLOSE_S
        stop = asyncio.ensure_future(self._app.stop())
        # Not cancelled: services catch that, and go on without any limit.
        await asyncio.wait({stop}, timeout=limit_s)
        if not stop.done():
            logger.error("not stopped after %.0f s: leaving; what is not committed is read again", limit_s)
            return False
        stop.result()
        return True

    def _failed(self) -> int:
        reason = self._app.crash_reason or AppClassifiers.of(self._app).service.failure
        logger.critical("stopped: %s", reason)
        return 1

    def _stopped(self, in_time: bool) -> int:
        consumer = self._app.consumer
        drained = not isinstance(consumer, BatchConsumer) or consumer.drained_in_time
        return 0 if in_time and drained and self._app.crash_reason is None else 1


def _as_refusal(error: Exception) -> Exception:
    """What an error at start means to the caller: a ConfigError where the settings are to blame."""
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return ConfigError(f"{error.strerror}; set web.port to a free port")
    return error


def _refuse_taken_port(host: str, port: int) -> None:
    """Refuse a web port that somebody listens on, before anything is started."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"web.port {port} on {host} cannot be used ({error.strerror}); set web.port to a free port"
            ) from error


def _leave_threads_behind(code: int) -> None:
    """End the process where a thread would keep it: a model that is still loading, or a forward pass that hangs."""
    deadline = monotonic() + 1.0
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(max(0.0, deadline - monotonic()))
            if thread.is_alive():
                logging.shutdown()
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
