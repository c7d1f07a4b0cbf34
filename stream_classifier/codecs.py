"""Codecs: the bytes of a record's value to a text, a result to bytes. A small registry by name.

A batch is decoded at once, off the event loop. What cannot be decoded becomes a RecordError for that record alone; no
message holds text. Topics, keys and dead letters are the stream's business.

- "text": the whole value is the text, in UTF-8.
- "json": the text is where a JSON Pointer (RFC 6901) says, or several joined; other fields can be passed through to the
  result.

Others register themselves with `register`, or by an entry point of the group "stream_classifier.codecs".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, Protocol, runtime_checkable

import orjson

from stream_classifier.errors import ConfigError, RecordError, nearest
from stream_classifier.json_pointer import MISSING, compile_pointer

__all__ = ["Codec", "CodecFactory", "Decoded", "JsonCodec", "TextCodec", "create", "get", "register"]

ENTRY_POINTS = "stream_classifier.codecs"

# orjson reads 1024 levels but writes 254; a result puts a passthrough field two levels down. What could be read but not
# written would fail after the model has run, so it is refused here.
_ROOM = 8
_CONTAINERS = frozenset((dict, list))


@dataclass(frozen=True, slots=True)
class Decoded:
    """What became of a batch of values: each row is in `rows` or in `errors`, in order.

    Attributes:
        texts: the text of each row that could be decoded.
        rows: the row of each text; a range when all could be.
        errors: the other rows, each with its RecordError of stage "decode".
        passthrough: the fields to copy into the result, one dict a text; None when the codec was asked for none.
    """

    texts: list[str]
    rows: Sequence[int]
    errors: list[tuple[int, RecordError]] = field(default_factory=list)
    passthrough: list[dict[str, Any]] | None = None


@runtime_checkable
class Codec(Protocol):
    """Bytes to records and back. Called from several threads: it keeps no state between calls."""

    writes_json: bool
    """Whether `encode` writes a result as plain JSON: a batch is then written at once, without it."""

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """The texts of a batch; never raises for what a value holds."""

    def encode(self, result: Mapping[str, Any]) -> bytes:
        """A result record, ready to produce.

        Raises:
            RecordError: the result cannot be written (stage "deliver").
        """


class CodecFactory(Protocol):
    """Makes a codec from the settings of a classifier. Raises ConfigError for settings it has no use for."""

    def __call__(self, *, text: Sequence[str], separator: str, passthrough: Mapping[str, str]) -> Codec:
        """As `create`."""


def create(
    name: str,
    *,
    text: str | Sequence[str] | None = None,
    separator: str = "\n",
    passthrough: Mapping[str, str] | None = None,
) -> Codec:
    """The codec registered as `name`, for these settings.

    Args:
        name: "text", "json", or one that was registered.
        text: where the text is, one JSON Pointer or several.
        separator: put between the texts of several pointers.
        passthrough: name in the result to JSON Pointer in the record; a pointer that finds nothing gives null.

    Raises:
        ConfigError: no such codec, or settings that do not fit it.
    """
    pointers = () if text is None else (text,) if isinstance(text, str) else tuple(text)
    return get(name)(text=pointers, separator=separator, passthrough=dict(passthrough or {}))


def register(name: str, factory: CodecFactory) -> None:
    """Make a codec known under `name`.

    Raises:
        ConfigError: the name is taken by another factory.
    """
    if _registry.setdefault(name, factory) is not factory:
        raise ConfigError(f"a codec {name!r} is registered already; give yours another name")


def get(name: str) -> CodecFactory:
    """The factory registered as `name`, or named so by an installed package.

    Raises:
        ConfigError: there is none, or its package cannot be imported.
    """
    if name in _registry:
        return _registry[name]
    installed = {entry.name: entry for entry in metadata.entry_points(group=ENTRY_POINTS)}
    if name not in installed:
        known = sorted({*_registry, *installed})
        close = nearest(name, known)
        hint = f"did you mean {close!r}?" if close else "install the package that has it, or use one of these"
        raise ConfigError(f"codec = {name!r}: there are {', '.join(map(repr, known))}; {hint}")
    entry = installed[name]
    try:
        factory: CodecFactory = entry.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"codec = {name!r}: {entry.value} cannot be loaded ({error}); repair or remove that package"
        ) from error
    return _registry.setdefault(name, factory)


def _encode(result: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(result if isinstance(result, dict) else dict(result))
    except TypeError as error:
        # orjson names types and limits here, never values.
        raise RecordError("deliver", "UnwritableResult", f"the result cannot be written as JSON: {error}") from None


class TextCodec:
    """The whole value is the text, in UTF-8; an empty value is an empty text. Results are JSON.

    Raises:
        ConfigError: pointers were given; they need the "json" codec.
    """

    def __init__(
        self, *, text: Sequence[str] = (), separator: str = "\n", passthrough: Mapping[str, str] | None = None
    ) -> None:
        del separator  # every factory takes it; there is one text here, so nothing to join
        for setting, given in (("text", text), ("passthrough", passthrough)):
            if given:
                raise ConfigError(f'{setting} = {given!r}: the codec "text" has no fields; set codec = "json"')

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """The texts of a batch; a null value and bytes that are not UTF-8 are errors."""
        try:
            return Decoded(list(map(bytes.decode, values)), range(len(values)))  # type: ignore[arg-type]  # None: below
        except (UnicodeDecodeError, TypeError):
            return self._decode_each(values)

    def _decode_each(self, values: Sequence[bytes | None]) -> Decoded:
        texts: list[str] = []
        rows: list[int] = []
        errors: list[tuple[int, RecordError]] = []
        for row, value in enumerate(values):
            error = _null_error(value) or _utf8_error(value)
            if error is None:
                rows.append(row)
                texts.append(str(value, "utf-8"))  # type: ignore[arg-type]  # not None: no error
            else:
                errors.append((row, error))
        return Decoded(texts, rows, errors)

    writes_json = True

    def encode(self, result: Mapping[str, Any]) -> bytes:
        """The result as JSON."""
        return _encode(result)


class JsonCodec:
    """The text is one string in a JSON document, or several joined. Results are JSON.

    Args:
        text: JSON Pointers, at least one; each must find a string.
        separator: put between the strings.
        passthrough: name to JSON Pointer; what is found is copied, nothing found gives null. Integers beyond 64 bits
            arrive as floats.

    Raises:
        ConfigError: no pointer, or one that is none.
    """

    def __init__(
        self, *, text: Sequence[str], separator: str = "\n", passthrough: Mapping[str, str] | None = None
    ) -> None:
        if not text:
            raise ConfigError(
                'codec = "json" needs to know where the text is: set text = "/body" (a JSON Pointer, or a list)'
            )
        self._separator = separator
        self._text = [(pointer, compile_pointer(pointer, setting="text")) for pointer in text]
        self._passthrough = [
            (name, compile_pointer(pointer, setting=f"passthrough.{name}"))
            for name, pointer in (passthrough or {}).items()
        ]

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """The texts of a batch. Errors: a null value, broken JSON, a field that is missing, no string, or too deep."""
        texts: list[str] = []
        rows: list[int] = []
        errors: list[tuple[int, RecordError]] = []
        passthrough: list[dict[str, Any]] | None = [] if self._passthrough else None
        (pointer, find), *more = self._text
        for row, value in enumerate(values):
            try:
                document = orjson.loads(value)  # type: ignore[arg-type]  # None raises as well
                text = find(document)
                if type(text) is not str:
                    raise _field_error(pointer, text)
                if more:
                    text = self._joined(text, document)
                if passthrough is not None:
                    passthrough.append(self._fields(document))
            except orjson.JSONDecodeError as error:
                errors.append((row, _null_error(value) or _utf8_error(value) or _json_error(error)))
            except RecordError as error:
                errors.append((row, error))
            else:
                texts.append(text)
                rows.append(row)
        return Decoded(texts, rows if errors else range(len(values)), errors, passthrough)

    writes_json = True

    def encode(self, result: Mapping[str, Any]) -> bytes:
        """The result as JSON."""
        return _encode(result)

    def _fields(self, document: Any) -> dict[str, Any]:
        fields = {}
        for name, find in self._passthrough:
            value = find(document)
            if type(value) in _CONTAINERS:
                _check_depth(name, value)
            fields[name] = None if value is MISSING else value
        return fields

    def _joined(self, first: str, document: Any) -> str:
        parts = [first]
        for pointer, find in self._text[1:]:
            part = find(document)
            if type(part) is not str:
                raise _field_error(pointer, part)
            parts.append(part)
        return self._separator.join(parts)


def _check_depth(name: str, value: Any) -> None:
    for _ in range(_ROOM):
        value = [value]
    try:
        orjson.dumps(value)
    except TypeError:
        message = f"the passthrough field {name!r} is nested deeper than JSON can be written"
        raise RecordError("decode", "TooDeep", message) from None


def _null_error(value: bytes | None) -> RecordError | None:
    return (
        RecordError("decode", "NullValue", "the value is null (a tombstone): there is no text")
        if value is None
        else None
    )


def _utf8_error(value: bytes | None) -> RecordError | None:
    try:
        str(value or b"", "utf-8")
    except UnicodeDecodeError as error:
        # Not str(error): it quotes the byte.
        where = f"byte {error.start} of {len(error.object)}"
        return RecordError("decode", "InvalidUtf8", f"the value is not UTF-8 at {where}: {error.reason}")
    return None


def _json_error(error: orjson.JSONDecodeError) -> RecordError:
    # The parser's message tells what it expected, not what it saw. Not chained: error.doc is the whole value.
    return RecordError("decode", "InvalidJson", f"the value is not JSON: {error}")


_KINDS = {
    dict: "an object",
    list: "an array",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    type(None): "null",
}


def _field_error(pointer: str, value: Any) -> RecordError:
    if value is MISSING:
        return RecordError("decode", "MissingField", f"the value has nothing at {pointer!r}")
    return RecordError("decode", "NotAString", f"the value has {_KINDS[type(value)]} at {pointer!r}, not a text")


_registry: dict[str, CodecFactory] = {"text": TextCodec, "json": JsonCodec}
