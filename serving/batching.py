"""Work-conserving batching: what arrives while earlier batches are under way travels together."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from serving.errors import Unavailable

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(slots=True, eq=False)
class _Submission(Generic[Item, Result]):
    items: Sequence[Item]
    results: list[Result | None]
    answered: "asyncio.Future[None]"
    taken: int = 0
    missing: int = 0


class Batcher(Generic[Item, Result]):
    """Runs submitted items in batches, first come first served, with no timer.

    An idle batcher starts at once with what there is. While ``max_running`` batches are under way,
    submissions wait and are then taken together, so that batches grow with the load. A submission may be split
    over several batches; one that is cancelled before its turn is dropped.
    """

    def __init__(
        self,
        run: Callable[[list[Item]], Awaitable[Sequence[Result]]],
        *,
        max_running: int,
        max_batch: int,
        max_waiting: int,
        weight: Callable[[Item], int] = lambda item: 1,
        max_small_running: int | None = None,
        large_batch: int = 0,
    ) -> None:
        """``run`` maps a batch to as many results, in order.

        Where a small batch costs nearly as much as a large one, ``max_small_running`` keeps submissions from
        scattering: beyond that many batches under way, another one starts only if it weighs at least
        ``large_batch``.

        ``max_batch`` and ``max_waiting`` are sums of ``weight``. One item heavier than ``max_batch`` makes a
        batch of its own; one submission heavier than ``max_waiting`` is accepted while nothing else waits.
        """
        self._run = run
        self._max_running = max_running
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._weight = weight
        self._max_small_running = max_running if max_small_running is None else max_small_running
        self._large_batch = large_batch
        self._queue: deque[_Submission[Item, Result]] = deque()
        self._waiting = 0
        self._running: set[asyncio.Task[None]] = set()
        self._wakes = False

    async def submit(self, items: Sequence[Item]) -> list[Result]:
        """The results of ``items``, in order.

        Raises:
            Unavailable: too much waits already; nothing of this submission was run.
        """
        weight = sum(map(self._weight, items))
        if self._waiting and self._waiting + weight > self._max_waiting:
            raise Unavailable("The server has more requests waiting than it can take. Try again in a moment.")
        if not items:
            return []
        loop = asyncio.get_running_loop()
        submission = _Submission[Item, Result](items, [None] * len(items), loop.create_future(), 0, len(items))
        self._queue.append(submission)
        self._waiting += weight
        if not self._wakes:
            # Not at once: what else arrived in this turn of the loop joins the same batch.
            self._wakes = True
            loop.call_soon(self._start_batches)
        await submission.answered
        return submission.results  # type: ignore[return-value]

    async def drain(self) -> None:
        """Return once nothing waits and nothing runs."""
        while self._queue or self._running:
            self._start_batches()
            if self._running:
                await asyncio.wait(self._running)

    def _start_batches(self) -> None:
        self._wakes = False
        while self._queue and len(self._running) < self._max_running:
            if len(self._running) >= self._max_small_running and self._waiting < self._large_batch:
                return
            batch = self._take()
            if batch:
                task = asyncio.create_task(self._run_batch(batch))
                self._running.add(task)
                task.add_done_callback(self._finished)

    def _finished(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        self._start_batches()

    def _take(self) -> list[tuple[_Submission[Item, Result], int]]:
        batch: list[tuple[_Submission[Item, Result], int]] = []
        total = 0
        while self._queue:
            submission = self._queue[0]
            while submission.taken < len(submission.items):
                weight = self._weight(submission.items[submission.taken])
                if not submission.answered.done():
                    if batch and total + weight > self._max_batch:
                        return batch
                    batch.append((submission, submission.taken))
                    total += weight
                submission.taken += 1
                self._waiting -= weight
            self._queue.popleft()
        return batch

    async def _run_batch(self, batch: list[tuple[_Submission[Item, Result], int]]) -> None:
        try:
            results = await self._run([submission.items[index] for submission, index in batch])
        except Exception as error:  # Whatever it is, it belongs to those who wait for this batch.
            for submission in {submission for submission, _ in batch}:
                if not submission.answered.done():
                    submission.answered.set_exception(error)
            return
        for (submission, index), result in zip(batch, results, strict=True):
            submission.results[index] = result
            submission.missing -= 1
            if submission.missing == 0 and not submission.answered.done():
                submission.answered.set_result(None)
