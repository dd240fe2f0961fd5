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
from serving.review.metrics import FAILURES, count_routings
from serving.review.outbox import Outbox, OutboxError
from serving.review.routing import route

COMMIT_TIMEOUT_S = 2.0
"""How long an answer waits for its commit. A prediction is never held up longer by the review queue."""

TOGETHER_S = 0.005
"""How long the others of a batch wait for it. Clients that are answered together ask together again, which makes
full batches: the commit, of about a millisecond, costs them less than scattered batches would.
"""

MAX_CHARACTERS_ON_LOOP = 100_000
"""Normalising and hashing more than this would hold up other requests: it goes to a thread."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Review:
    """What was decided on one prediction. ``error`` says why one that was due for review is not routed."""

    routing: Routing
    key: str
    error: str | None = None
    commit: "asyncio.Task[str | None] | None" = None
    """A commit that is still under way; it ends with the error, if any."""

    async def outcome(self) -> dict[str, Any]:
        """The ``review`` part of an answer, once it is known whether the item was committed."""
        # Others wait for the same commit: a client that leaves must not cancel it.
        error = self.error if self.commit is None else await asyncio.shield(self.commit)
        answer = {"routed": self.routing.routed, "reason": self.routing.reason, "key": self.key}
        if error is not None:
            answer |= {"routed": False, "error": error}
        return answer


class ReviewHook:
    """Routes predictions and commits those that are due for review to the outbox, off the event loop.

    All items of a batch of predictions share one commit.
    """

    def __init__(self, outbox: Outbox, audit_rate: float, model_name: str) -> None:
        """``audit_rate`` is the share of confident predictions reviewed too, in [0, 1]."""
        self._outbox = outbox
        self._audit_rate = audit_rate
        self._model_name = model_name
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="outbox")
        self._writes_fail = False

    async def review(self, texts: Sequence[str], predictions: Sequence[Prediction]) -> list[Review]:
        """Decide on each prediction and start the commit of those that are due for review."""
        if sum(map(len, texts)) > MAX_CHARACTERS_ON_LOOP:
            decisions = await asyncio.to_thread(self._route, texts, predictions)
        else:
            decisions = self._route(texts, predictions)
        now = datetime.now(UTC).isoformat()
        items = [
            _item(text, prediction, routing, key, now)
            for text, prediction, (routing, key) in zip(texts, predictions, decisions, strict=True)
            if routing.routed
        ]
        error, commit = None, None
        if items:
            writing = asyncio.get_running_loop().run_in_executor(self._thread, self._outbox.add, items)
            await asyncio.wait((writing,), timeout=TOGETHER_S)
            if writing.done():
                error = await self._committed(writing, items)
            else:
                commit = asyncio.create_task(self._committed(writing, items))
        return [
            Review(routing, key, error, commit) if routing.routed else Review(routing, key)
            for routing, key in decisions
        ]

    async def close(self) -> None:
        """Finish the commits under way."""
        await asyncio.to_thread(self._thread.shutdown)

    def _route(self, texts: Sequence[str], predictions: Sequence[Prediction]) -> list[tuple[Routing, str]]:
        keys = [content_key(text) for text in texts]
        return [
            (route(prediction, key, self._audit_rate, self._model_name), key)
            for key, prediction in zip(keys, predictions, strict=True)
        ]

    async def _committed(self, writing: "asyncio.Future[None]", items: Sequence[ReviewItem]) -> str | None:
        """Why ``items`` are not in the outbox, None if they are."""
        try:
            async with asyncio.timeout(COMMIT_TIMEOUT_S):
                await writing
        except OutboxError as error:
            problem = str(error)
        except TimeoutError:
            problem = f"The review outbox took longer than {COMMIT_TIMEOUT_S:g} s."
        else:
            if self._writes_fail:
                logger.info("The review outbox takes items again.")
            self._writes_fail = False
            count_routings(items)
            return None
        FAILURES.inc(len(items))
        if not self._writes_fail:
            logger.error("%s Predictions are answered, but not routed to review.", problem)
        self._writes_fail = True
        return problem


def _item(text: str, prediction: Prediction, routing: Routing, key: str, now: str) -> ReviewItem:
    if routing.reason is None:
        raise ValueError("only a routed prediction makes a review item")
    return ReviewItem(
        key=key,
        text=text,
        reason=routing.reason,
        confidence=prediction.score,
        propensity=routing.propensity,
        model_version=prediction.model_version,
        prediction=prediction.answer,
        routed_at=now,
    )
