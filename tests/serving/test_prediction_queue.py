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

from reviewloop.inference import TextModel
from reviewloop.records import Prediction
from serving.errors import ServingError, Unavailable
from serving.predictor import batching
from serving.predictor.batching import PredictionQueue, cheapest_batches
from tests.tiny_model import ENTITY_WORDS, WORDS, write_tiny_model

TEXTS = [" ".join(itertools.islice(itertools.cycle(WORDS[i:] + WORDS), 1 + (7 * i) % 50)) for i in range(40)]


@pytest.fixture(scope="module")
def model(model_dir: Path) -> TextModel:
    return TextModel(model_dir)


@pytest.fixture(scope="module")
def entity_model(tmp_path_factory: pytest.TempPathFactory) -> TextModel:
    return TextModel(write_tiny_model(tmp_path_factory.mktemp("entities"), task="token-classification"))


@pytest.fixture
def queue(model: TextModel) -> Iterator[PredictionQueue]:
    queue = PredictionQueue(threads=2, torch_threads=1)
    queue.swap(model)
    yield queue
    queue.stop()


def probabilities(prediction: Prediction) -> list[float]:
    return list(prediction.answer["probabilities"].values())


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
        alone = [(await queue.predict([text]))[0] for text in TEXTS]
        together = await queue.predict(TEXTS)
        crowded = await asyncio.gather(*(queue.predict([text]) for text in TEXTS))
        for one, two, (three,) in zip(alone, together, crowded, strict=True):
            for prediction in (two, three):
                np.testing.assert_allclose(probabilities(prediction), probabilities(one), atol=1e-2)

    asyncio.run(scenario())


def test_a_text_of_several_windows_is_answered_once_all_are_done(
    queue: PredictionQueue, entity_model: TextModel
) -> None:
    queue.swap(entity_model)
    long = " ".join(WORDS * 20)
    texts = [long, "great", f"{long} awful", "the film", *TEXTS]

    async def scenario() -> None:
        together = await queue.predict(texts)
        crowded = await asyncio.gather(*(queue.predict([text]) for text in texts))
        for text, one, (two,) in zip(texts, together, crowded, strict=True):
            for prediction in (one, two):
                found = [entity["text"] for entity in prediction.answer["entities"]]
                assert found == [word for word in text.split() if word in ENTITY_WORDS]
            assert one.score == pytest.approx(two.score, abs=1e-2)

    asyncio.run(scenario())


def test_a_swap_changes_what_follows_and_mixes_nothing(queue: PredictionQueue, tmp_path: Path) -> None:
    other = TextModel(write_tiny_model(tmp_path / "v0002", version="v0002", seed=5))
    expected = {m.version: {t: probabilities(m.predict([t])[0]) for t in TEXTS} for m in (queue.model, other) if m}

    async def scenario() -> set[str]:
        pending = [asyncio.create_task(queue.predict(TEXTS)) for _ in range(20)]
        await asyncio.sleep(0.02)
        queue.swap(other)
        pending += [asyncio.create_task(queue.predict(TEXTS)) for _ in range(3)]
        versions = set()
        for predictions in await asyncio.gather(*pending):
            for text, prediction in zip(TEXTS, predictions, strict=True):
                versions.add(prediction.model_version)
                wanted = expected[prediction.model_version][text]
                np.testing.assert_allclose(probabilities(prediction), wanted, atol=1e-2)
        assert all(p.model_version == "v0002" for p in await queue.predict(TEXTS))
        return versions

    assert asyncio.run(scenario()) == {"v0001", "v0002"}


def test_too_much_waiting_is_shed_and_a_cancelled_request_is_dropped(
    queue: PredictionQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "MAX_WAITING_TOKENS", 40_000)

    async def scenario() -> None:
        tasks = [asyncio.create_task(queue.predict(TEXTS)) for _ in range(200)]
        await asyncio.sleep(0)
        shed = [task for task in tasks if task.done() and isinstance(task.exception(), Unavailable)]
        waiting = [task for task in tasks if not task.done()]
        assert shed and waiting
        started = time.monotonic()
        for task in waiting:
            task.cancel()
        await queue.predict(["the movie was great"])
        # Long before all that was cancelled could have been computed.
        assert time.monotonic() - started < 1.0
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(scenario())


def test_all_windows_of_a_waiting_text_count(
    queue: PredictionQueue, entity_model: TextModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "MAX_WAITING_TOKENS", 10_000)
    text = "the film was great. " * 1000

    async def is_shed_behind_others() -> bool:
        first = asyncio.create_task(queue.predict([text] * 4))
        second = asyncio.create_task(queue.predict([text]))
        outcomes = await asyncio.gather(first, second, return_exceptions=True)
        assert isinstance(outcomes[0], list)
        return isinstance(outcomes[1], Unavailable)

    assert not asyncio.run(is_shed_behind_others())  # Only the beginning of each is read.
    queue.swap(entity_model)
    assert asyncio.run(is_shed_behind_others())


def test_without_a_model_it_says_so() -> None:
    queue = PredictionQueue(threads=1, torch_threads=1)
    try:
        with pytest.raises(Unavailable, match="no model"):
            asyncio.run(queue.predict(["a text"]))
    finally:
        queue.stop()


def test_a_failing_forward_pass_fails_its_requests_only(
    queue: PredictionQueue, model_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = TextModel(model_dir)
    broken._model = None  # What a device that is gone looks like.
    good = queue.model
    assert good is not None
    queue.swap(broken)
    with pytest.raises(ServingError, match="The log says how"):
        asyncio.run(queue.predict(["secret words"]))
    queue.swap(good)
    assert asyncio.run(queue.predict(["the movie"]))[0].model_version == "v0001"
    assert "TypeError" in caplog.text
    assert "secret" not in caplog.text
