"""The transformer's side of the line to the predictor."""

from typing import Any

import aiohttp
import orjson

from reviewloop.records import Prediction
from reviewloop.task_types import TASK_TYPES, TaskType
from serving.errors import BadUpstream, InvalidRequest, Unavailable

CONNECT_TIMEOUT_S = 1.0
NO_PREDICTIONS = "The predictor's answer is not one of reviewloop's predictor."


class PredictorClient:
    """Predictions from one model of a KServe V1 predictor. Make and use it inside a running event loop."""

    def __init__(self, base_url: str, model_name: str, task: TaskType, timeout_s: float) -> None:
        """``task`` is the task type that the model must have.

        ``timeout_s`` bounds one HTTP request, including its wait in the predictor's queue.
        """
        self._url = f"{base_url}/v1/models/{model_name}:predict"
        self._task = task
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_TIMEOUT_S),
            headers={"Content-Type": "application/json"},
        )

    async def predict(self, texts: list[str]) -> list[Prediction]:
        """Predictions in the order of ``texts``.

        Raises:
            Unavailable: the predictor is down, overloaded, or has no model yet.
            InvalidRequest: the predictor refused a text, with its status and sentence.
            BadUpstream: it answered something else than predictions of the task type.
        """
        body = orjson.dumps({"instances": texts})
        try:
            try:
                status, answer = await self._post(body)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                if isinstance(error, aiohttp.ClientConnectorError):
                    raise
                # A kept-alive connection that the predictor closed meanwhile. Predicting twice does no harm.
                status, answer = await self._post(body)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(
                f"The predictor does not answer ({type(error).__name__}). Try again in a moment."
            ) from None
        if status != 200:
            raise _refusal(status, answer)
        return _predictions(self._task, answer, len(texts))

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def _post(self, body: bytes) -> tuple[int, bytes]:
        async with self._session.post(self._url, data=body) as response:
            return response.status, await response.read()


def _refusal(status: int, answer: bytes) -> Exception:
    try:
        reason = str(orjson.loads(answer)["error"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        reason = f"The predictor answered {status}."
    if 400 <= status < 500 and status not in (408, 429):
        return InvalidRequest(reason, status=status)
    return Unavailable(reason)


def _predictions(task: TaskType, answer: bytes, expected: int) -> list[Prediction]:
    try:
        predictions = [_prediction(fields) for fields in orjson.loads(answer)["predictions"]]
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
        raise BadUpstream(NO_PREDICTIONS) from None
    if len(predictions) != expected:
        raise BadUpstream(f"The predictor answered {len(predictions)} predictions for {expected} texts.")
    for prediction in predictions:
        if prediction.answer.keys() != task.answer_fields:
            raise _other_task(task, prediction.answer)
    return predictions


def _prediction(fields: dict[str, Any]) -> Prediction:
    routing = {name: fields.pop(name) for name in ("score", "model_version", "threshold")}
    return Prediction(answer=fields, **routing)


def _other_task(task: TaskType, answer: dict[str, Any]) -> BadUpstream:
    for name, kind in TASK_TYPES.items():
        if answer.keys() == kind.answer_fields:
            return BadUpstream(
                f"The predictor's model does {name}, but this transformer was started for {task.name}. "
                f"Start it with --task_type {name} instead."
            )
    return BadUpstream(NO_PREDICTIONS)
