"""The topics a worker needs: found, made, or refused, before anything else asks for them.

Sinks, routes and dead letters get the partitions, replication and `retention.*` of their source, so that results keep
their source's partition and live as long. Made first: a broker that creates topics by itself would choose its own
partition count at the first metadata request.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.conn import collect_hosts
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    NodeNotReadyError,
    RequestTimedOutError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    for_code,
)

from stream_classifier.errors import ConfigError
from stream_classifier.stream.security import why_refused

__all__ = ["connect", "prepare_topics"]

logger = logging.getLogger(__name__)

_RETRY_S = (0.1, 5.0)
_CREATE_TIMEOUT_S = 15.0


@dataclass(frozen=True)
class _Topic:
    partitions: int
    replication: int


async def connect(settings: Mapping[str, Any], *, timeout_s: float) -> AIOKafkaAdminClient:
    """An admin client, once a broker answers; retries with back-off.

    Args:
        settings: bootstrap servers and security, as aiokafka's clients take them.
        timeout_s: for how long.

    Raises:
        ConfigError: no broker answered within `timeout_s`.
    """
    deadline = monotonic() + timeout_s
    pause_s, longest_s = _RETRY_S
    servers = settings["bootstrap_servers"]
    address = servers if isinstance(servers, str) else ",".join(servers)
    reported = False
    while True:
        admin = AIOKafkaAdminClient(**settings, request_timeout_ms=int(_CREATE_TIMEOUT_S * 1000))
        try:
            await admin.start()
        except (KafkaError, OSError) as error:
            await admin.close()
            await _refuse_for_good(settings)
            remaining_s = deadline - monotonic()
            if remaining_s <= 0:
                raise ConfigError(
                    f"no broker answers at {address} after {timeout_s:g} s ({error}); "
                    "start it, correct app.broker, or raise app.connect_timeout_s"
                ) from error
            if not reported:
                logger.warning("no broker answers at %s yet: retrying for %g s", address, timeout_s)
                reported = True
            await asyncio.sleep(min(pause_s, max(remaining_s, 0.0)))
            pause_s = min(pause_s * 2, longest_s)
        else:
            return admin


async def _refuse_for_good(settings: Mapping[str, Any]) -> None:
    """Raise a ConfigError where a broker answers and no waiting will help."""
    for host, port, _ in collect_hosts(settings["bootstrap_servers"]):
        reason = await why_refused(settings, host, port)
        if reason is not None:
            raise ConfigError(f"the broker at {host}:{port} cannot be used: {reason}")


async def prepare_topics(
    admin: AIOKafkaAdminClient, outputs: Mapping[str, Sequence[str]], *, create: bool, timeout_s: float
) -> dict[str, int]:
    """Make sure all topics exist; returns the partition count of each. Begins anew when a connection breaks.

    Args:
        outputs: source → the topics its classifiers write to.
        create: whether missing ones are made.
        timeout_s: how long it is tried.

    Raises:
        ConfigError: a topic is missing and may not be made, or is not visible to us; or connections keep breaking.
    """
    deadline = monotonic() + timeout_s
    while True:
        try:
            return await _prepare(admin, outputs, create)
        except (KafkaConnectionError, NodeNotReadyError, RequestTimedOutError) as error:
            if monotonic() > deadline:
                raise ConfigError(
                    f"the broker gave no answer about the topics within {timeout_s:g} s ({error!r}); "
                    "look at the broker and the network, or raise app.connect_timeout_s"
                ) from error
            await asyncio.sleep(_RETRY_S[0])


async def _prepare(admin: AIOKafkaAdminClient, outputs: Mapping[str, Sequence[str]], create: bool) -> dict[str, int]:
    existing = await _describe(admin)
    missing_sources = [source for source in outputs if source not in existing]
    _refuse_missing(missing_sources, create, "source")
    for source in missing_sources:
        logger.warning("source topic %s does not exist: making it with the broker's default partition count", source)
        await _create(admin, NewTopic(source, -1, -1, replica_assignments={}))
    if missing_sources:
        existing = await _wait_for(admin, missing_sources)
    made: list[str] = []
    for source, topics in outputs.items():
        missing = [topic for topic in topics if topic not in existing and topic not in made]
        _refuse_missing(missing, create, "output")
        if missing:
            configs = await _retention(admin, source)
            like = existing[source]
            for topic in missing:
                await _create(admin, NewTopic(topic, like.partitions, like.replication, topic_configs=configs))
                made.append(topic)
    if made:
        existing = await _wait_for(admin, made)
        logger.info("made topics: %s", ", ".join(made))
    names = [name for source, topics in outputs.items() for name in (source, *topics)]
    return {name: existing[name].partitions for name in names}


def _refuse_missing(topics: Sequence[str], create: bool, role: str) -> None:
    if topics and not create:
        raise ConfigError(
            f"{role} topic {topics[0]!r} does not exist, or we may not see it; "
            "create it, or set app.create_topics = true"
        )


async def _describe(admin: AIOKafkaAdminClient) -> dict[str, _Topic]:
    # All topics, none by name: naming one in a metadata request may create it.
    described = await admin.describe_topics()
    return {
        topic["topic"]: _Topic(len(topic["partitions"]), len(topic["partitions"][0]["replicas"]))
        for topic in described
        if topic["partitions"]
    }


async def _create(admin: AIOKafkaAdminClient, topic: NewTopic) -> None:
    response = await admin.create_topics([topic])
    for _, code, message in response.topic_errors:
        error = for_code(code)
        if error is TopicAuthorizationFailedError:
            raise ConfigError(
                f"topic {topic.name!r} does not exist and the broker does not let us create it; "
                "create it, or allow CREATE on it"
            )
        if code and error is not TopicAlreadyExistsError:
            raise ConfigError(f"topic {topic.name!r} could not be created: {message or error.__name__}")


async def _wait_for(admin: AIOKafkaAdminClient, topics: Sequence[str]) -> dict[str, _Topic]:
    """Until the broker we ask knows the topics that were made."""
    deadline = monotonic() + _CREATE_TIMEOUT_S
    while True:
        existing = await _describe(admin)
        unseen = [topic for topic in topics if topic not in existing]
        if not unseen:
            return existing
        if monotonic() > deadline:
            raise ConfigError(
                f"topic {unseen[0]!r} was created but is not there after {_CREATE_TIMEOUT_S:g} s; look at the broker"
            )
        await asyncio.sleep(0.1)


async def _retention(admin: AIOKafkaAdminClient, source: str) -> dict[str, str]:
    """The `retention.*` settings the source has."""
    configs: dict[str, str] = {}
    for response in await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, source)]):
        for resource in response.to_object()["resources"]:
            if resource["error_code"]:
                logger.warning("%s: its settings may not be read: made topics keep the broker's retention", source)
            for entry in resource["config_entries"]:
                name, value = entry["config_names"], entry["config_value"]
                if name.startswith("retention.") and value is not None:
                    configs[name] = value
    return configs
