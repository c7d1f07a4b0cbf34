"""The settings of a worker as frozen, checked values: each key, its type, its default, and what holds between keys.

The attribute names are the TOML keys. A line of `description` stands with each field: the reference and the JSON Schema
are generated from it. Where values come from (file, environment, --set) is for sources.py; this module reads nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, SecretStr, model_validator
from typing_extensions import Self

from stream_classifier.config import rules
from stream_classifier.config.classifier import ClassifierSettings
from stream_classifier.config.fields import MAX_SECONDS, Count, Seconds, Table, derived
from stream_classifier.config.problems import Origin, Path, origin_of, refusal

__all__ = ["AppSettings", "LogSettings", "SaslSettings", "Settings", "TlsSettings", "WebSettings"]


class TlsSettings(Table):
    """TLS to the broker; an empty table trusts the certificate authorities of the system."""

    ca: str | None = Field(
        default=None, min_length=1, description="File of certificate authorities (PEM) instead of the system's."
    )
    cert: str | None = Field(default=None, min_length=1, description="File of our certificate (PEM), for mutual TLS.")
    key: str | None = Field(default=None, min_length=1, description="File of its private key (PEM, not encrypted).")

    @model_validator(mode="after")
    def _certificate_and_key_together(self) -> Self:
        if (self.cert is None) != (self.key is None):
            missing = "cert" if self.cert is None else "key"
            raise refusal("a certificate and its key belong together", f"give app.tls.{missing} too", at=())
        return self


class SaslSettings(Table):
    """Name and password for the broker."""

    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        description="`PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`."
    )
    username: str = Field(min_length=1, description="The name.")
    password: SecretStr | None = Field(
        default=None,
        min_length=1,
        description="The password, required; from the environment, or from `app.sasl.password_file`.",
    )
    password_file: str | None = Field(default=None, min_length=1, description="File that holds the password.")

    @model_validator(mode="after")
    def _password_is_there(self) -> Self:
        if self.password is None:
            fix = "set STREAM_CLASSIFIER__APP__SASL__PASSWORD, or app.sasl.password_file to a file that holds it"
            raise refusal("a password is required", fix, at=("password",))
        return self


class AppSettings(Table):
    """The worker: its group, its broker, its delivery and its time-outs."""

    id: Annotated[str, AfterValidator(rules.app_id)] = Field(
        description="Faust app id, consumer group and prefix of transactional ids."
    )
    broker: Annotated[str, AfterValidator(rules.broker)] = Field(
        description="`kafka://host:port[,host:port]`, or `embedded`."
    )
    delivery: Literal["at_least_once", "exactly_once"] = Field(
        default="at_least_once", description="`at_least_once`, or `exactly_once`; refused on the embedded broker."
    )
    commit_interval_s: Seconds = Field(
        default=1.0,
        description="Seconds between two commits of offsets.",
        json_schema_extra=derived("1.0; 0.1 under exactly-once"),
    )
    session_timeout_s: Seconds = Field(
        default=10.0, description="Seconds without a heartbeat after which the group takes a worker for dead."
    )
    rebalance_timeout_s: Seconds = Field(
        default=20.0, description="Seconds the group waits for its members in a rebalance."
    )
    instance_id: str | None = Field(
        default=None, min_length=1, description="Static membership; from the environment or `--set` only."
    )
    drain_timeout_s: Annotated[float, Field(ge=0, le=MAX_SECONDS)] = Field(
        default=8.0, description="Seconds to finish what is in flight when stopping or rebalancing."
    )
    delivery_timeout_s: Seconds = Field(
        default=120.0, description="Seconds a failed produce is retried before the worker stops with exit code 1."
    )
    transaction_timeout_s: Seconds = Field(
        default=60.0, description="Seconds after which the broker ends an open transaction; for exactly-once."
    )
    connect_timeout_s: Seconds = Field(
        default=60.0, description="Seconds to wait for the broker at start before giving up with exit code 2."
    )
    offset_reset: Literal["earliest", "latest"] = Field(
        default="earliest", description="Where a group without offsets begins: `earliest` or `latest`."
    )
    offset_gap: Literal["continue", "stop"] = Field(
        default="continue",
        description="When retention has overtaken the offsets: `continue` (counted, logged) or `stop`.",
    )
    create_topics: bool = Field(
        default=True, description="Make missing topics at start; if false, a missing one refuses the start."
    )
    max_in_flight_records: Count = Field(default=20_000, description="Records held by the worker at once, at most.")
    max_in_flight_bytes: Count = Field(
        default=64 * 2**20, description="Bytes of records held by the worker at once, at most (64 MiB)."
    )
    tls: TlsSettings | None = Field(default=None, description="TLS to the broker; without it the connection is open.")
    sasl: SaslSettings | None = Field(default=None, description="Name and password for the broker.")

    @model_validator(mode="before")
    @classmethod
    def _commit_interval_follows_delivery(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("delivery") == "exactly_once":
            return {"commit_interval_s": 0.1, **data}
        return data

    @model_validator(mode="after")
    def _check_relations(self) -> Self:
        if self.delivery == "exactly_once":
            if self.broker == "embedded":
                raise refusal(
                    "the embedded broker has no transactions", 'write delivery = "at_least_once"', at=("delivery",)
                )
            if self.commit_interval_s >= self.transaction_timeout_s:
                raise refusal(
                    f"must be less than transaction_timeout_s, which is {self.transaction_timeout_s:g}: "
                    "the broker would abort every transaction",
                    "lower it, or raise app.transaction_timeout_s",
                    at=("commit_interval_s",),
                )
        if self.broker == "embedded" and (self.tls or self.sasl):
            at = "tls" if self.tls else "sasl"
            raise refusal("the embedded broker has neither TLS nor SASL", "remove it", at=(at,))
        if self.session_timeout_s > self.rebalance_timeout_s:
            raise refusal(
                f"must be at most rebalance_timeout_s, which is {self.rebalance_timeout_s:g}",
                "lower it, or raise app.rebalance_timeout_s",
                at=("session_timeout_s",),
            )
        if self.drain_timeout_s >= self.session_timeout_s:
            raise refusal(
                f"must be less than session_timeout_s, which is {self.session_timeout_s:g}",
                "lower it, or raise app.session_timeout_s",
                at=("drain_timeout_s",),
            )
        return self


class WebSettings(Table):
    """The web server with metrics, health and the live page."""

    host: Annotated[str, AfterValidator(rules.not_empty)] = Field(
        default="127.0.0.1", description="Address to listen on."
    )
    port: Annotated[int, Field(ge=1, le=65_535)] = Field(
        default=6066, description="Port to listen on; when it is taken the start is refused."
    )
    token: SecretStr | None = Field(
        default=None,
        min_length=1,
        description="Secret that readers must present, required when the host is not loopback; "
        "from the environment, or from `web.token_file`.",
    )
    token_file: str | None = Field(default=None, min_length=1, description="File that holds the token.")
    show_text: bool = Field(default=False, description="Show texts on the live page.")
    liveness_timeout_s: Seconds = Field(
        default=60.0, description="`/livez` fails when work is pending and nothing was delivered for so many seconds."
    )

    @model_validator(mode="after")
    def _open_to_others_only_with_a_token(self) -> Self:
        if self.token is None and not rules.is_loopback(self.host):
            raise refusal(
                "a token is required when the host is not loopback",
                'set STREAM_CLASSIFIER__WEB__TOKEN or web.token_file, or write host = "127.0.0.1"',
                at=("host",),
            )
        return self


class LogSettings(Table):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="`debug`, `info`, `warning` or `error`."
    )
    format: Literal["text", "json"] = Field(default="text", description="`text`, or `json`: one object a line.")


class Settings(Table):
    """A worker's settings: the app and its classifiers."""

    app: AppSettings = Field(description="The worker.")
    web: WebSettings = Field(default=WebSettings(), description="The web server.")
    log: LogSettings = Field(default=LogSettings(), description="Logging.")
    classifiers: Annotated[
        tuple[ClassifierSettings, ...], Field(strict=False), BeforeValidator(rules.list_of_tables)
    ] = Field(alias="classifier", description="The classifiers, one table each.")

    _origins: Mapping[Path, Origin] = PrivateAttr(default_factory=dict)
    _file: FilePath | None = PrivateAttr(default=None)

    @property
    def file(self) -> FilePath | None:
        """The file they were read from."""
        return self._file

    def keep_origins(self, file: FilePath, origins: Mapping[Path, Origin]) -> None:
        """Note where the values came from, for load() only; no part of equality or of the dump."""
        self._file, self._origins = file, dict(origins)

    def origin(self, path: Sequence[str | int]) -> Origin:
        """Where the value at `path`, such as ("classifier", 0, "threshold"), came from."""
        wanted = tuple(path)
        if wanted in self._origins:
            return self._origins[wanted]
        above = origin_of(wanted, {key: o for key, o in self._origins.items() if o.kind != "file"})
        return above or Origin("default", "default")

    @model_validator(mode="after")
    def _check_relations(self) -> Self:
        rules.names_are_unique([classifier.name for classifier in self.classifiers])
        for index, classifier in enumerate(self.classifiers):
            if classifier.batch.max_records > self.app.max_in_flight_records:
                raise refusal(
                    f"must be at most app.max_in_flight_records, which is {self.app.max_in_flight_records}",
                    "lower it, or raise app.max_in_flight_records",
                    at=("classifier", index, "batch", "max_records"),
                )
            for other in self.classifiers[:index]:
                _check_pair(index, classifier, other)
        rules.topics_make_no_circle([(c.source, (c.sink, c.dead_letter, *c.route.topics)) for c in self.classifiers])
        return self


def _check_pair(index: int, classifier: ClassifierSettings, other: ClassifierSettings) -> None:
    at: Path = ("classifier", index, "dead_letter")
    if classifier.source == other.source and classifier.dead_letter != other.dead_letter:
        raise refusal(
            f'must be "{other.dead_letter}", as for classifier "{other.name}" with the same source: '
            "a record has one dead letter",
            "give both the same",
            at=at,
        )
    for one, two in ((classifier, other), (other, classifier)):
        if one.dead_letter in (two.sink, *two.route.topics):
            raise refusal(
                f'results of classifier "{two.name}" go to the dead letters of "{one.name}"',
                "name another topic",
                at=at,
            )
