"""The settings as frozen, checked values: each key, its type, its default, its meaning, and what holds between keys.

The attribute names are the TOML keys. A line of `description` stands with each field: the reference and the JSON Schema
are generated from it. Where values come from (file, environment, --set) is for sources.py; this module reads nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    WithJsonSchema,
    model_validator,
)
from typing_extensions import Self

from stream_classifier.config import rules
from stream_classifier.config.problems import Origin, Path, origin_of, refusal

__all__ = [
    "AppSettings",
    "BatchSettings",
    "ClassifierSettings",
    "LogSettings",
    "ModelSettings",
    "RouteSettings",
    "Settings",
    "WebSettings",
]

_MAX_SECONDS = 2_147_483  # Kafka's time-outs are milliseconds in an int32

Seconds = Annotated[float, Field(gt=0, le=_MAX_SECONDS)]
Count = Annotated[int, Field(ge=1, le=2**63 - 1)]
Probability = Annotated[float, Field(ge=0, le=1)]
Topic = Annotated[str, AfterValidator(rules.topic)]
Pointer = Annotated[str, AfterValidator(rules.json_pointer)]
Label = Annotated[str, AfterValidator(rules.not_empty)]
Name = Annotated[str, AfterValidator(rules.plain_name)]
NotYet = Annotated[None, BeforeValidator(rules.not_there_yet), WithJsonSchema({"type": "null"})]


def _derived(text: str) -> Callable[[dict[str, Any]], None]:
    """For a default that depends on other keys: the words that stand for it in the reference, none in the schema."""

    def rewrite(field_schema: dict[str, Any]) -> None:
        field_schema.pop("default", None)
        field_schema["x-default"] = text

    return rewrite


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        hide_input_in_errors=True,
        protected_namespaces=(),
    )


class AppSettings(_Section):
    """The worker: its group, its broker, its delivery and its time-outs."""

    id: Annotated[str, AfterValidator(rules.app_id)] = Field(
        description="Faust app id, consumer group and prefix of transactional ids."
    )
    broker: Annotated[str, AfterValidator(rules.broker)] = Field(
        description="`kafka://host:port[,host:port]`, or `embedded`."
    )
    delivery: Literal["at_least_once", "exactly_once"] = Field(
        default="at_least_once", description="`at_least_once`; `exactly_once` is not there yet and refused."
    )
    commit_interval_s: Seconds = Field(
        default=1.0,
        description="Seconds between two commits of offsets.",
        json_schema_extra=_derived("1.0; 0.1 under exactly-once"),
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
    drain_timeout_s: Annotated[float, Field(ge=0, le=_MAX_SECONDS)] = Field(
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
    tls: NotYet = Field(default=None, description="Not there yet and refused: ca, cert, key.")
    sasl: NotYet = Field(default=None, description="Not there yet and refused: mechanism, username, password.")

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
            raise refusal("it is not there yet", 'write delivery = "at_least_once"', at=("delivery",))
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


class WebSettings(_Section):
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


class LogSettings(_Section):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="`debug`, `info`, `warning` or `error`."
    )
    format: Literal["text", "json"] = Field(default="text", description="`text`, or `json`: one object a line.")


class BatchSettings(_Section):
    """How records are gathered for the model."""

    max_tokens: Annotated[
        int | Literal["auto"],
        BeforeValidator(rules.auto_or_count),
        WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"const": "auto", "type": "string"}]}),
    ] = Field(
        default="auto", description="Tokens in a micro-batch, padding included, at most; `auto`: what suits the device."
    )
    max_records: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=256, description="Records in a micro-batch, at most."
    )
    max_wait_ms: Annotated[float, Field(ge=0, le=60_000)] = Field(
        default=5.0, description="Milliseconds to wait for more records when traffic is thin."
    )


class RouteSettings(_Section):
    """Topics that get an extra copy of some results."""

    uncertain: Topic | None = Field(default=None, description="Topic for a copy of every uncertain result.")
    label: Mapping[Label, Topic] = Field(
        default={}, description="Label = topic: a copy of every result with that label."
    )

    @property
    def topics(self) -> tuple[str, ...]:
        """All topics named, without repeats."""
        named = [] if self.uncertain is None else [self.uncertain]
        return tuple(dict.fromkeys([*named, *self.label.values()]))


class ModelSettings(_Section):
    """A model and how it decides, without topics: what a classifier inside a user's own agent needs."""

    name: Annotated[str, AfterValidator(rules.classifier_name)] = Field(
        description="Unique; letters, digits, `-` and `_`."
    )
    model: Annotated[str, AfterValidator(rules.not_empty)] = Field(
        description="A model directory, a Hub name, `null`, or an entry point of `stream_classifier.models`."
    )
    task: Name | None = Field(
        default=None,
        description="`intent` adds requires_clarification, `sentiment` adds sentiment_score.",
        json_schema_extra=_derived("the model's"),
    )
    positive_label: Label | None = Field(
        default=None,
        description="The positive one of two labels, or of sentiment.",
        json_schema_extra=_derived("the model's"),
    )
    threshold: Probability | None = Field(
        default=None,
        description="Probability from which a label is accepted, for all labels.",
        json_schema_extra=_derived("the model's, else 0"),
    )
    thresholds: Mapping[Label, Probability] = Field(
        default={}, description="The same by label: label = probability.", json_schema_extra=_derived("the model's")
    )
    top_k: Annotated[int, Field(ge=-1, le=1_000_000)] = Field(
        default=5, description="How many labels `scores` lists; 0: none, -1: all."
    )
    labels: Annotated[tuple[Label, ...], Field(strict=False), AfterValidator(rules.null_labels)] | None = Field(
        default=None,
        description='The labels of `model = "null"`, at least two; no other model takes them.',
        json_schema_extra=_derived("the model's"),
    )
    device: Annotated[str, AfterValidator(rules.device)] = Field(
        default="auto", description="`auto` (CUDA when there is one), `cpu`, `cuda` or `cuda:N`."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="`auto`, `float32`, `bfloat16` or `float16`."
    )
    backend: Name = Field(default="auto", description="`auto`, or a backend by name, such as `torch`.")
    batch: BatchSettings = Field(default=BatchSettings(), description="How records are gathered for the model.")
    max_text_chars: Count = Field(
        default=100_000, description="Characters of a text that are read; the rest is cut before tokenizing."
    )
    inference_timeout_s: Seconds = Field(
        default=60.0, description="A forward pass that takes longer ends the process with exit code 1."
    )

    @model_validator(mode="after")
    def _only_null_takes_labels(self) -> Self:
        if self.labels is not None and self.model != "null":
            raise refusal("only the null model takes labels", "remove it: a model knows its labels", at=("labels",))
        return self


class ClassifierSettings(ModelSettings):
    """A model with the topics it reads and writes."""

    source: Topic = Field(
        description="Topic to read; several classifiers may share one, which is read and decoded once."
    )
    sink: Topic = Field(description="Topic for the results; several classifiers may share one.")
    dead_letter: Topic = Field(
        default="",
        description="Topic for the records that got no result.",
        json_schema_extra=_derived("`<source>.dead-letter`"),
    )
    codec: Name = Field(
        default="text",
        description="How a value is read: `text` (the whole value), or `json`.",
        json_schema_extra=_derived("`text`, or `json` when `text` is set"),
    )
    text: Annotated[
        tuple[Pointer, ...] | None,
        BeforeValidator(rules.one_or_many),
        WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
    ] = Field(
        default=None, description="JSON Pointer to the text, or a list of them.", json_schema_extra=_derived("none")
    )
    passthrough: Mapping[Label, Pointer] = Field(
        default={}, description="Name = JSON Pointer: values of the record that are copied into its result."
    )
    route: RouteSettings = Field(default=RouteSettings(), description="Topics that get an extra copy of some results.")

    @model_validator(mode="before")
    @classmethod
    def _fill_what_follows(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        derived: dict[str, Any] = {"codec": "json" if data.get("text") is not None else "text"}
        if isinstance(data.get("source"), str):
            derived["dead_letter"] = f"{data['source']}.dead-letter"
        return {**derived, **{key: value for key, value in data.items() if value is not None or key not in derived}}

    @model_validator(mode="after")
    def _check_topics(self) -> Self:
        if self.sink == self.source:
            raise refusal("the sink must not be the source", "name another topic for the results", at=("sink",))
        for topic, path in self.route_paths():
            if topic in (self.source, self.sink):
                which = "source" if topic == self.source else "sink"
                raise refusal(f"a route must not be the {which}", "name a topic of its own", at=path)
        if self.dead_letter in (self.source, self.sink, *self.route.topics):
            raise refusal(
                "dead letters must not go where records or results go", "name another topic", at=("dead_letter",)
            )
        return self

    @model_validator(mode="after")
    def _check_codec(self) -> Self:
        if self.codec == "text" and self.text is not None:
            raise refusal(
                'text is for JSON, the codec is "text"', 'remove codec, or write codec = "json"', at=("codec",)
            )
        if self.codec == "text" and self.passthrough:
            raise refusal('the codec "text" has no fields to pass through', 'set text = "/…"', at=("passthrough",))
        if self.codec == "json" and self.text is None:
            raise refusal(
                'the codec "json" needs to know which field is the text',
                'add text = "/body", or text = "" when the value itself is a JSON string',
                at=("codec",),
            )
        return self

    def route_paths(self) -> list[tuple[str, Path]]:
        """The topics of the routes, each with its path from this table."""
        routes: list[tuple[str, Path]] = [(t, ("route", "label", label)) for label, t in self.route.label.items()]
        return routes if self.route.uncertain is None else [(self.route.uncertain, ("route", "uncertain")), *routes]


class Settings(_Section):
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
