"""The transformer's side of the line to the predictor: concurrent requests share few HTTP requests."""

from typing import Any

import aiohttp
import orjson

from reviewloop.records import Prediction
from serving.batching import Batcher
from serving.errors import BadUpstream, InvalidRequest, Unavailable

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
CONNECT_TIMEOUT_S = 1.0


class PredictorClient:
    """Predictions from one model of a KServe V1 predictor. Make and use it inside a running event loop."""

    def __init__(self, base_url: str, model_name: str, timeout_s: float) -> None:
        """``timeout_s`` bounds one HTTP request, including its wait in the predictor's queue."""
        self._url = f"{base_url}/v1/models/{model_name}:predict"
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_TIMEOUT_S),
            headers={"Content-Type": "application/json"},
        )
        self._batches: Batcher[str, Prediction] = Batcher(
            self._request,
            max_running=MAX_REQUESTS_UNDER_WAY,
            max_batch=MAX_REQUEST_WEIGHT,
            max_waiting=MAX_WAITING_WEIGHT,
            weight=lambda text: TEXT_WEIGHT + len(text),
            max_small_running=MAX_SMALL_REQUESTS_UNDER_WAY,
            large_batch=LARGE_REQUEST_WEIGHT,
        )

    async def predict(self, texts: list[str]) -> list[Prediction]:
        """Predictions in the order of ``texts``.

        Raises:
            Unavailable: the predictor is down, overloaded, or has no model yet.
            InvalidRequest: the predictor refused a text, with its status and sentence.
            BadUpstream: it answered something else than predictions.
        """
        return await self._batches.submit(texts)

    async def close(self) -> None:
        """Finish what is under way and close the connections."""
        await self._batches.drain()
        await self._session.close()

    async def _request(self, texts: list[str]) -> list[Prediction]:
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
        return _predictions(answer, len(texts))

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


def _predictions(answer: bytes, expected: int) -> list[Prediction]:
    try:
        raw: list[dict[str, Any]] = orjson.loads(answer)["predictions"]
        predictions = [Prediction(**fields) for fields in raw]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise BadUpstream("The predictor's answer is not one of reviewloop's predictor.") from None
    if len(predictions) != expected:
        raise BadUpstream(f"The predictor answered {len(predictions)} predictions for {expected} texts.")
    return predictions
