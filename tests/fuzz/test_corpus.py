"""The harnesses without the fuzzer: every input of the committed corpus, and a few hundred changes to each."""

from __future__ import annotations

import importlib
import random
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import CORPUS, HARNESSES, codecs
from tests.fuzz.mutations import json_behind, mutate

CHANGES = {"codecs": 3_000, "configuration": 800, "model_directory": 150}
"""What a second or two is enough for."""


@pytest.fixture(scope="module", params=HARNESSES)
def harness(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(f"tests.fuzz.{request.param}")


def inputs(harness: ModuleType) -> list[bytes]:
    name = harness.__name__.rpartition(".")[2]
    return [file.read_bytes() for file in sorted((CORPUS / name).iterdir())]


def test_every_input_of_the_corpus_passes(harness: ModuleType) -> None:
    found = inputs(harness)
    assert len(found) > 5
    assert max(map(len, found)) < 4_096
    for data in found:
        harness.fuzz(data)


def test_changes_to_the_corpus_pass(harness: ModuleType) -> None:
    found, chance = inputs(harness), random.Random(1)
    for _ in range(CHANGES[harness.__name__.rpartition(".")[2]]):
        data = chance.choice(found)
        for _ in range(chance.choice((1, 1, 2, 5))):
            data = mutate(data, chance, harness.STRUCTURE)
        harness.fuzz(data)


@given(st.binary(max_size=200))
def test_any_record_is_decoded_or_refused(data: bytes) -> None:
    codecs.fuzz(data)


def test_mutations_are_the_same_for_a_seed() -> None:
    first, again = (
        [mutate(b'\1{"a": [1, "x"]}', chance, json_behind(1)) for _ in range(50)]
        for chance in (random.Random(3), random.Random(3))
    )
    assert first == again
    assert len(set(first)) > 25
