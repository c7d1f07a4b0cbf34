"""classifier.json: what a model directory says beyond Hugging Face's own files, and the digest of a model.

Strict on purpose: an unknown key, a key given twice or a value of another type is refused, because a misspelt threshold
that is silently ignored is worse than a model that does not load. Whether it agrees with the other files of the
directory is for directory.py to check.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StringConstraints, ValidationError, model_validator

from stream_classifier.errors import ModelDirectoryError

__all__ = [
    "MANIFEST_NAME",
    "SCHEMA",
    "BackendSpec",
    "CalibrationSpec",
    "Manifest",
    "Rejection",
    "Thresholds",
    "canonical_json",
    "manifest_digest",
    "parse_manifest",
    "read_json_object",
]

MANIFEST_NAME = "classifier.json"
SCHEMA = 1

Probability = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class CalibrationSpec(_Part):
    """p = softmax or sigmoid of scale·z + bias, z the raw logits; the weights stay as they are."""

    method: str
    """How it was fitted, in words: "temperature", "bias", "vector", "none"."""
    scale: FiniteFloat | list[FiniteFloat] = 1.0
    """One factor for all labels, or one a label."""
    bias: FiniteFloat | list[FiniteFloat] = 0.0
    """One offset for all labels, or one a label."""
    fitted_on: Any = None
    """The rows it was fitted on: a name, or an object with name and number."""
    dtype: str | None = None
    """The dtype of the logits it was fitted on."""


class Rejection(_Part):
    """A rule that makes out-of-scope texts uncertain: `score` names the rule, `threshold` is in its units."""

    score: str
    threshold: FiniteFloat
    tuned_for: Any = None


class BackendSpec(_Part):
    """A model in another form, stored under backends/ or made from the weights when it is loaded."""

    tolerance: Annotated[float, Field(gt=0.0, lt=1.0, allow_inf_nan=False)]
    """The largest |Δp| that golden cases may show in this form, as measured when it was made."""
    measured: Any = None
    """What the parity gate saw: rows, agreement, accuracy before and after."""


class Thresholds(_Part):
    """From which probability a label is accepted."""

    default: Probability | None = None
    labels: dict[str, Probability] = Field(default_factory=dict)
    operating_point: Probability | None = None
    """Two labels only: from which probability the positive label is the answer."""
    rejection: Rejection | None = None
    tuned_for: Any = None
    """What the values were tuned for: the goal, the rows, the date."""


class Manifest(_Part):
    """The content of classifier.json, schema 1."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)

    schema_: Literal[1] = Field(alias="schema")
    task: Annotated[str, StringConstraints(min_length=1)] = "free"
    positive_label: str | None = None
    max_length: Annotated[int, Field(ge=3)] | None = None
    """Tokens the model reads of a text, special tokens included."""
    normalisation: Any = None
    """Its name only: the tokenizer's own normalizer applies it."""
    calibration: CalibrationSpec | None = None
    thresholds: Thresholds = Thresholds()
    text_join: str | None = None
    """What stands between the parts when a text has several fields."""
    backends: dict[str, BackendSpec] = Field(default_factory=dict)
    """Forms of the model beside model.safetensors, by name: "openvino-int8", "torch-int8"."""
    reference: Any = None
    training: Any = None
    versions: dict[str, Any] = Field(default_factory=dict)
    files: dict[str, Sha256]
    """SHA-256 in hexadecimal of every file that loading reads, by its name relative to the directory, with slashes."""

    @model_validator(mode="after")
    def _file_names_stay_inside(self) -> Manifest:
        for name in self.files:
            parts = name.split("/")
            if "\\" in name or ":" in name or "\0" in name or any(part in ("", ".", "..") for part in parts):
                raise ValueError(f"files names {name!r}, which is not a plain relative path inside the directory")
            if name == MANIFEST_NAME:
                raise ValueError(f"files names {MANIFEST_NAME} itself, whose digest it cannot hold")
        return self


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file, strictly: UTF-8, no key twice, no NaN or Infinity, no lone surrogates.

    Raises:
        ModelDirectoryError: it is none of that, or cannot be read.
    """
    try:
        value = json.loads(path.read_text("utf-8"), object_pairs_hook=_no_key_twice, parse_constant=_no_constant)
        canonical_json(value)  # refuses the lone surrogates that an escape such as \ud800 makes
    except OSError as error:
        raise ModelDirectoryError(
            path, f"it cannot be read ({error.strerror})", "check the file and its mode"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ModelDirectoryError(path, f"it is not valid JSON ({error})", "write the model directory again") from error
    if not isinstance(value, dict):
        raise ModelDirectoryError(path, "it holds no JSON object", "write the model directory again")
    return value


def parse_manifest(content: Mapping[str, Any], path: Path) -> Manifest:
    """The checked content of a classifier.json; `path` is for the errors only.

    Raises:
        ModelDirectoryError: an unknown schema, an unknown key, a missing key, or a value that is not allowed.
    """
    schema = content.get("schema")
    if schema != SCHEMA or isinstance(schema, bool):
        raise ModelDirectoryError(
            path, f"schema is {schema!r}, this version reads {SCHEMA}", "install a matching stream-classifier"
        )
    try:
        return Manifest.model_validate_json(canonical_json(content))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "files"
        raise ModelDirectoryError(path, f"{where}: {first['msg']}", "correct it, or train the model again") from error
    except ValueError as error:
        raise ModelDirectoryError(path, str(error), "correct it, or train the model again") from error


def canonical_json(content: object) -> bytes:
    """JSON in UTF-8 with sorted keys, no white space and no NaN: equal content gives equal bytes.

    {"b": 1, "a": "ü"}  ->  b'{"a":"\\xc3\\xbc","b":1}'
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def manifest_digest(content: Mapping[str, Any]) -> str:
    """The digest of a model: "sha256:" and the SHA-256 of its classifier.json in canonical form.

    The weights, the tokenizer and the golden cases are in it by their own SHA-256 under `files`; so are the thresholds,
    and changing one changes the digest, as it changes the answers.
    """
    return "sha256:" + hashlib.sha256(canonical_json(content)).hexdigest()


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} is there twice")
    return result


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")
