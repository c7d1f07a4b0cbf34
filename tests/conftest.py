"""What holds for every test: the shared fixtures are loaded, nothing may be left running, logging is as before.

A test that leaves an asyncio task or a non-daemon thread behind fails: in a worker that leak would hang the shutdown.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import logging
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no failure: nothing here is about time. In CI this keeps what Hypothesis sets there by itself.
settings.register_profile("suite", parent=settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

pytest_plugins = [
    name
    for name in ("tests.plugins.models", "tests.plugins.brokers", "tests.plugins.workers")
    if importlib.util.find_spec(name) is not None
]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what runs in its background like that, and every process a test starts would take no Ctrl-C either.
    signal.signal(signal.SIGINT, signal.default_int_handler)

_GRACE_S = 2.0  # a thread told to end may need a moment to do so


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Undo what a command line that ran in this process did to logging: both packages set it up for a process alone."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = [(handler, handler.level) for handler in handlers]
    yield
    root.handlers[:] = handlers
    for handler, own in levels:  # NNCF changes them when it is imported
        handler.setLevel(own)
    root.setLevel(level)
    for name in ("stream_classifier", "training"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate, logger.disabled = True, False
        logger.setLevel(logging.NOTSET)
    logging.disable(logging.NOTSET)
    logging.captureWarnings(False)


@pytest.fixture(autouse=True)
def no_leaked_threads() -> Iterator[None]:
    """Fail a test that leaves a non-daemon thread of its own running."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + _GRACE_S
    leaked = _threads_since(before)
    while leaked and time.monotonic() < deadline:
        leaked[0].join(0.05)
        leaked = _threads_since(before)
    if leaked:
        pytest.fail(f"the test left threads running: {', '.join(sorted(thread.name for thread in leaked))}")


@pytest.fixture
async def no_leaked_tasks() -> AsyncIterator[None]:
    """Fail an async test that leaves a task running after all its other fixtures were torn down."""
    yield
    for _ in range(10):  # cancelled tasks end within a few turns of the loop
        await asyncio.sleep(0)
    leaked = asyncio.all_tasks() - {asyncio.current_task()}
    if leaked:
        pytest.fail(f"the test left tasks running: {', '.join(sorted(_describe(task) for task in leaked))}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every async test the check for tasks, before its other fixtures: the first set up is the last torn down."""
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.fixturenames.insert(0, "no_leaked_tasks")


def _threads_since(before: set[threading.Thread]) -> list[threading.Thread]:
    return [
        thread
        for thread in threading.enumerate()
        # "asyncio_N": the default executor of the test's event loop, which closes after this check and joins them
        if thread not in before and not thread.daemon and not thread.name.startswith("asyncio_")
    ]


def _describe(task: asyncio.Task[object]) -> str:
    return getattr(task.get_coro(), "__qualname__", task.get_name())
