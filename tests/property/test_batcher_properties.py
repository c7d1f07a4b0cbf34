"""The batcher never loses, repeats or reorders a text, never exceeds its budget, and blames only the texts at fault."""

from __future__ import annotations

import asyncio
import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_classifier.errors import ModelError, TransientError
from stream_classifier.model.decision import Decider
from stream_classifier.model.protocols import TokenBatch
from stream_classifier.records import result_record
from stream_classifier.stream.batcher import Batcher, Limits
from stream_classifier.stream.json_results import write_results
from stream_classifier.stream.recovery import Recovery

POISON = 13
MAX_TOKENS, MAX_RECORDS = 40, 5


class Model:
    """Answers each text with its first and its last token; fails on poison, and on more texts than memory allows."""

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.sizes: list[tuple[int, int]] = []
        self.broken = False

    def forward(self, batch: TokenBatch) -> np.ndarray:
        if self.broken or POISON in batch.input_ids_T:
            raise ValueError("poison")
        if len(batch) > self.memory:
            raise TransientError("out of memory")
        self.sizes.append((len(batch), len(batch) * int(batch.lengths_N.max())))
        starts, ends = batch.offsets[:-1], batch.offsets[1:] - 1
        return np.stack([batch.input_ids_T[starts], batch.input_ids_T[ends]], axis=1).astype(np.float32)


class Silent:
    def micro_batch(self, **counts: int) -> None: ...


def batcher_of(model: Model, thread: ThreadPoolExecutor) -> Batcher[Any]:
    probe = TokenBatch.from_lists([[1]], [False])
    recovery = Recovery(model.forward, num_labels=2, probe=probe)
    limits = Limits(max_tokens=MAX_TOKENS, max_records=MAX_RECORDS, max_wait_s=0.0)
    options = {"thread": thread, "limits": limits, "observer": Silent(), "on_hang": lambda: None}
    return Batcher(recovery, TokenBatch.concatenate, **options)


async def run(requests: list[list[list[int]]], model: Model) -> list[Any]:
    with ThreadPoolExecutor(1) as thread:
        batcher = batcher_of(model, thread)
        task = asyncio.ensure_future(batcher.run())
        works = [TokenBatch.from_lists(texts, [False] * len(texts)) for texts in requests]
        try:
            return await asyncio.wait_for(asyncio.gather(*(batcher.answer(work) for work in works)), 30)
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


texts = st.lists(st.integers(1, 30), min_size=1, max_size=60)
traffic = st.lists(st.lists(texts, max_size=12), min_size=1, max_size=6)


@settings(max_examples=60)
@given(traffic, st.integers(1, 6))
def test_every_text_gets_its_own_answer_within_the_budget(requests: list[list[list[int]]], memory: int) -> None:
    model = Model(memory)
    answers = asyncio.run(run(requests, model))
    for asked, answer in zip(requests, answers, strict=True):
        assert len(answer.scores_NL) == len(asked)
        assert set(answer.failures) == {row for row, ids in enumerate(asked) if POISON in ids}
        for row, ids in enumerate(asked):
            if POISON not in ids:
                assert answer.scores_NL[row].tolist() == [ids[0], ids[-1]]
    for num_texts, padded in model.sizes:
        assert num_texts <= MAX_RECORDS
        assert padded <= MAX_TOKENS or num_texts == 1


def test_a_broken_model_ends_the_run() -> None:
    async def scene() -> None:
        model = Model(10)
        model.broken = True
        with ThreadPoolExecutor(1) as thread:
            batcher = batcher_of(model, thread)
            task = asyncio.ensure_future(batcher.run())
            asking = asyncio.ensure_future(batcher.answer(TokenBatch.from_lists([[1], [2]], [False, False])))
            with pytest.raises(ModelError):
                await asyncio.wait_for(task, 30)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    asyncio.run(scene())


names = st.lists(st.text(min_size=1, max_size=8).filter(lambda s: s.isprintable()), min_size=2, max_size=5, unique=True)


@settings(max_examples=60)
@given(
    names, st.sampled_from(["free", "intent", "multi"]), st.integers(-1, 6), st.integers(0, 2**32 - 1), st.booleans()
)
def test_results_written_column_by_column_equal_those_made_one_at_a_time(
    labels: list[str], kind: str, top_k: int, seed: int, with_passthrough: bool
) -> None:
    draw = np.random.default_rng(seed)
    problem = "multi_label_classification" if kind == "multi" else "single_label_classification"
    task = "intent" if kind == "intent" else "free"
    raw = draw.random((7, len(labels)))
    probabilities = raw if kind == "multi" else raw / raw.sum(axis=1, keepdims=True)
    decider = Decider(tuple(labels), problem, task=task, threshold=0.5, top_k=top_k)
    predictions = decider.decide(probabilities, draw.random(7) < 0.3)
    model, passthrough = {"name": 'a "model"', "digest": None}, [{"id": i, "x": None} for i in range(7)]
    timestamps = [None, *range(1, 7)]
    written = write_results(
        predictions,
        classifier="c",
        task=task,
        model=model,
        topic="t",
        partition=3,
        offsets_N=list(range(10, 17)),
        timestamps_N=timestamps,
        passthrough_N=passthrough if with_passthrough else None,
    )
    for row, value in enumerate(written):
        source = {"topic": "t", "partition": 3, "offset": 10 + row, "timestamp": timestamps[row]}
        extra = passthrough[row] if with_passthrough else None
        expected = result_record(
            predictions[row].as_dict(), classifier="c", task=task, model=model, source=source, passthrough=extra
        )
        assert json.loads(value) == json.loads(json.dumps(expected))
        assert list(json.loads(value)) == list(expected)
