"""JSON Pointers: the examples of RFC 6901, what finds nothing, what is refused."""

from __future__ import annotations

import pytest

from stream_classifier.errors import ConfigError
from stream_classifier.json_pointer import MISSING, compile_pointer

# The document and the pointers of RFC 6901, section 5.
DOCUMENT = {"foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "e^f": 3, "g|h": 4, "i\\j": 5, 'k"l': 6, " ": 7, "m~n": 8}


@pytest.mark.parametrize(
    ("pointer", "found"),
    [
        ("", DOCUMENT),
        ("/foo", ["bar", "baz"]),
        ("/foo/0", "bar"),
        ("/", 0),
        ("/a~1b", 1),
        ("/c%d", 2),
        ("/e^f", 3),
        ("/g|h", 4),
        ("/i\\j", 5),
        ('/k"l', 6),
        ("/ ", 7),
        ("/m~0n", 8),
    ],
)
def test_the_examples_of_the_standard(pointer, found):
    assert compile_pointer(pointer, setting="text")(DOCUMENT) == found


def test_an_escaped_tilde_before_a_one_is_no_slash():
    assert compile_pointer("/~01", setting="text")({"~1": "found", "/": "not this"}) == "found"


def test_a_null_that_is_there_is_not_missing():
    assert compile_pointer("/a", setting="text")({"a": None}) is None


def test_numbers_are_names_in_an_object():
    assert compile_pointer("/0/1", setting="text")({"0": {"1": "found"}}) == "found"


@pytest.mark.parametrize(
    "pointer", ["/no", "/foo/2", "/foo/-", "/foo/01", "/foo/-1", "/foo/bar", "/foo/0/0", "/a~1b/0", "/foo/²"]
)
def test_what_is_not_there_is_missing(pointer):
    assert compile_pointer(pointer, setting="text")(DOCUMENT) is MISSING


@pytest.mark.parametrize("document", [None, 1, 1.5, True, "text", [], {}])
@pytest.mark.parametrize("pointer", ["/a", "/0", "/a/b", "/" + "9" * 5000])
def test_any_document_can_be_asked(document, pointer):
    assert compile_pointer(pointer, setting="text")(document) is MISSING


@pytest.mark.parametrize(
    ("pointer", "fix"),
    [("body", 'write "/body"'), ("a/b", 'write "/a/b"'), ("#/body", "starts with"), (" /body", "starts with")],
)
def test_a_pointer_without_its_slash_is_refused_with_the_fix(pointer, fix):
    with pytest.raises(ConfigError, match=fix):
        compile_pointer(pointer, setting="text")


@pytest.mark.parametrize("pointer", ["/a~", "/a~2b", "/~~0"])
def test_a_tilde_that_escapes_nothing_is_refused(pointer):
    with pytest.raises(ConfigError, match=r'passthrough\.x = .*written "~0"'):
        compile_pointer(pointer, setting="passthrough.x")
