"""What one value must be: the validators of settings.py. Each returns the value, or raises a refusal with the fix."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from stream_classifier import codecs
from stream_classifier.config.problems import refusal
from stream_classifier.errors import ConfigError

__all__ = [
    "app_id",
    "auto_or_count",
    "broker",
    "classifier_name",
    "codec",
    "device",
    "is_loopback",
    "json_pointer",
    "list_of_tables",
    "names_are_unique",
    "not_empty",
    "null_labels",
    "one_or_many",
    "plain_name",
    "topic",
    "topics_make_no_circle",
]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_TOPIC = re.compile(r"[A-Za-z0-9._-]+")
_MAX_TOPIC_CHARS = 249  # Kafka's own limit: the name is a directory's, with the partition behind it
_MAX_APP_ID_CHARS = 200  # Faust's own topics and the transactional ids begin with it
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)(?::([0-9]{1,5}))?")
_DEVICE = re.compile(r"auto|cpu|cuda(:[0-9]{1,3})?")


def not_empty(value: str) -> str:
    if not value.strip():
        raise refusal("must not be empty", "write a name")
    return value


def topic(value: str) -> str:
    """A topic name by Kafka's rules."""
    if not _TOPIC.fullmatch(value) or value in (".", ".."):
        raise refusal("is no topic name", "use letters, digits, '.', '_' and '-' only")
    if len(value) > _MAX_TOPIC_CHARS:
        raise refusal(f"has {len(value)} characters, a topic name has at most {_MAX_TOPIC_CHARS}", "shorten it")
    return value


def app_id(value: str) -> str:
    if not _TOPIC.fullmatch(value) or value in (".", ".."):
        raise refusal("is no app id: topics are named after it", "use letters, digits, '.', '_' and '-' only")
    if len(value) > _MAX_APP_ID_CHARS:
        raise refusal(f"has {len(value)} characters, an app id has at most {_MAX_APP_ID_CHARS}", "shorten it")
    return value


def plain_name(value: str) -> str:
    """The name of a task, a codec or a backend."""
    if not _NAME.fullmatch(value):
        raise refusal("is no name", "use letters, digits, '.', '_' and '-' only")
    return value


def codec(value: str) -> str:
    """The name of a codec that is built in or installed."""
    try:
        codecs.get(plain_name(value))
    except ConfigError as error:
        what, _, fix = str(error).partition(": ")[2].rpartition("; ")
        raise refusal(what, fix) from error
    return value


def classifier_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", value):
        raise refusal("is no classifier name", "use letters, digits, '-' and '_' only, 100 at most")
    return value


def broker(value: str) -> str:
    """`embedded`, or `kafka://` with one or more addresses of host and port."""
    if value == "embedded":
        return value
    scheme, separator, addresses = value.partition("://")
    if not separator:
        raise refusal("must begin with kafka://", "write kafka://host:port, or embedded")
    if scheme != "kafka":
        raise refusal("only kafka:// is known", "write kafka://host:port, or embedded")
    if "@" in addresses:
        raise refusal("must not hold credentials", "write kafka://host:port")
    for address in addresses.split(","):
        match = _HOST.fullmatch(address)
        if match is None:
            raise refusal("is no list of host:port", "write kafka://host:port[,host:port] with one kafka:// in front")
        if match[3] is None:
            raise refusal("the port is missing", f"write {address}:9092")
        if not 0 < int(match[3]) < 65_536:
            raise refusal("a port is not within 1 to 65535", "correct the port; Kafka's is usually 9092")
    return value


def json_pointer(value: str) -> str:
    """A JSON Pointer (RFC 6901): empty for the whole document, or `/` before each step."""
    if value and not value.startswith("/"):
        raise refusal("is no JSON Pointer", f'write "/{value.replace(".", "/")}"')
    if re.search(r"~(?![01])", value):
        raise refusal("is no JSON Pointer: '~' is followed by 0 or 1", "write ~0 for '~' and ~1 for '/'")
    return value


def one_or_many(value: object) -> object:
    """A string stands for a list of one."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, (list, tuple)) and value and all(isinstance(item, str) for item in value):
        return tuple(value)
    if value is None:
        return None
    raise refusal("must be a JSON Pointer or a list of them", 'write "/body", or ["/title", "/body"]')


def null_labels(value: tuple[str, ...]) -> tuple[str, ...]:
    if len(value) < 2:
        raise refusal("must be at least two labels", 'write them as ["even", "odd"]')
    if len(set(value)) != len(value):
        raise refusal("a label is there twice", "remove one")
    return value


def auto_or_count(value: object) -> object:
    if value != "auto" and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**63):
        raise refusal('must be "auto" or a whole number of at least 1', 'write "auto"')
    return value


def device(value: str) -> str:
    if not _DEVICE.fullmatch(value):
        raise refusal("is no device", "write auto, cpu, cuda or cuda:0")
    return value


def list_of_tables(value: object) -> object:
    if isinstance(value, dict):
        raise refusal("must be a list of tables", "write [[classifier]], with two brackets")
    if isinstance(value, (list, tuple)) and not value:
        raise refusal("there must be at least one classifier", "add a table [[classifier]]")
    return value


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def names_are_unique(names: Sequence[str]) -> None:
    for index, name in enumerate(names):
        if name in names[:index]:
            raise refusal("another classifier has this name", "give each its own", at=("classifier", index, "name"))


def topics_make_no_circle(edges: Sequence[tuple[str, Sequence[str]]]) -> None:
    """No classifier may read what comes of its own output, or records would go round for ever.

    Args:
        edges: for each classifier its source and the topics it writes to.
    """
    for index, (source, targets) in enumerate(edges):
        reached, waiting = set(targets), list(targets)
        while waiting:
            written = waiting.pop()
            for other_source, other_targets in edges:
                if other_source == written:
                    waiting += [target for target in other_targets if target not in reached]
                    reached.update(other_targets)
        if source in reached:
            raise refusal(
                "its results come back to it through the other classifiers, for ever",
                "name a topic that no classifier before it reads",
                at=("classifier", index, "sink"),
            )
