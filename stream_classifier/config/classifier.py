"""The settings of one classifier: its model, how it decides, its topics, and what holds between these keys.

The attribute names are the TOML keys. A line of `description` stands with each field: the reference and the JSON Schema
are generated from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator
from typing_extensions import Self

from stream_classifier.config import rules
from stream_classifier.config.fields import Count, Label, Name, Pointer, Probability, Seconds, Table, Topic, derived
from stream_classifier.config.problems import Path, refusal

__all__ = ["BatchSettings", "ClassifierSettings", "ModelSettings", "RouteSettings"]


class BatchSettings(Table):
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


class RouteSettings(Table):
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


class ModelSettings(Table):
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
        json_schema_extra=derived("the model's"),
    )
    positive_label: Label | None = Field(
        default=None,
        description="The positive one of two labels, or of sentiment.",
        json_schema_extra=derived("the model's"),
    )
    threshold: Probability | None = Field(
        default=None,
        description="Probability from which a label is accepted, for all labels.",
        json_schema_extra=derived("the model's, else 0"),
    )
    thresholds: Mapping[Label, Probability] = Field(
        default={}, description="The same by label: label = probability.", json_schema_extra=derived("the model's")
    )
    top_k: Annotated[int, Field(ge=-1, le=1_000_000)] = Field(
        default=5, description="How many labels `scores` lists; 0: none, -1: all."
    )
    labels: Annotated[tuple[Label, ...], Field(strict=False), AfterValidator(rules.null_labels)] | None = Field(
        default=None,
        description='The labels of `model = "null"`, at least two; no other model takes them.',
        json_schema_extra=derived("the model's"),
    )
    device: Annotated[str, AfterValidator(rules.device)] = Field(
        default="auto", description="`auto` (CUDA when there is one), `cpu`, `cuda` or `cuda:N`."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8"] = Field(
        default="auto", description="`auto`, `float32`, `bfloat16`, `float16`, or `int8` where the model has it."
    )
    backend: Name = Field(default="auto", description="`auto`, `torch`, `openvino`, or an installed one by name.")
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
        json_schema_extra=derived("`<source>.dead-letter`"),
    )
    codec: Annotated[str, AfterValidator(rules.codec)] = Field(
        default="text",
        description="How a value is read: `text` (the whole value), or `json`.",
        json_schema_extra=derived("`text`, or `json` when `text` is set"),
    )
    text: Annotated[
        tuple[Pointer, ...] | None,
        BeforeValidator(rules.one_or_many),
        WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
    ] = Field(
        default=None, description="JSON Pointer to the text, or a list of them.", json_schema_extra=derived("none")
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
