"""What the parts of the settings are made of: the kinds of values, and the strict, frozen table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from stream_classifier.config import rules

__all__ = ["MAX_SECONDS", "Count", "Label", "Name", "Pointer", "Probability", "Seconds", "Table", "Topic", "derived"]

MAX_SECONDS = 2_147_483  # Kafka's time-outs are milliseconds in an int32

Seconds = Annotated[float, Field(gt=0, le=MAX_SECONDS)]
Count = Annotated[int, Field(ge=1, le=2**63 - 1)]
Probability = Annotated[float, Field(ge=0, le=1)]
Topic = Annotated[str, AfterValidator(rules.topic)]
Pointer = Annotated[str, AfterValidator(rules.json_pointer)]
Label = Annotated[str, AfterValidator(rules.not_empty)]
Name = Annotated[str, AfterValidator(rules.plain_name)]


class Table(BaseModel):
    """A table of the file: frozen, no unknown keys, no value of another type."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        hide_input_in_errors=True,
        protected_namespaces=(),
    )


def derived(text: str) -> Callable[[dict[str, Any]], None]:
    """For a default that depends on other keys: the words that stand for it in the reference, none in the schema."""

    def rewrite(field_schema: dict[str, Any]) -> None:
        field_schema.pop("default", None)
        field_schema["x-default"] = text

    return rewrite
