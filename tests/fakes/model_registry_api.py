"""A Kubeflow Model Registry: what its client asks for, with state, refusing duplicates as the real one does."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.fakes.http_server import Answer, FakeHandler, serve

_ROOT = "/api/model_registry/v1"


class FakeModelRegistry:
    """Registered models, their versions and those's artifacts. The attributes say how the next requests fail."""

    def __init__(self) -> None:
        self.address = ""
        self.models: list[dict[str, Any]] = []
        self.versions: list[dict[str, Any]] = []
        self.artifacts: list[dict[str, Any]] = []
        self.down = False
        """Every request is answered 503."""
        self.fails_at = ""
        """Requests that would make something at a path that ends so are answered 500, without effect."""
        self.before_create: list[Any] = []
        """What happens just before each of the next creations: a concurrent run's doing."""
        self._lock = threading.RLock()

    def handle(self, method: str, path: str, query: dict[str, str], body: Any) -> Answer:
        """The answer to a request."""
        with self._lock:
            if self.down:
                return _error(503, "Service Unavailable")
            if method == "POST" and self.before_create:
                self.before_create.pop(0)()
            if method == "POST" and self.fails_at and path.endswith(self.fails_at):
                return _error(500, "database is not reachable")
            resource = path.removeprefix(_ROOT)
            if (method, resource) == ("GET", "/registered_models"):
                return Answer(200, {"items": self.models, "pageSize": 1, "size": len(self.models), "nextPageToken": ""})
            if (method, resource) == ("GET", "/registered_model"):
                return _one(m for m in self.models if m["name"] == query["name"])
            if (method, resource) == ("POST", "/registered_models"):
                return self._create(self.models, body, ("name",))
            if (method, resource) == ("GET", "/model_version"):
                parent = query["parentResourceId"]
                return _one(v for v in self.versions if (v["name"], v["registeredModelId"]) == (query["name"], parent))
            if (method, resource) == ("POST", "/model_versions"):
                return self._create(self.versions, body, ("name", "registeredModelId"))
            if (method, resource) == ("GET", "/model_artifact"):
                parent = query["parentResourceId"]
                return _one(a for a in self.artifacts if (a["name"], a["parent"]) == (query["name"], parent))
            if method == "POST" and (found := re.fullmatch(r"/model_versions/(\w+)/artifacts", resource)):
                return self._create(self.artifacts, {**body, "parent": found[1]}, ("name", "parent"))
            return _error(404, f"no such path: {method} {path}")

    def _create(self, kind: list[dict[str, Any]], body: dict[str, Any], unique: tuple[str, ...]) -> Answer:
        if any(all(other[field] == body[field] for field in unique) for other in kind):
            return _error(409, f"{body['name']} already exists")
        ids = len(self.models) + len(self.versions) + len(self.artifacts) + 1
        made = {**body, "id": str(ids), "createTimeSinceEpoch": "0", "lastUpdateTimeSinceEpoch": "0"}
        kind.append(made)
        return Answer(201, made)


@contextmanager
def model_registry(port: int = 0) -> Iterator[FakeModelRegistry]:
    """A server on the loopback interface."""
    fake = FakeModelRegistry()

    class Handler(FakeHandler):
        def respond(self, method: str, path: str, query: dict[str, str], body: Any) -> Answer:
            return fake.handle(method, path, query, body)

    with serve(Handler, port) as url:
        fake.address = url.replace("http://", "kubeflow://")
        yield fake


def _one(found: Iterator[dict[str, Any]]) -> Answer:
    match = next(found, None)
    return Answer(200, match) if match else _error(404, "not found")


def _error(status: int, message: str) -> Answer:
    return Answer(status, {"code": str(status), "message": message})
