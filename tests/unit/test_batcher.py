"""When the batcher runs what waits, and what becomes of those who wait when it ends or they give up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import numpy as np
import pytest

from stream_classifier.errors import ModelError
from stream_classifier.model.protocols import TokenBatch
from stream_classifier.stream.batcher import Batcher, Limits, TextList
from stream_classifier.stream.recovery import Recovery

FOR_EVER_S = 1e6


class Thread(ThreadPoolExecutor):
    """The inference thread; counts what it was given."""

    def __init__(self) -> None:
        super().__init__(1)
        self.num_given = 0

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        self.num_given += 1
        return super().submit(*args, **kwargs)


class Model:
    """Scores a text by its length. Waits for `gate`; is broken once `broken` is set."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.broken = False
        self.calls: list[list[str]] = []

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        self.gate.wait()
        if self.broken:
            raise ValueError
        self.calls.append(list(texts))
        return np.array([[float(len(text)), 0.0] for text in texts])


class Observer:
    def __init__(self) -> None:
        self.seen: list[dict[str, int]] = []

    def micro_batch(self, **counts: int) -> None:
        self.seen.append(counts)


class Scene:
    def __init__(self, batcher: Batcher[Any], task: asyncio.Future[None], thread: Thread, observer: Observer) -> None:
        self.batcher = batcher
        self.task = task
        self.thread = thread
        self.observer = observer

    def ask(self, *texts: str) -> asyncio.Future[Any]:
        return asyncio.ensure_future(self.batcher.answer(TextList(texts)))


@asynccontextmanager
async def running(
    call: Callable[[Any], np.ndarray],
    *,
    probe: Any = TextList(["probe"]),  # noqa: B008 - read only
    concatenate: Any = TextList.concatenate,
    on_hang: Callable[[], None] = lambda: None,
    **limits: Any,
) -> AsyncIterator[Scene]:
    observer = Observer()
    with Thread() as thread:
        batcher: Batcher[Any] = Batcher(
            Recovery(call, num_labels=2, probe=probe),
            concatenate,
            thread=thread,
            limits=Limits(**{"max_records": 4, "max_wait_s": FOR_EVER_S, **limits}),
            observer=observer,
            on_hang=on_hang,
        )
        task = asyncio.ensure_future(batcher.run())
        try:
            yield Scene(batcher, task, thread, observer)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def turns(number: int = 10) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


class TestDispatch:
    async def test_texts_wait_for_company_and_run_together_when_the_batch_is_full(self) -> None:
        model = Model()
        async with running(model) as scene:
            asked = [scene.ask("a", "bb"), scene.ask("ccc")]
            await turns()
            assert scene.thread.num_given == 0
            asked.append(scene.ask("dddd"))
            answers = await asyncio.gather(*asked)
        assert model.calls == [["a", "bb", "ccc", "dddd"]]
        assert [answer.scores_NL[:, 0].tolist() for answer in answers] == [[1.0, 2.0], [3.0], [4.0]]

    async def test_after_a_batch_the_next_texts_wait_again(self) -> None:
        async with running(Model()) as scene:
            await scene.ask("a", "b", "c", "d")
            waiting = scene.ask("e", "f", "g")
            await turns()
            assert scene.thread.num_given == 1
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    async def test_they_wait_no_longer_than_the_limit(self) -> None:
        model = Model()
        async with running(model, max_wait_s=0.001) as scene:
            await scene.ask("a")
        assert model.calls == [["a"]]

    async def test_a_full_budget_of_tokens_is_not_waited_for(self) -> None:
        def forward(batch: TokenBatch) -> np.ndarray:
            return np.zeros((len(batch), 2))

        def tokens(*lengths: int) -> TokenBatch:
            return TokenBatch.from_lists([range(length) for length in lengths], [False] * len(lengths))

        given = {"probe": tokens(1), "concatenate": TokenBatch.concatenate, "max_tokens": 20, "max_records": 100}
        async with running(forward, **given) as scene:
            first = asyncio.ensure_future(scene.batcher.answer(tokens(9, 9)))
            await turns()
            assert scene.thread.num_given == 0
            await asyncio.gather(first, scene.batcher.answer(tokens(8)))
        seen = scene.observer.seen
        assert (sum(batch["records"] for batch in seen), sum(batch["tokens"] for batch in seen)) == (3, 26)
        assert all(batch["tokens"] <= batch["padded_tokens"] <= 20 for batch in seen)

    async def test_no_more_than_two_micro_batches_are_given_to_the_thread(self) -> None:
        model = Model()
        model.gate.clear()
        async with running(model) as scene:
            asked = scene.ask(*(f"text {i}" for i in range(20)))
            await turns(50)
            assert scene.thread.num_given == 2
            model.gate.set()
            assert len((await asked).scores_NL) == 20

    @pytest.mark.parametrize(("full_s", "planned"), [(None, 32), (1.9, 8), (0.5, 32), (0.001, 60)])
    async def test_what_is_planned_at_once_takes_the_model_some_seconds(
        self, full_s: float | None, planned: int
    ) -> None:
        model = Model()
        model.gate.clear()
        async with running(model) as scene:
            scene.batcher._full_s = full_s  # what a micro-batch of four texts has taken so far
            asked = [scene.ask(f"text {i}") for i in range(60)]
            await turns(5)
            assert 60 - len(scene.batcher._waiting) == planned
            model.gate.set()
            await asyncio.gather(*asked)

    async def test_no_texts_are_answered_at_once(self) -> None:
        async with running(Model()) as scene:
            assert (await scene.ask()).scores_NL.shape == (0, 2)
        assert scene.thread.num_given == 0


class TestWhoeverWaits:
    async def test_one_that_gives_up_is_not_run(self) -> None:
        model = Model()
        async with running(model) as scene:
            given_up, kept = scene.ask("a", "b"), scene.ask("c")
            await turns()
            given_up.cancel()
            await turns()
            assert scene.thread.num_given == 0
            await asyncio.gather(kept, scene.ask("d", "e", "f"))
        assert model.calls == [["c", "d", "e", "f"]]

    async def test_one_that_gives_up_while_the_model_runs_takes_no_other_along(self) -> None:
        model = Model()
        model.gate.clear()
        async with running(model) as scene:
            given_up, kept = scene.ask("a", "b"), scene.ask("cc", "dd")
            await turns()
            given_up.cancel()
            await turns()
            model.gate.set()
            assert (await kept).scores_NL[:, 0].tolist() == [2.0, 2.0]

    async def test_all_get_the_failure_that_ended_it_those_behind_and_those_after_too(self) -> None:
        model = Model()
        model.broken = True
        async with running(model) as scene:
            asked = [scene.ask("a", "b", "c", "d"), scene.ask("e"), scene.ask("f")]
            failures = await asyncio.gather(*asked, return_exceptions=True)
            failures.append((await asyncio.gather(scene.ask("late"), return_exceptions=True))[0])
            with pytest.raises(ModelError):
                await scene.task
        assert [type(failure) for failure in failures] == [ModelError] * 4

    async def test_all_are_cancelled_when_it_is(self) -> None:
        async with running(Model()) as scene:
            waiting = scene.ask("a")
            await turns()
            scene.task.cancel()
            await asyncio.gather(scene.task, return_exceptions=True)
            late = scene.ask("late")
            await asyncio.gather(waiting, late, return_exceptions=True)
            assert waiting.cancelled()
            assert late.cancelled()


class TestHangs:
    async def test_a_call_that_outlasts_the_limit_is_reported(self) -> None:
        model, hung = Model(), asyncio.Event()
        model.gate.clear()
        async with running(model, on_hang=hung.set, timeout_s=0.01) as scene:
            watching = asyncio.ensure_future(scene.batcher.watch())
            asked = scene.ask("a", "b", "c", "d")
            await hung.wait()
            model.gate.set()
            await asked
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def test_one_that_is_within_it_and_a_model_that_is_idle_are_not(self) -> None:
        """What the watch sees: nothing runs, two calls that began just now, one that began long ago."""
        seen: list[float | None] = []

        class Clock(Recovery[TextList]):
            @property  # type: ignore[override]  # an attribute there
            def pass_started(self) -> float | None:
                seen.append([None, monotonic() + 60, monotonic() + 60, monotonic() - 60][len(seen)])
                return seen[-1]

            @pass_started.setter
            def pass_started(self, value: float | None) -> None: ...

        hung = asyncio.Event()
        recovery = Clock(Model(), num_labels=2, probe=TextList(["probe"]))
        with Thread() as thread:
            batcher = Batcher(
                recovery,
                TextList.concatenate,
                thread=thread,
                limits=Limits(timeout_s=0.01),
                observer=Observer(),
                on_hang=hung.set,
            )
            watching = asyncio.ensure_future(batcher.watch())
            await hung.wait()
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        assert len(seen) == 4
