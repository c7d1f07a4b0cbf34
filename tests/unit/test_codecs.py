"""The text and the json codec, and the registry; what holds for every codec is in tests/contract."""

from __future__ import annotations

from importlib import metadata

import orjson
import pytest

from stream_classifier import codecs
from stream_classifier.errors import ConfigError, RecordError


def reasons(decoded: codecs.Decoded) -> list[tuple[int, str]]:
    return [(row, error.reason) for row, error in decoded.errors]


class TestText:
    @pytest.mark.parametrize(
        "text", ["", "plain", "zażółć 🎉", "nul \x00 inside", '{"body": "not parsed"}', "\ufeffbom"]
    )
    def test_the_whole_value_is_the_text(self, text):
        assert codecs.create("text").decode([text.encode()]).texts == [text]

    @pytest.mark.parametrize("value", [b"\xff", b"abc\xc3", b"\xed\xa0\x80", b"\xc0\xaf", "Größe".encode("latin-1")])
    def test_bytes_that_are_not_utf8_are_an_error_of_their_row(self, value):
        decoded = codecs.create("text").decode([b"good", value, b"also good"])
        assert decoded.texts == ["good", "also good"]
        assert decoded.rows == [0, 2]
        assert reasons(decoded) == [(1, "InvalidUtf8")]

    def test_the_error_says_where(self):
        ((_, error),) = codecs.create("text").decode([b"abc\xff"]).errors
        assert str(error) == "the value is not UTF-8 at byte 3 of 4: invalid start byte"

    @pytest.mark.parametrize("settings", [{"text": "/body"}, {"passthrough": {"customer": "/customer"}}])
    def test_pointers_are_refused_with_the_fix(self, settings):
        with pytest.raises(ConfigError, match='set codec = "json"'):
            codecs.create("text", **settings)


class TestJson:
    @pytest.mark.parametrize(
        ("pointer", "value", "text"),
        [
            ("/body", b'{"body": "hello", "id": 7}', "hello"),
            ("/body", b'{"body": ""}', ""),
            ("/body", rb'{"body": "a\u0000b\ud83c\udf89"}', "a\x00b🎉"),
            ("/a~1b/0", b'{"a/b": ["first", 2]}', "first"),
            ("/a/b/c", b'{"a": {"b": {"c": "deep"}}}', "deep"),
            ("", b'"the document is the text"', "the document is the text"),
            ("/body", b'{"body": "first", "body": "last"}', "last"),
        ],
    )
    def test_the_text_is_where_the_pointer_says(self, pointer, value, text):
        assert codecs.create("json", text=pointer).decode([value]).texts == [text]

    def test_several_texts_are_joined(self):
        value = b'{"title": "Lost card", "body": {"text": "Help!"}}'
        pointers = ["/title", "/body/text"]
        assert codecs.create("json", text=pointers).decode([value]).texts == ["Lost card\nHelp!"]
        assert codecs.create("json", text=pointers, separator=" | ").decode([value]).texts == ["Lost card | Help!"]

    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            (b"", "InvalidJson"),
            (b"  ", "InvalidJson"),
            (b"not json", "InvalidJson"),
            (b'{"body": "cut', "InvalidJson"),
            (b'{"body": "x"} more', "InvalidJson"),
            (b"{'body': 'x'}", "InvalidJson"),
            (b'{"body": NaN}', "InvalidJson"),
            (rb'{"body": "\ud800"}', "InvalidJson"),
            (rb'{"other": "\udc00", "body": "x"}', "InvalidJson"),
            (b'\xef\xbb\xbf{"body": "x"}', "InvalidJson"),
            (b"[" * 100_000, "InvalidJson"),
            (b'{"body":' * 5_000 + b"1" + b"}" * 5_000, "InvalidJson"),
            (b'{"body": "\xff"}', "InvalidUtf8"),
            ('{"body": "x"}'.encode("utf-16"), "InvalidUtf8"),
            (b'{"Body": "x"}', "MissingField"),
            (b"{}", "MissingField"),
            (b"null", "MissingField"),
            (b'["body"]', "MissingField"),
            (b'"body"', "MissingField"),
            (b'{"body": null}', "NotAString"),
            (b'{"body": 12}', "NotAString"),
            (b'{"body": 1.5}', "NotAString"),
            (b'{"body": true}', "NotAString"),
            (b'{"body": ["x"]}', "NotAString"),
            (b'{"body": {"text": "x"}}', "NotAString"),
        ],
    )
    @pytest.mark.parametrize("settings", [{}, {"passthrough": {"id": "/id"}}])
    def test_what_has_no_text_is_an_error_of_its_row(self, value, reason, settings):
        good = b'{"body": "good", "id": 1}'
        decoded = codecs.create("json", text="/body", **settings).decode([good, value, good])
        assert reasons(decoded) == [(1, reason)]
        assert decoded.texts == ["good", "good"]
        assert decoded.rows == [0, 2]
        assert decoded.passthrough == ([{"id": 1}, {"id": 1}] if settings else None)

    @pytest.mark.parametrize("value", [b'{"title": "x"}', b'{"title": "x", "body": null}'])
    def test_each_of_several_texts_must_be_there(self, value):
        decoded = codecs.create("json", text=["/title", "/body"]).decode([value])
        ((_, error),) = decoded.errors
        assert "'/body'" in error.message

    def test_fields_are_passed_through_and_missing_ones_are_null(self):
        codec = codecs.create(
            "json",
            text="/body",
            passthrough={"customer": "/customer", "tags": "/meta/tags", "all": "", "gone": "/no/0"},
        )
        document = {"body": "x", "customer": 17, "meta": {"tags": ["a", None]}}
        assert codec.decode([orjson.dumps(document)]).passthrough == [
            {"customer": 17, "tags": ["a", None], "all": document, "gone": None}
        ]

    def test_what_can_be_read_but_not_written_again_is_an_error_of_its_row(self):
        codec = codecs.create("json", text="/body", passthrough={"deep": "/deep"})
        written = 0
        for depth in range(200, 300):
            decoded = codec.decode([b'{"body": "x", "deep": ' + b"[" * depth + b"]" * depth + b"}"])
            for passthrough in decoded.passthrough or []:
                codec.encode({"label": "a", "passthrough": passthrough})
                written += 1
            assert decoded.texts or reasons(decoded) == [(0, "TooDeep")]
        assert 0 < written < 100  # the limit is in between, and no row reached encode() that it cannot write

    @pytest.mark.parametrize("text", [None, []])
    def test_it_must_be_told_where_the_text_is(self, text):
        with pytest.raises(ConfigError, match='set text = "/body"'):
            codecs.create("json", text=text)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"text": "body"}, 'text = "body": .*write "/body"'),
            ({"text": ["/title", "body"]}, 'text = "body"'),
            ({"text": "/body", "passthrough": {"id": "id"}}, r'passthrough\.id = "id": .*write "/id"'),
        ],
    )
    def test_what_is_no_pointer_is_refused_at_the_start(self, settings, message):
        with pytest.raises(ConfigError, match=message):
            codecs.create("json", **settings)


class TestRegistry:
    @pytest.fixture(autouse=True)
    def own_registry(self, monkeypatch):
        monkeypatch.setattr(codecs, "_registry", dict(codecs._registry))

    def test_a_codec_can_be_registered_under_a_name_of_its_own(self):
        codecs.register("latin", codecs.TextCodec)
        codecs.register("latin", codecs.TextCodec)  # twice the same does no harm
        assert codecs.create("latin").decode([b"x"]).texts == ["x"]

    def test_a_name_is_not_given_away_twice(self):
        with pytest.raises(ConfigError, match="'text' is registered already"):
            codecs.register("text", codecs.JsonCodec)
        assert codecs.get("text") is codecs.TextCodec

    @pytest.mark.parametrize(("name", "hint"), [("jsn", "did you mean 'json'"), ("avro", "'json', 'text'")])
    def test_an_unknown_name_is_refused_with_those_there_are(self, name, hint):
        with pytest.raises(ConfigError, match=hint):
            codecs.get(name)

    def test_an_installed_package_can_name_one(self, monkeypatch):
        self.install(
            monkeypatch, metadata.EntryPoint("mine", "stream_classifier.codecs:TextCodec", codecs.ENTRY_POINTS)
        )
        assert codecs.get("mine") is codecs.TextCodec
        with pytest.raises(ConfigError, match="'json', 'mine', 'text'"):
            codecs.get("theirs")

    @pytest.mark.parametrize("target", ["no_such_module:Codec", "stream_classifier.codecs:NoSuchCodec"])
    def test_a_package_that_cannot_be_loaded_is_named(self, monkeypatch, target):
        self.install(monkeypatch, metadata.EntryPoint("mine", target, codecs.ENTRY_POINTS))
        with pytest.raises(ConfigError, match=f"codec = 'mine': {target} cannot be loaded"):
            codecs.get("mine")

    def install(self, monkeypatch, entry: metadata.EntryPoint) -> None:
        monkeypatch.setattr(codecs.metadata, "entry_points", lambda group: [entry] if group == entry.group else [])


def test_a_result_that_cannot_be_written_is_a_record_error():
    with pytest.raises(RecordError) as caught:
        codecs.create("text").encode({"label": object()})
    assert (caught.value.stage, caught.value.reason) == ("deliver", "UnwritableResult")
