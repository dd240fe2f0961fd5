"""The work-conserving batcher."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.batching import Batcher
from serving.errors import Unavailable


class Doubler:
    """Doubles numbers, one batch a tick of the event loop, or when told to."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.running = 0
        self.most_running = 0
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, items: list[int]) -> Sequence[int]:
        self.batches.append(items)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        await self.go.wait()
        await asyncio.sleep(0)
        self.running -= 1
        if 13 in items:
            raise ValueError("thirteen")
        return [2 * item for item in items]


@settings(deadline=None)
@given(
    st.lists(st.lists(st.integers(14, 99), min_size=1, max_size=30), max_size=20),
    st.integers(1, 3),
    st.integers(1, 40),
)
def test_every_submission_gets_its_own_results(submissions: list[list[int]], max_running: int, max_batch: int) -> None:
    async def scenario() -> None:
        run = Doubler()
        batcher = Batcher(run, max_running=max_running, max_batch=max_batch, max_waiting=10_000)
        results = await asyncio.gather(*(batcher.submit(items) for items in submissions))
        assert results == [[2 * item for item in items] for items in submissions]
        # First come first served: the batches, one after the other, are what was submitted.
        assert [i for batch in run.batches for i in batch] == [i for items in submissions for i in items]
        assert all(len(batch) <= max_batch for batch in run.batches)
        assert run.most_running <= max_running

    asyncio.run(scenario())


def test_an_idle_batcher_starts_at_once_and_a_busy_one_gathers() -> None:
    async def scenario() -> None:
        run = Doubler()
        run.go.clear()
        batcher = Batcher(run, max_running=1, max_batch=100, max_waiting=1000)
        first = asyncio.create_task(batcher.submit([1]))
        await asyncio.sleep(0.01)
        assert run.batches == [[1]]
        others = [asyncio.create_task(batcher.submit([n])) for n in (2, 3, 4)]
        await asyncio.sleep(0.01)
        run.go.set()
        await asyncio.gather(first, *others)
        assert run.batches == [[1], [2, 3, 4]]

    asyncio.run(scenario())


def test_small_batches_wait_where_large_ones_start() -> None:
    async def scenario() -> None:
        run = Doubler()
        run.go.clear()
        batcher = Batcher(run, max_running=3, max_batch=100, max_waiting=1000, max_small_running=1, large_batch=5)
        tasks = []
        for items in ([1], [2, 3], [4, 5], [6], [7]):
            tasks.append(asyncio.create_task(batcher.submit(items)))
            await asyncio.sleep(0.01)
        assert run.batches == [[1], [2, 3, 4, 5, 6]]
        run.go.set()
        assert await asyncio.gather(*tasks) == [[2], [4, 6], [8, 10], [12], [14]]
        assert run.batches == [[1], [2, 3, 4, 5, 6], [7]]

    asyncio.run(scenario())


def test_a_cancelled_submission_is_not_run() -> None:
    async def scenario() -> None:
        run = Doubler()
        run.go.clear()
        batcher = Batcher(run, max_running=1, max_batch=100, max_waiting=3)
        first = asyncio.create_task(batcher.submit([1]))
        await asyncio.sleep(0.01)
        gone, stays = asyncio.create_task(batcher.submit([2, 2])), asyncio.create_task(batcher.submit([3]))
        await asyncio.sleep(0.01)
        gone.cancel()
        await asyncio.sleep(0.01)
        run.go.set()
        assert await stays == [6]
        await first
        assert run.batches == [[1], [3]]
        assert await batcher.submit([4, 5, 6]) == [8, 10, 12]  # Its room in the queue is free again.

    asyncio.run(scenario())


def test_a_full_queue_refuses_and_a_failure_reaches_only_its_batch() -> None:
    async def scenario() -> None:
        run = Doubler()
        run.go.clear()
        batcher = Batcher(run, max_running=1, max_batch=1, max_waiting=2)
        tasks = [asyncio.create_task(batcher.submit([n])) for n in (13, 2)]
        await asyncio.sleep(0.01)
        tasks.append(asyncio.create_task(batcher.submit([3])))
        await asyncio.sleep(0.01)
        with pytest.raises(Unavailable):
            await batcher.submit([4])
        run.go.set()
        failed, *others = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(failed, ValueError)
        assert others == [[4], [6]]
        await batcher.drain()

    asyncio.run(scenario())
