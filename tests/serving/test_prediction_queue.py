"""The predictor's batches and queue, on a real tiny model."""

import asyncio
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reviewloop.inference import TextClassifier
from serving.errors import ServingError, Unavailable
from serving.predictor import batching
from serving.predictor.batching import PredictionQueue, cheapest_batches
from tests.tiny_model import WORDS, write_tiny_model

TEXTS = [" ".join(itertools.islice(itertools.cycle(WORDS[i:] + WORDS), 1 + (7 * i) % 50)) for i in range(40)]


@pytest.fixture(scope="module")
def classifier(model_dir: Path) -> TextClassifier:
    return TextClassifier(model_dir)


@pytest.fixture
def queue(classifier: TextClassifier) -> Iterator[PredictionQueue]:
    queue = PredictionQueue(threads=2, torch_threads=1)
    queue.swap(classifier)
    yield queue
    queue.stop()


@given(st.lists(st.integers(1, 128), max_size=60), st.integers(1, 300))
def test_batches_hold_every_index_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = cheapest_batches(lengths, budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= budget


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_batches_cost_least(lengths: list[int]) -> None:
    def cost(batches: list[list[int]]) -> int:
        return sum(max(lengths[i] for i in batch) * len(batch) + batching.FORWARD_OVERHEAD_TOKENS for batch in batches)

    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    positions = range(1, len(order))
    every_split = (
        [order[start:stop] for start, stop in itertools.pairwise((0, *cuts, len(order)))]
        for count in range(len(order))
        for cuts in itertools.combinations(positions, count)
    )
    assert cost(cheapest_batches(lengths)) == min(map(cost, every_split))


def test_an_answer_is_the_same_alone_and_in_a_batch(queue: PredictionQueue) -> None:
    async def scenario() -> None:
        alone = [(await queue.classify([text]))[0] for text in TEXTS]
        together = await queue.classify(TEXTS)
        crowded = await asyncio.gather(*(queue.classify([text]) for text in TEXTS))
        for one, two, (three,) in zip(alone, together, crowded, strict=True):
            values = [list(p.probabilities.values()) for p in (one, two, three)]
            np.testing.assert_allclose(values[1], values[0], atol=1e-2)
            np.testing.assert_allclose(values[2], values[0], atol=1e-2)

    asyncio.run(scenario())


def test_a_swap_changes_what_follows_and_mixes_nothing(queue: PredictionQueue, tmp_path: Path) -> None:
    other = TextClassifier(write_tiny_model(tmp_path / "v0002", version="v0002", seed=5))
    expected = {c.version: {text: c.probabilities([text])[0] for text in TEXTS} for c in (queue.classifier, other) if c}

    async def scenario() -> set[str]:
        pending = [asyncio.create_task(queue.classify(TEXTS)) for _ in range(20)]
        await asyncio.sleep(0.02)
        queue.swap(other)
        pending += [asyncio.create_task(queue.classify(TEXTS)) for _ in range(3)]
        versions = set()
        for predictions in await asyncio.gather(*pending):
            for text, prediction in zip(TEXTS, predictions, strict=True):
                versions.add(prediction.model_version)
                np.testing.assert_allclose(
                    list(prediction.probabilities.values()), expected[prediction.model_version][text], atol=1e-2
                )
        assert all(p.model_version == "v0002" for p in await queue.classify(TEXTS))
        return versions

    assert asyncio.run(scenario()) == {"v0001", "v0002"}


def test_too_much_waiting_is_shed_and_a_cancelled_request_is_dropped(
    queue: PredictionQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "MAX_WAITING_TOKENS", 40_000)

    async def scenario() -> None:
        tasks = [asyncio.create_task(queue.classify(TEXTS)) for _ in range(200)]
        await asyncio.sleep(0)
        shed = [task for task in tasks if task.done() and isinstance(task.exception(), Unavailable)]
        waiting = [task for task in tasks if not task.done()]
        assert shed and waiting
        started = time.monotonic()
        for task in waiting:
            task.cancel()
        await queue.classify(["the movie was great"])
        # Long before all that was cancelled could have been computed.
        assert time.monotonic() - started < 1.0
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(scenario())


def test_without_a_model_it_says_so() -> None:
    queue = PredictionQueue(threads=1, torch_threads=1)
    try:
        with pytest.raises(Unavailable, match="no model"):
            asyncio.run(queue.classify(["a text"]))
    finally:
        queue.stop()


def test_a_failing_forward_pass_fails_its_requests_only(
    queue: PredictionQueue, model_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = TextClassifier(model_dir)
    broken._model = None  # What a device that is gone looks like.
    good = queue.classifier
    assert good is not None
    queue.swap(broken)
    with pytest.raises(ServingError, match="The log says how"):
        asyncio.run(queue.classify(["secret words"]))
    queue.swap(good)
    assert asyncio.run(queue.classify(["the movie"]))[0].model_version == "v0001"
    assert "TypeError" in caplog.text
    assert "secret" not in caplog.text
