"""A real Label Studio's clients; object stores of both kinds: a directory, and S3 as a real HTTP server speaks it."""

import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from moto.server import ThreadedMotoServer

from reviewloop.label_studio import LabelStudioServer
from reviewloop.object_store import ObjectStore, open_store
from tests.conftest import LabelStudioProcess

BUCKET = "loop"
REVIEWERS = ["one@example.com", "two@example.com"]


@pytest.fixture(scope="session")
def server(label_studio: LabelStudioProcess) -> LabelStudioServer:
    """Label Studio as its administrator sees it."""
    return LabelStudioServer(label_studio.url, label_studio.api_key)


@pytest.fixture(scope="session")
def reviewers(server: LabelStudioServer) -> list[int]:
    """Two reviewer accounts."""
    return list(server.ensure_reviewers(REVIEWERS).values())


class RestApi:
    """Label Studio's REST API, asked directly."""

    def __init__(self, label_studio: LabelStudioProcess) -> None:
        self._url = label_studio.url
        self._options: Any = {"headers": {"Authorization": f"Token {label_studio.api_key}"}, "timeout": 30}

    def get(self, path: str, **parameters: Any) -> Any:
        """What is at ``path``."""
        return httpx.get(self._url + path, params=parameters, **self._options).raise_for_status().json()

    def post(self, path: str, body: Any) -> Any:
        """The answer to ``body``."""
        return httpx.post(self._url + path, json=body, **self._options).raise_for_status().json()

    def patch(self, path: str, body: Any) -> Any:
        """The answer to a change of what is at ``path``."""
        return httpx.patch(self._url + path, json=body, **self._options).raise_for_status().json()

    def delete(self, path: str) -> None:
        """Remove what is at ``path``."""
        httpx.delete(self._url + path, **self._options).raise_for_status()


@pytest.fixture(scope="session")
def api(label_studio: LabelStudioProcess) -> RestApi:
    """The server under test, asked directly."""
    return RestApi(label_studio)


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The URI of a bucket, with boto3's environment variables set for it."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    # S3 decides between competing conditional writes; moto would let both through.
    server._server.app = _one_request_at_a_time(server._server.app)
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        environment.setenv("AWS_ACCESS_KEY_ID", "any")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "any")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield f"s3://{BUCKET}"
    server.stop()


@pytest.fixture(params=["file", "s3"])
def store_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place, once in a directory and once in a bucket."""
    if request.param == "file":
        return (tmp_path / "store").as_uri()
    return f"{request.getfixturevalue('s3')}/{tmp_path.name}/store"


@pytest.fixture
def store(store_uri: str) -> ObjectStore:
    """The empty store at ``store_uri``."""
    return open_store(store_uri)


def _one_request_at_a_time(app: Any) -> Callable[..., Iterable[bytes]]:
    lock = threading.Lock()

    def serial(*arguments: Any) -> list[bytes]:
        with lock:
            return list(app(*arguments))

    return serial
