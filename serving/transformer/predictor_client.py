"""The transformer's side of the line to the predictor."""

from typing import Any

import aiohttp
import orjson

from reviewloop.records import Prediction
from serving.errors import BadUpstream, InvalidRequest, Unavailable

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

    async def predict(self, texts: list[str]) -> list[Prediction]:
        """Predictions in the order of ``texts``.

        Raises:
            Unavailable: the predictor is down, overloaded, or has no model yet.
            InvalidRequest: the predictor refused a text, with its status and sentence.
            BadUpstream: it answered something else than predictions.
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
        return _predictions(answer, len(texts))

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


def _predictions(answer: bytes, expected: int) -> list[Prediction]:
    try:
        raw: list[dict[str, Any]] = orjson.loads(answer)["predictions"]
        predictions = [Prediction(**fields) for fields in raw]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise BadUpstream("The predictor's answer is not one of reviewloop's predictor.") from None
    if len(predictions) != expected:
        raise BadUpstream(f"The predictor answered {len(predictions)} predictions for {expected} texts.")
    return predictions
