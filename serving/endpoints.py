"""The inference endpoints, and how every error is answered: with a JSON sentence, and no text in the log.

They stand in front of KServe's own, which answer malformed bodies with 5xx or with the body itself, and log
stack traces for a client's mistakes.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from kserve.errors import InvalidInput, ModelNotFound, ModelNotReady, ServerNotReady
from kserve.protocol.dataplane import DataPlane
from prometheus_client import REGISTRY, Counter, exposition
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from serving.errors import InvalidRequest, RequestTooLarge, ServingError, Unavailable, UnknownModel
from serving.protocol import MAX_BODY_BYTES, TextRequest, encode_v1, parse_v1
from serving.protocol_v2 import encode_v2, parse_v2

MAX_HELD_BYTES = 8 * MAX_BODY_BYTES
"""Request bodies held at one time, over all requests; beyond that, requests are shed."""

PATIENCE_S = 0.25
"""How long a request takes before its client is watched for leaving; watching every one would cost time."""

CLIENT_LEFT = 499

Encode = Callable[[Any, TextRequest, Sequence[dict[str, Any]]], bytes]
"""Of the model, the request and its answers."""

ERRORS = Counter("reviewloop_request_errors", "Prediction requests answered with an error.", ["status"])

logger = logging.getLogger(__name__)


class InferenceEndpoints:
    """``:predict`` (V1) and ``/infer`` (V2) over the models of one server."""

    def __init__(self, dataplane: DataPlane) -> None:
        self._dataplane = dataplane
        self._held_bytes = 0

    def routes(self) -> list[Route]:
        """The routes, to be matched before KServe's own."""
        return [
            Route("/v1/models/{model_name}:predict", self.predict_v1, methods=["POST"]),
            Route("/v2/models/{model_name}/infer", self.predict_v2, methods=["POST"]),
            Route("/v1/models/{model_name}:explain", not_offered, methods=["POST"]),
            Route("/v2/models/{model_name}/versions/{version}/infer", not_offered, methods=["POST"]),
            Route("/metrics", metrics, methods=["GET"]),
        ]

    async def predict_v1(self, request: Request) -> Response:
        """Answer ``{"instances": [...]}`` with ``{"predictions": [...]}``."""
        return await self._answer(request, parse_v1, lambda model, texts, answers: encode_v1(answers, texts.ids))

    async def predict_v2(self, request: Request) -> Response:
        """Answer a BYTES tensor of texts with named tensors."""
        return await self._answer(
            request, parse_v2, lambda model, texts, answers: encode_v2(model.task, model.name, texts, answers)
        )

    async def _answer(self, request: Request, parse: Callable[[bytes], TextRequest], encode: Encode) -> Response:
        name = request.path_params["model_name"]
        try:
            model = await self._ready_model(name)
            async with self._body(request) as body, _cancelled_if_client_leaves(request):
                texts = parse(body)
                # Model.__call__ is KServe's lifecycle, with its latency histograms.
                predictions, _ = await model(texts, headers=request.headers)
                content = encode(model, texts, predictions)
        except ClientDisconnect:
            return Response(status_code=CLIENT_LEFT)
        except Exception as error:
            response = error_response(error)
            ERRORS.labels(response.status_code).inc()
            return response
        return Response(content, media_type="application/json")

    async def _ready_model(self, name: str) -> Any:
        model = self._dataplane.model_registry.get_model(name)
        if model is None:
            raise ModelNotFound(name)
        if not await model.healthy():
            raise ModelNotReady(name)
        return model

    @asynccontextmanager
    async def _body(self, request: Request) -> AsyncIterator[bytes]:
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > MAX_BODY_BYTES:
            raise _too_large(int(declared))
        size = 0
        chunks: list[bytes] = []
        try:
            async for chunk in request.stream():
                size += len(chunk)
                self._held_bytes += len(chunk)
                if size > MAX_BODY_BYTES:
                    raise _too_large(size)
                if self._held_bytes > MAX_HELD_BYTES:
                    raise Unavailable("The server holds as many requests as it can. Try again in a moment.")
                chunks.append(chunk)
            yield b"".join(chunks)
        finally:
            self._held_bytes -= size


def install(app: FastAPI, dataplane: DataPlane) -> None:
    """Put the endpoints and error answers into KServe's application, before KServe adds its own endpoints."""
    app.router.routes[:0] = InferenceEndpoints(dataplane).routes()


def install_error_handlers(app: FastAPI) -> None:
    """Replace KServe's handlers, which log stack traces and repeat what the client sent."""

    async def handle(request: Request, error: Exception) -> Response:
        return error_response(error)

    for kind in (*_KSERVE_ERRORS, ServingError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, handle)


def error_response(error: Exception) -> Response:
    """``{"error": sentence}`` with the status of ``error``, and Retry-After where waiting can help."""
    known = _as_serving_error(error)
    headers = {} if known.retry_after_s is None else {"Retry-After": str(known.retry_after_s)}
    return Response(orjson.dumps({"error": str(known)}), known.status, headers=headers, media_type="application/json")


async def not_offered(request: Request) -> Response:
    """Answer 404 for the parts of KServe's protocols that this server does not offer."""
    return error_response(
        InvalidRequest("This server offers predictions only: POST to :predict (V1) or /infer (V2).", status=404)
    )


async def metrics(request: Request) -> Response:
    """All Prometheus metrics of this process. Off the event loop, since collecting may read a database."""
    encoder, content_type = exposition.choose_encoder(request.headers.get("accept", ""))
    return Response(await asyncio.to_thread(encoder, REGISTRY), headers={"content-type": content_type})


def _as_serving_error(error: Exception) -> ServingError:
    if isinstance(error, ServingError):
        return error
    if isinstance(error, HTTPException):
        return InvalidRequest(f"{error.detail}.", status=error.status_code)
    if isinstance(error, RequestValidationError):
        return InvalidRequest("The request does not have the form that this path expects.")
    for kind, translate in _KSERVE_ERRORS.items():
        if isinstance(error, kind):
            return translate(error)
    # The message of an unforeseen error could hold a text: only its kind and place are logged.
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else "an unknown place"
    logger.error("Unforeseen %s at %s.", type(error).__name__, place)
    return ServingError("The server failed on this request. Its log says where.")


_KSERVE_ERRORS: dict[type[Exception], Callable[[Any], ServingError]] = {
    InvalidInput: lambda error: InvalidRequest(str(error)),
    ModelNotFound: lambda error: UnknownModel(f"{error} GET /v1/models lists those that this server has."),
    ModelNotReady: lambda error: Unavailable(
        f"Model {error.model_name} has no version to answer with yet. Try again in a moment."
    ),
    ServerNotReady: lambda error: Unavailable("The server is not ready yet. Try again in a moment."),
    NotImplementedError: lambda error: InvalidRequest("This server does not offer that.", status=404),
}


def _too_large(size: int) -> RequestTooLarge:
    return RequestTooLarge(
        f"The body has {size:,} bytes or more; at most {MAX_BODY_BYTES:,} are allowed. "
        "Split the texts over several requests."
    )


@asynccontextmanager
async def _cancelled_if_client_leaves(request: Request) -> AsyncIterator[None]:
    """Cancel what is inside when the client closes its connection, and raise ClientDisconnect then."""
    task = asyncio.current_task()
    watcher: asyncio.Task[None] | None = None
    left = False

    async def watch() -> None:
        nonlocal left
        while (await request.receive())["type"] != "http.disconnect":
            pass
        left = True
        if task is not None:
            task.cancel()

    def start_watching() -> None:
        nonlocal watcher
        watcher = asyncio.create_task(watch())

    timer = asyncio.get_running_loop().call_later(PATIENCE_S, start_watching)
    try:
        yield
    except asyncio.CancelledError:
        if left:
            raise ClientDisconnect from None
        raise
    finally:
        timer.cancel()
        if watcher is not None:
            watcher.cancel()
