"""The transformer as a KServe model: predictor's answers in, answers with their review decision out."""

import asyncio
from dataclasses import dataclass
from typing import Any

from kserve.predictor_config import PredictorConfig
from prometheus_client import REGISTRY

from serving.protocol import TextRequest, prediction_fields
from serving.review.hook import ReviewHook
from serving.review.metrics import OutboxCollector, count_predictions
from serving.review.outbox import Outbox
from serving.server import ServedModel
from serving.transformer.predictor_client import PredictorClient


@dataclass(frozen=True, slots=True)
class ReviewSettings:
    """Where review items wait, and the share of confident predictions reviewed too, in [0, 1]."""

    outbox_url: str
    audit_rate: float


class ReviewTransformer(ServedModel):
    """Answers with the predictor's predictions, after the outbox has taken those due for review.

    Each process opens its own connections, since KServe may hand the model to worker processes.
    """

    def __init__(self, name: str, predictor: PredictorConfig, review: ReviewSettings | None) -> None:
        """``review`` is None to answer without routing anything."""
        super().__init__(name)
        self._predictor_config = predictor
        self._review = review
        self._client: PredictorClient | None = None
        self._hook: ReviewHook | None = None
        self._stopped: asyncio.Event | None = None
        self.ready = True

    @property
    def predictor_config(self) -> PredictorConfig:
        """The predictor's address; KServe's own is a context variable, which worker processes do not inherit."""
        return self._predictor_config

    async def start_engine(self) -> None:
        """Stay until :meth:`stop_engine`, then finish what is under way."""
        self._open()
        self._stopped = asyncio.Event()
        await self._stopped.wait()
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
        predictions = await self._open().predict(payload.texts)
        count_predictions(predictions)
        answers = [prediction_fields(prediction) for prediction in predictions]
        if self._hook is not None:
            reviews = await self._hook.review(payload.texts, predictions)
            for answer, review in zip(answers, reviews, strict=True):
                answer["review"] = review.fields()
        return answers

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what belongs to this process: KServe sends the model to its worker processes."""
        return self.__dict__ | {"_client": None, "_hook": None, "_stopped": None}

    def _open(self) -> PredictorClient:
        if self._client is None:
            config = self._predictor_config
            timeout_s = float(config.predictor_request_timeout_seconds)
            self._client = PredictorClient(config.predictor_base_url, self.name, timeout_s)
            if self._review is not None:
                outbox = Outbox(self._review.outbox_url)
                self._hook = ReviewHook(outbox, self._review.audit_rate, self.name)
                REGISTRY.register(OutboxCollector(outbox))
        return self._client
