"""The review hook: what the transformer does with a prediction before it answers."""

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from reviewloop.records import Prediction, ReviewItem, Routing
from reviewloop.text_keys import content_key
from serving.batching import Batcher
from serving.errors import Unavailable
from serving.review.metrics import FAILURES, count_routings
from serving.review.outbox import Outbox, OutboxError
from serving.review.routing import route

COMMIT_TIMEOUT_S = 2.0
"""How long an answer waits for its commit. A prediction is never held up longer by the review queue."""

MAX_ITEMS_PER_COMMIT = 500
MAX_ITEMS_WAITING = 20_000

MAX_CHARACTERS_ON_LOOP = 100_000
"""Normalising and hashing more than this would hold up other requests: it goes to a thread."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Review:
    """What became of one prediction. ``error`` says why one that was due for review is not routed."""

    routing: Routing
    key: str
    error: str | None = None

    def fields(self) -> dict[str, Any]:
        """The ``review`` part of an answer."""
        answer = {"routed": self.routing.routed, "reason": self.routing.reason, "key": self.key}
        if self.error is not None:
            answer |= {"routed": False, "error": self.error}
        return answer


class ReviewHook:
    """Routes predictions and commits those that are due for review to the outbox.

    All items that wait at the same time share one commit, off the event loop.
    """

    def __init__(self, outbox: Outbox, audit_rate: float, model_name: str) -> None:
        """``audit_rate`` is the share of confident predictions reviewed too, in [0, 1]."""
        self._outbox = outbox
        self._audit_rate = audit_rate
        self._model_name = model_name
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="outbox")
        self._writes_fail = False
        self._commits: Batcher[ReviewItem, None] = Batcher(
            self._commit, max_running=1, max_batch=MAX_ITEMS_PER_COMMIT, max_waiting=MAX_ITEMS_WAITING
        )

    async def review(self, texts: Sequence[str], predictions: Sequence[Prediction]) -> list[Review]:
        """Decide on each prediction, and return once the routed ones are committed, or could not be."""
        if sum(map(len, texts)) > MAX_CHARACTERS_ON_LOOP:
            reviews = await asyncio.to_thread(self._route, texts, predictions)
        else:
            reviews = self._route(texts, predictions)
        due = [number for number, review in enumerate(reviews) if review.routing.routed]
        if not due:
            return reviews
        now = datetime.now(UTC).isoformat()
        items = [_item(texts[number], predictions[number], reviews[number], now) for number in due]
        error = await self._submit(items)
        if error is None:
            count_routings(items)
            return reviews
        FAILURES.inc(len(items))
        return [Review(r.routing, r.key, error) if r.routing.routed else r for r in reviews]

    async def close(self) -> None:
        """Finish the commits under way."""
        await self._commits.drain()
        self._thread.shutdown()

    def _route(self, texts: Sequence[str], predictions: Sequence[Prediction]) -> list[Review]:
        keys = [content_key(text) for text in texts]
        return [
            Review(route(prediction, key, self._audit_rate, self._model_name), key)
            for key, prediction in zip(keys, predictions, strict=True)
        ]

    async def _submit(self, items: list[ReviewItem]) -> str | None:
        try:
            async with asyncio.timeout(COMMIT_TIMEOUT_S):
                await self._commits.submit(items)
        except OutboxError as error:
            problem = str(error)
        except TimeoutError:
            problem = f"The review outbox took longer than {COMMIT_TIMEOUT_S:g} s."
        except Unavailable:
            problem = "The review outbox is too far behind."
        else:
            if self._writes_fail:
                logger.info("The review outbox takes items again.")
            self._writes_fail = False
            return None
        if not self._writes_fail:
            logger.error("%s Predictions are answered, but not routed to review.", problem)
        self._writes_fail = True
        return problem

    async def _commit(self, items: list[ReviewItem]) -> Sequence[None]:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._outbox.add, items)
        return [None] * len(items)


def _item(text: str, prediction: Prediction, review: Review, now: str) -> ReviewItem:
    reason = review.routing.reason
    if reason is None:
        raise ValueError("only a routed prediction makes a review item")
    return ReviewItem(
        key=review.key,
        text=text,
        reason=reason,
        confidence=prediction.score,
        propensity=review.routing.propensity,
        model_version=prediction.model_version,
        prediction=prediction.probabilities,
        routed_at=now,
    )
