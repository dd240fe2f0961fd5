"""The transformer as a KServe model: predictor's answers in, answers with their review decision out."""

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Any

from kserve.predictor_config import PredictorConfig
from prometheus_client import REGISTRY

from reviewloop.records import Prediction
from reviewloop.task_types import TaskType
from serving.batching import Batcher
from serving.protocol import TextRequest, prediction_fields
from serving.review.hook import Review, ReviewHook
from serving.review.metrics import OutboxCollector, count_predictions
from serving.review.outbox import Outbox
from serving.server import ServedModel
from serving.transformer.predictor_client import PredictorClient

MAX_REQUESTS_UNDER_WAY = 4
MAX_SMALL_REQUESTS_UNDER_WAY = 2
"""Two keep the predictor busy: one is computed while the next travels. A request costs both servers as much as a
dozen texts in it, so more of them are worth while only when they are large.
"""

TEXT_WEIGHT = 1_000
"""What one text weighs beside its characters, so that a request is limited in both."""

LARGE_REQUEST_WEIGHT = 16 * TEXT_WEIGHT
MAX_REQUEST_WEIGHT = 256 * TEXT_WEIGHT
MAX_WAITING_WEIGHT = 64 * MAX_REQUEST_WEIGHT


@dataclass(frozen=True, slots=True)
class ReviewSettings:
    """Where review items wait, and the share of confident predictions reviewed too, in [0, 1]."""

    outbox_url: str
    audit_rate: float


class ReviewTransformer(ServedModel):
    """Answers with the predictor's predictions, after the outbox has taken those due for review.

    Concurrent requests share few requests to the predictor and few commits. Each process opens its own
    connections, since KServe may hand the model to worker processes.
    """

    def __init__(self, name: str, task: TaskType, predictor: PredictorConfig, review: ReviewSettings | None) -> None:
        """``review`` is None to answer without routing anything."""
        super().__init__(name)
        self._task = task
        self._predictor_config = predictor
        self._review = review
        self._client: PredictorClient | None = None
        self._hook: ReviewHook | None = None
        self._answers: Batcher[str, tuple[Prediction, Review | None]] | None = None
        self._stopped: asyncio.Event | None = None
        self.ready = True

    @property
    def predictor_config(self) -> PredictorConfig:
        """The predictor's address; KServe's own is a context variable, which worker processes do not inherit."""
        return self._predictor_config

    @property
    def task(self) -> TaskType:
        """The task type that the predictor's model must have."""
        return self._task

    async def start_engine(self) -> None:
        """Stay until :meth:`stop_engine`, then finish what is under way."""
        answers = self._open()
        self._stopped = asyncio.Event()
        await self._stopped.wait()
        await answers.drain()
        if self._client is not None:
            await self._client.close()
        if self._hook is not None:
            await self._hook.close()

    def stop_engine(self) -> None:
        super().stop_engine()
        if self._stopped is not None:
            self._stopped.set()

    async def predict(self, payload: TextRequest, headers: Any = None) -> list[dict[str, Any]]:
        """One answer a text: the prediction and, where review is on, what was decided."""
        answers = []
        for prediction, review in await self._open().submit(payload.texts):
            answer = prediction_fields(prediction)
            if review is not None:
                answer["review"] = await review.outcome()
            answers.append(answer)
        return answers

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what belongs to this process: KServe sends the model to its worker processes."""
        return self.__dict__ | {"_client": None, "_hook": None, "_answers": None, "_stopped": None}

    def _open(self) -> Batcher[str, tuple[Prediction, Review | None]]:
        if self._answers is None:
            config = self._predictor_config
            timeout_s = float(config.predictor_request_timeout_seconds)
            self._client = PredictorClient(config.predictor_base_url, self.name, self._task, timeout_s)
            if self._review is not None:
                outbox = Outbox(self._review.outbox_url)
                self._hook = ReviewHook(outbox, self._review.audit_rate, self.name)
                REGISTRY.register(OutboxCollector(outbox))
            self._answers = Batcher(
                partial(_answer, self._task, self._client, self._hook),
                max_running=MAX_REQUESTS_UNDER_WAY,
                max_batch=MAX_REQUEST_WEIGHT,
                max_waiting=MAX_WAITING_WEIGHT,
                weight=lambda text: TEXT_WEIGHT + len(text),
                max_small_running=MAX_SMALL_REQUESTS_UNDER_WAY,
                large_batch=LARGE_REQUEST_WEIGHT,
            )
        return self._answers


async def _answer(
    task: TaskType, client: PredictorClient, hook: ReviewHook | None, texts: list[str]
) -> list[tuple[Prediction, Review | None]]:
    predictions = await client.predict(texts)
    count_predictions(task, predictions)
    if hook is None:
        return [(prediction, None) for prediction in predictions]
    return list(zip(predictions, await hook.review(texts, predictions), strict=True))
