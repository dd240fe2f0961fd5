"""KServe's model server as both serving processes run it: REST only, quiet, draining, with our endpoints."""

import argparse
import asyncio
import logging
import warnings
from typing import Any

import kserve
from fastapi import FastAPI
from fastapi.exceptions import FastAPIDeprecationWarning
from kserve.constants.constants import FASTAPI_APP_IMPORT_STRING
from kserve.errors import ModelNotFound
from kserve.logging import configure_logging
from kserve.model_server import parser as kserve_parser
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from kserve.protocol.rest.multiprocess.server import RESTServerMultiProcess
from kserve.protocol.rest.server import RESTServer
from kserve.protocol.rest.v2_datamodels import MetadataTensor

from reviewloop.task_types import TaskType
from reviewloop.task_types.base import TensorType
from serving.endpoints import install, install_error_handlers
from serving.errors import InvalidRequest
from serving.protocol import TextRequest
from serving.protocol_v2 import TEXT_INPUT, output_types

SHUTDOWN_GRACE_S = 30

LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "WARNING"},
    "loggers": {
        "serving": {"level": "INFO"},
        "kserve": {"level": "WARNING"},
        # A line for every request costs time, and tells nothing that /metrics does not.
        "kserve.trace": {"level": "WARNING"},
        "uvicorn": {"level": "INFO"},
        "uvicorn.access": {"level": "WARNING"},
    },
}

logger = logging.getLogger(__name__)


class ServedModel(kserve.Model):  # type: ignore[misc]
    """A text model behind the endpoints: not ready until it says so itself."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.engine = True

    @property
    def versions(self) -> list[str]:
        """The versions that answer at the moment, as far as this server knows."""
        return []

    @property
    def task(self) -> TaskType | None:
        """The task type of the answers; None while there is nothing to answer with."""
        raise NotImplementedError

    def start(self) -> None:
        """Leave ``ready`` alone: :meth:`start_engine` sets it."""

    async def reload(self) -> None:
        """Take up a new version.

        Raises:
            InvalidRequest: this server holds no model itself.
        """
        raise InvalidRequest("This server holds no model itself. Send the load request to the predictor.")

    def validate(self, payload: TextRequest) -> TextRequest:
        """The request as it is: the endpoints have checked it, and KServe's check is for its own request types."""
        return payload

    async def predict(self, payload: TextRequest, headers: Any = None) -> list[dict[str, Any]]:
        """One answer a text, in order."""
        raise NotImplementedError

    def get_input_types(self) -> list[dict[str, Any]]:
        """The V2 input: texts."""
        return [_metadata((TEXT_INPUT, "BYTES", [-1]))]

    def get_output_types(self) -> list[dict[str, Any]]:
        """The V2 outputs that every answer has; none while the task type is not known."""
        return [] if self.task is None else [_metadata(tensor) for tensor in output_types(self.task)]


class TextDataPlane(DataPlane):  # type: ignore[misc]
    """KServe's data plane, whose health and metadata tell about the model rather than about the process."""

    async def ready(self) -> bool:
        """Whether every model answers."""
        models = self.model_registry.get_models().values()
        return all([await model.healthy() for model in models]) and await super().ready()

    async def model_metadata(self, model_name: str) -> dict[str, Any]:
        """KServe's metadata with the versions that answer."""
        metadata: dict[str, Any] = await super().model_metadata(model_name)
        return metadata | {"versions": self.get_model_from_registry(model_name).versions}


class ReloadExtension(ModelRepositoryExtension):  # type: ignore[misc]
    """``POST /v2/repository/models/{name}/load`` loads the model directory again; nothing can be unloaded."""

    async def load(self, model_name: str) -> None:
        """Reload the model.

        Raises:
            ModelNotFound: there is no such model.
            Unavailable: the model could not be loaded; the present one goes on.
        """
        model = self._model_registry.get_model(model_name)
        if model is None:
            raise ModelNotFound(model_name)
        await model.reload()

    async def unload(self, model_name: str) -> None:
        """Refuse: a server without its model would only fail requests."""
        raise InvalidRequest("The model of this server cannot be unloaded. Stop the server instead.")


class QuietRESTServer(RESTServer):  # type: ignore[misc]
    """KServe's REST server on a chosen host, with our endpoints first and without a log line a request."""

    def listen_on(self, host: str) -> None:
        """Set the address to listen on; KServe knows only 0.0.0.0."""
        self.config.host = host
        self.config.access_log = False

    def _register_endpoints(self, app: FastAPI) -> None:
        install(app, self.dataplane)
        super()._register_endpoints(app)

    def _add_exception_handlers(self, app: FastAPI) -> None:
        install_error_handlers(app)

    def _add_middlewares(self, app: FastAPI) -> None:
        """None: KServe's would time every request for a log line that is off."""


class TextServer(kserve.ModelServer):  # type: ignore[misc]
    """Serves one :class:`ServedModel` until SIGTERM or SIGINT, then answers what has arrived and ends."""

    def __init__(self, args: argparse.Namespace) -> None:
        configure_logging(LOGGING)
        # KServe's application default; the deprecation is KServe's to heed.
        warnings.filterwarnings("ignore", category=FastAPIDeprecationWarning)
        super().__init__(http_port=args.http_port, workers=args.workers, enable_grpc=False)
        self._host: str = args.host
        self.dataplane = TextDataPlane(self.registered_models)
        self.model_repository_extension = ReloadExtension(self.registered_models)

    def start(self, models: list[ServedModel]) -> None:
        """Serve. Unlike KServe's, the server is alive before its models are ready."""
        for model in models:
            self.register_model(model)
            self.servers.append(model.start_engine())
        rest = QuietRESTServer(
            FASTAPI_APP_IMPORT_STRING,
            self.dataplane,
            self.model_repository_extension,
            self.http_port,
            workers=self.workers,
            grace_period=SHUTDOWN_GRACE_S,
            timeout_keep_alive=self.timeout_keep_alive,
            ssl_certfile=self.ssl_certfile,
            ssl_keyfile=self.ssl_keyfile,
        )
        rest.listen_on(self._host)
        if self.workers > 1:
            self._rest_multiprocess_server = RESTServerMultiProcess(
                FASTAPI_APP_IMPORT_STRING,
                self.dataplane,
                self.model_repository_extension,
                self.http_port,
                workers=self.workers,
                grace_period=SHUTDOWN_GRACE_S,
            )
            self._rest_multiprocess_server._rest_server = rest
            self.servers.append(self._rest_multiprocess_server.start())
        else:
            self._rest_server = rest
            self.servers.append(rest.start())
        self.register_signal_handler()
        with asyncio.Runner(loop_factory=rest.config.get_loop_factory()) as runner:
            runner.run(self._serve())

    def stop(self, sig: int) -> None:
        """End the engines and, if the signal came before the REST server listened for it, the REST server."""
        if self._rest_server is not None:
            self._rest_server._server.should_exit = True
        super().stop(sig)


def _metadata(tensor: TensorType) -> dict[str, Any]:
    name, datatype, shape = tensor
    metadata: dict[str, Any] = MetadataTensor(name=name, datatype=datatype, shape=shape).model_dump()
    return metadata


def argument_parser(program: str, description: str) -> argparse.ArgumentParser:
    """KServe's arguments, as its controller passes them, and the address to listen on."""
    parser = argparse.ArgumentParser(
        prog=program,
        description=description,
        parents=[kserve_parser],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--host", default="0.0.0.0", help="The address to listen on.")  # noqa: S104
    return parser
