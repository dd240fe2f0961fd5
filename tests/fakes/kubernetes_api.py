"""A Kubernetes API with KServe: InferenceServices as a real server keeps them, and a controller that serves them.

It refuses what the real one refuses: unknown fields, missing permissions, stale versions, another content type than a
patch's, a changed deployment mode. Server-side apply keeps who owns which field.
"""

import copy
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kserve.models
import yaml
from kubernetes.client import models as core_models

from tests.fakes.http_server import Answer, FakeHandler, serve

Path_ = tuple[str, ...]
Object = dict[str, Any]

MODE = "serving.kserve.io/deploymentMode"
_SERVER_FIELDS = {
    ("metadata", name)
    for name in ("name", "namespace", "resourceVersion", "uid", "generation", "creationTimestamp", "managedFields")
}
_TICK_S = 0.02


@dataclass
class Model:
    """What is at a storage URI: how it comes up, and what it answers."""

    version: str
    answer: Callable[[str], Object] = lambda text: {"probabilities": {"positive": 0.9, "negative": 0.1}}
    ready_after: int | None = 3
    """Ticks until it is ready; None for never. A tick passes at each request, and while somebody watches."""
    message: str = "containers with unready status: [kserve-container]: Back-off 5m0s restarting failed container"
    """Of the condition, while it is not ready."""
    failure: str = ""
    """Why it could not be loaded, for one that never is."""


@dataclass
class _Revision:
    name: str
    uri: str | None
    ticks: int = 0
    ready: bool = False


_PROXIED = re.compile(r"/api/v1/namespaces/([^/]+)/services/http:([^/]+)-predictor:80/proxy/v1/models/([^/]+):predict")


@dataclass
class _Service:
    object: Object
    owners: dict[tuple[str, str], set[Path_]] = field(default_factory=dict)
    revisions: list[_Revision] = field(default_factory=list)
    rolled_out: _Revision | None = None
    serving: _Revision | None = None
    """In Standard mode."""
    leaving: list[_Revision] = field(default_factory=list)
    """Who answers the next requests although it has been replaced."""
    requests: int = 0
    lag: int = 0
    seen: int = 0


class FakeKubernetesApi:
    """The state of the server. The attributes say what it allows, and how it fails."""

    def __init__(self, namespace: str = "reviewloop") -> None:
        self.url = ""
        self.namespace = namespace
        self.accounts: dict[str, set[str]] = {"pipeline": {"get", "list", "watch", "create", "patch"}}
        """The verbs that each bearer token may use on InferenceServices."""
        self.models: dict[str, Model] = {}
        """By storage URI."""
        self.installed = True
        """Whether KServe is."""
        self.failures: list[int] = []
        """Statuses with which the next requests are answered, without effect."""
        self.lost_answers = 0
        """So many writes take effect, and are answered 500."""
        self.before_write: list[Callable[[], None]] = []
        """What happens just before each of the next writes."""
        self.lag = 2
        """Ticks until the controller sees a change; until then the status is the old one's."""
        self.stays_ready = False
        """In Standard mode, whether a service counts as ready while it rolls, as before KServe 0.16."""
        self.default_mode: str | None = None
        """What the status says instead of the annotation's mode, as KServe 0.15 does where it does not know that."""
        self.lingering = 0
        """How many requests the old pods still answer after the new ones are ready, in Standard mode."""
        self.may_proxy = True
        """Whether requests to services may go through the server."""
        self.verbs: list[str] = []
        """The verb of every request that was allowed, in order."""
        self.patch_types: list[str] = []
        """The content type of every patch."""
        self.traffic: list[tuple[int | None, str]] = []
        """The canary share at each answered prediction, and the version that answered."""
        self._services: dict[str, _Service] = {}
        self._version = 100
        self._events: list[tuple[int, Object]] = []
        self._lock = threading.RLock()

    # What tests look at and do.

    def service(self, name: str = "sentiment") -> Object:
        """An InferenceService as it is now."""
        with self._lock:
            return copy.deepcopy(self._services[name].object)

    def exists(self, name: str = "sentiment") -> bool:
        """Whether there is an InferenceService of that name."""
        return name in self._services

    def kubectl_apply(self, manifest: Object) -> None:
        """What `kubectl apply` does: create, or replace what is in the manifest."""
        with self._lock:
            name = manifest["metadata"]["name"]
            if name not in self._services:
                self._create(manifest, "kubectl-client-side-apply")
                return
            self._merge(name, manifest, "kubectl-client-side-apply")

    def move(self, uri: str, name: str = "sentiment") -> None:
        """Someone else sets another storage URI."""
        with self._lock:
            self._merge(name, {"spec": {"predictor": {"model": {"storageUri": uri}}}}, "someone-else")

    def delete(self, name: str = "sentiment") -> None:
        """Someone else deletes it."""
        with self._lock:
            gone = self._services.pop(name)
            self._version += 1
            self._events.append((self._version, {"type": "DELETED", "object": gone.object}))

    def write_kubeconfig(self, path: Path, token: str = "pipeline") -> Path:
        """A kubeconfig for this server."""
        entry = {"cluster": "fake", "user": "user"}
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
                    "users": [{"name": "user", "user": {"token": token}}],
                    "contexts": [{"name": "context", "context": entry}],
                    "current-context": "context",
                }
            ),
            encoding="utf-8",
        )
        return path

    # The API.

    def handle(self, method: str, path: str, query: dict[str, str], body: Any, headers: Any) -> Answer:
        """The answer to a request."""
        with self._lock:
            self._tick()
            parts = path.strip("/").split("/")
            if proxied := _PROXIED.fullmatch(path):
                return self._proxy(proxied, body, headers)
            if parts[:6] != ["apis", "serving.kserve.io", "v1beta1", "namespaces", self.namespace, "inferenceservices"]:
                return _status(404, "NotFound", "the server could not find the requested resource")
            if not self.installed:
                return Answer(404, "404 page not found\n")
            name = parts[6] if len(parts) > 6 else ""
            watching = query.get("watch", "").lower() == "true"
            verb = {"POST": "create", "PATCH": "patch", "DELETE": "delete", "PUT": "update"}.get(
                method, "get" if name else "watch" if watching else "list"
            )
            if refused := self._authorize(headers.get("Authorization", ""), verb):
                return refused
            if self.failures:
                status = self.failures.pop(0)
                return _status(status, "InternalError", "etcdserver: request timed out")
            self.verbs.append(verb)
            if verb in ("create", "patch") and self.before_write:
                self.before_write.pop(0)()
            answer = getattr(self, f"_do_{verb}")(name, query, body, headers)
            if verb in ("create", "patch") and answer.status < 300 and self.lost_answers:
                self.lost_answers -= 1
                return _status(500, "InternalError", "etcdserver: request timed out")
            assert isinstance(answer, Answer)
            return answer

    def _proxy(self, asked: re.Match[str], body: Any, headers: Any) -> Answer:
        if headers.get("Authorization", "").removeprefix("Bearer ") not in self.accounts:
            return _status(401, "Unauthorized", "Unauthorized")
        if not self.may_proxy:
            return _status(403, "Forbidden", f'services/proxy "{asked[2]}-predictor" is forbidden')
        if asked[1] != self.namespace or asked[2] not in self._services:
            return _not_found(asked[2])
        return self.predict(asked[3], body["instances"])

    def _authorize(self, authorization: str, verb: str) -> Answer | None:
        token = authorization.removeprefix("Bearer ")
        if token not in self.accounts:
            return _status(401, "Unauthorized", "Unauthorized")
        if verb not in self.accounts[token]:
            return _status(
                403,
                "Forbidden",
                f'inferenceservices.serving.kserve.io is forbidden: User "system:serviceaccount:kubeflow:{token}" '
                f'cannot {verb} resource "inferenceservices" in API group "serving.kserve.io" in the namespace '
                f'"{self.namespace}"',
            )
        return None

    def _do_get(self, name: str, query: Any, body: Any, headers: Any) -> Answer:
        if name not in self._services:
            return _not_found(name)
        return Answer(200, copy.deepcopy(self._services[name].object))

    def _do_list(self, name: str, query: dict[str, str], body: Any, headers: Any) -> Answer:
        items = [copy.deepcopy(s.object) for s in self._services.values() if _selected(s.object, query)]
        metadata = {"resourceVersion": str(self._version)}
        return Answer(200, {"apiVersion": "serving.kserve.io/v1beta1", "metadata": metadata, "items": items})

    def _do_watch(self, name: str, query: dict[str, str], body: Any, headers: Any) -> Answer:
        return Answer(200, stream=self._watch(query))

    def _watch(self, query: dict[str, str]) -> Iterator[Object]:
        until = time.monotonic() + float(query.get("timeoutSeconds", "5"))
        after = int(query["resourceVersion"])
        while time.monotonic() < until:
            with self._lock:
                self._tick()
                events = [(version, event) for version, event in self._events if version > after]
            for version, event in events:
                after = version
                if _selected(event["object"], query):
                    yield event
            time.sleep(_TICK_S)

    def _do_create(self, name: str, query: dict[str, str], body: Object, headers: Any) -> Answer:
        if refused := _refuse_fields(body, query):
            return refused
        name = body["metadata"]["name"]
        if name in self._services:
            return _status(409, "AlreadyExists", f'inferenceservices.serving.kserve.io "{name}" already exists', name)
        if refused := _refuse_object(body):
            return refused
        return Answer(201, self._create(body, query.get("fieldManager", "python-client")))

    def _do_patch(self, name: str, query: dict[str, str], body: Object, headers: Any) -> Answer:
        content_type = headers["Content-Type"]
        self.patch_types.append(content_type)
        if content_type != "application/apply-patch+yaml":
            return _status(415, "UnsupportedMediaType", f"this server is asked to apply, got {content_type}")
        if "fieldManager" not in query:
            return _status(422, "Invalid", "fieldManager: Required value: is required for apply patch")
        if refused := _refuse_fields(body, query):
            return refused
        service = self._services.get(name)
        if service is None:
            if "resourceVersion" in body["metadata"]:
                return _status(409, "Conflict", f'Operation cannot be fulfilled on "{name}": uid mismatch', name)
            return _status(403, "Forbidden", "an apply that creates needs the verb create too")
        wanted = body["metadata"].get("resourceVersion")
        if wanted is not None and wanted != service.object["metadata"]["resourceVersion"]:
            return _status(
                409,
                "Conflict",
                f'Operation cannot be fulfilled on inferenceservices.serving.kserve.io "{name}": the object has been '
                "modified; please apply your changes to the latest version and try again",
                name,
            )
        return self._apply(service, body, query["fieldManager"], query.get("force", "").lower() == "true")

    def _apply(self, service: _Service, body: Object, manager: str, force: bool) -> Answer:
        applied, owner = _leaves(body), (manager, "Apply")
        changed = copy.deepcopy(service.object)
        contested = {
            path
            for path, value in applied.items()
            if value != {} and _at(changed, path) not in (None, value) and self._owned_by_others(service, path, owner)
        }
        if contested and not force:
            fields = ", ".join("." + ".".join(path) for path in sorted(contested))
            return _status(409, "Conflict", f"Apply failed with conflicts: {fields}")
        for path in service.owners.get(owner, set()) - set(applied):
            if any(kept[: len(path)] == path for kept in applied):
                continue
            if not self._owned_by_others(service, path, owner):
                _remove(changed, path)
        for path, value in applied.items():
            if value != {} or _at(changed, path) is None:
                _set(changed, path, value)
        if refused := _refuse_object(changed, before=service.object):
            return refused
        for other, paths in service.owners.items():
            if other != owner:
                paths -= contested
        service.owners[owner] = set(applied)
        self._store(service, changed)
        return Answer(200, copy.deepcopy(service.object))

    def _owned_by_others(self, service: _Service, path: Path_, owner: tuple[str, str]) -> bool:
        return any(
            owned[: len(path)] == path for other, paths in service.owners.items() if other != owner for owned in paths
        )

    def _create(self, body: Object, manager: str) -> Object:
        created = copy.deepcopy(body)
        created["metadata"] |= {"uid": f"uid-{self._version}", "generation": 0, "resourceVersion": ""}
        service = _Service(created, {(manager, "Update"): set(_leaves(body))})
        self._services[body["metadata"]["name"]] = service
        self._store(service, created, "ADDED", spec_changed=True)
        return copy.deepcopy(service.object)

    def _merge(self, name: str, change: Object, manager: str) -> None:
        service = self._services[name]
        changed = copy.deepcopy(service.object)
        touched = {path: value for path, value in _leaves(change).items() if _at(changed, path) != value}
        for path, value in touched.items():
            _set(changed, path, value)
        for paths in service.owners.values():
            paths -= set(touched)
        service.owners.setdefault((manager, "Update"), set()).update(touched)
        self._store(service, changed)

    def _store(
        self, service: _Service, changed: Object, event: str = "MODIFIED", *, spec_changed: bool | None = None
    ) -> None:
        if changed == service.object and not spec_changed:
            return
        if spec_changed or changed["spec"] != service.object["spec"]:
            changed["metadata"]["generation"] += 1
            service.lag = self.lag
        self._version += 1
        changed["metadata"]["resourceVersion"] = str(self._version)
        service.object = changed
        self._events.append((self._version, {"type": event, "object": copy.deepcopy(changed)}))

    # KServe's controller.

    def _tick(self) -> None:
        for service in self._services.values():
            if service.seen != service.object["metadata"]["generation"]:
                service.lag -= 1
                if service.lag > 0:
                    continue
                service.seen = service.object["metadata"]["generation"]
                uri = service.object["spec"]["predictor"]["model"].get("storageUri")
                if not service.revisions or service.revisions[-1].uri != uri:
                    number = len(service.revisions) + 1
                    name = f"{service.object['metadata']['name']}-predictor-{number:05d}"
                    service.revisions.append(_Revision(name, uri))
            if not service.revisions:
                continue
            latest = service.revisions[-1]
            latest.ticks += 1
            model = self.models.get(latest.uri or "")
            if model and model.ready_after is not None and latest.ticks > model.ready_after:
                latest.ready = True
            changed = copy.deepcopy(service.object)
            knative = service.object["metadata"].get("annotations", {}).get(MODE) == "Knative"
            changed["status"] = (self._knative if knative else self._standard)(service, latest, model)
            changed["status"]["deploymentMode"] = self.default_mode or ("Knative" if knative else "Standard")
            self._store(service, changed)

    def _standard(self, service: _Service, latest: _Revision, model: Model | None) -> Object:
        if latest.ready and service.serving is not latest:
            if service.serving:
                service.leaving = [service.serving] * self.lingering
            service.serving = latest
        rolling = service.serving is not latest
        if not rolling or (self.stays_ready and service.serving):
            ready = {"status": "True"}
        else:
            message = model.message if model else "Deployment does not have minimum availability."
            ready = {"status": "False", "reason": "MinimumReplicasUnavailable", "message": message}
        # The generation is the Deployment's, as KServe really has it, and there is no address.
        status = _ready_status(ready, model, latest) | {"observedGeneration": len(service.revisions) + 40}
        status["components"] = {"predictor": {"url": self._predictor_url(service)} if service.serving else {}}
        return status

    def _knative(self, service: _Service, latest: _Revision, model: Model | None) -> Object:
        ready_ones = [revision for revision in service.revisions if revision.ready]
        latest_ready = ready_ones[-1] if ready_ones else None
        if latest.ready:
            ready = {"status": "True"}
        elif model and model.ready_after is None:
            ready = {
                "status": "False",
                "reason": "RevisionFailed",
                "message": f'Revision "{latest.name}" failed with message: {model.message}.',
            }
        else:
            ready = {"status": "Unknown", "reason": "RevisionMissing"}
        if latest_ready is latest and self._percent(service) == 100:
            service.rolled_out = latest
        status = _ready_status(ready, model, latest)
        predictor: Object = {"latestCreatedRevision": latest.name}
        if latest_ready:
            predictor["latestReadyRevision"] = latest_ready.name
            predictor["address"] = {"url": self._predictor_url(service)}
            predictor["url"] = "http://sentiment-predictor.example.invalid"
        status["components"] = {"predictor": predictor}
        return status

    def _percent(self, service: _Service) -> int:
        return int(service.object["spec"]["predictor"].get("canaryTrafficPercent", 100))

    def _predictor_url(self, service: _Service) -> str:
        return f"{self.url}/serving/{service.object['metadata']['name']}"

    # The predictor.

    def predict(self, name: str, texts: list[str]) -> Answer:
        """A V1 answer, from the revision whose turn it is."""
        with self._lock:
            self._tick()
            service = self._services.get(name)
            revision = self._turn(service) if service else None
            if service is None or revision is None or revision.uri is None:
                return Answer(503, {"error": "no healthy upstream"})
            model = self.models[revision.uri]
            canary = service.object["spec"]["predictor"].get("canaryTrafficPercent")
            self.traffic.append((canary, model.version))
            answers = [{**model.answer(text), "model_version": model.version} for text in texts]
            return Answer(200, {"predictions": answers})

    def _turn(self, service: _Service) -> _Revision | None:
        knative = service.object["metadata"].get("annotations", {}).get(MODE) == "Knative"
        if not knative:
            return service.leaving.pop() if service.leaving else service.serving
        ready = [revision for revision in service.revisions if revision.ready]
        if not ready:
            return None
        service.requests += 1
        # 37 and 100 have no common factor: over 100 requests, each share is exact.
        new = service.rolled_out is None or service.requests * 37 % 100 < self._percent(service)
        return ready[-1] if new else service.rolled_out


@contextmanager
def kubernetes_api(namespace: str = "reviewloop") -> Iterator[FakeKubernetesApi]:
    """A server on the loopback interface."""
    fake = FakeKubernetesApi(namespace)

    class Handler(FakeHandler):
        def respond(self, method: str, path: str, query: dict[str, str], body: Any) -> Answer:
            if predicted := re.fullmatch(r"/serving/([^/]+)/v1/models/([^/]+):predict", path):
                if predicted[1] != predicted[2]:
                    return Answer(404, {"error": f"Model with name {predicted[2]} does not exist."})
                return fake.predict(predicted[1], body["instances"])
            return fake.handle(method, path, query, body, self.headers)

    with serve(Handler) as url:
        fake.url = url
        yield fake


def unknown_fields(value: Any, type_name: str, where: str = "") -> list[str]:
    """The fields in ``value`` that the KServe SDK's or the Kubernetes client's model of that name does not have."""
    if listed := re.fullmatch(r"list\[(.+)\]", type_name):
        items = value if isinstance(value, list) else []
        return [f for n, item in enumerate(items) for f in unknown_fields(item, listed[1], f"{where}[{n}]")]
    if mapped := re.fullmatch(r"dict\(str, (.+)\)", type_name):
        return [f for key, item in value.items() for f in unknown_fields(item, mapped[1], f"{where}.{key}")]
    model = getattr(kserve.models, type_name, None) or getattr(core_models, type_name, None)
    if model is None or not isinstance(value, dict):
        return []
    types = {model.attribute_map[name]: type_ for name, type_ in model.openapi_types.items()}
    found = []
    for key, item in value.items():
        if key not in types:
            found.append(f"{where}.{key}".lstrip("."))
        else:
            found += unknown_fields(item, types[key], f"{where}.{key}")
    return found


def _ready_status(ready: dict[str, str], model: Model | None, latest: _Revision) -> Object:
    status: Object = {
        "conditions": [
            {"type": "IngressReady", "status": "True"},
            {"type": "PredictorReady", **ready},
            {"type": "Ready", "status": ready["status"]},
        ],
        "modelStatus": {"transitionStatus": "UpToDate" if latest.ready else "InProgress"},
    }
    if model and model.failure and not latest.ready and latest.ticks > 2:
        status["modelStatus"] = {
            "transitionStatus": "BlockedByFailedLoad",
            "lastFailureInfo": {"reason": "ModelLoadFailed", "message": model.failure},
        }
    return status


def _refuse_fields(body: Object, query: dict[str, str]) -> Answer | None:
    if query.get("fieldValidation") != "Strict":
        return None
    if unknown := unknown_fields(body, "V1beta1InferenceService"):
        fields = ", ".join(f'unknown field "{name}"' for name in unknown)
        return _status(400, "BadRequest", f"strict decoding error: {fields}")
    return None


def _refuse_object(changed: Object, before: Object | None = None) -> Answer | None:
    model = changed["spec"]["predictor"].get("model", {})
    if "name" not in model.get("modelFormat", {}):
        return _status(422, "Invalid", "spec.predictor.model.modelFormat.name: Required value")
    mode = changed["metadata"].get("annotations", {}).get(MODE)
    was = before and before["metadata"].get("annotations", {}).get(MODE)
    denied = ""
    if was and was != mode:
        denied = f"update rejected: deploymentMode cannot be changed from '{was}' to '{mode}'"
    elif not re.match(r"^(s3|gs|pvc|file|https?)://", model.get("storageUri", "s3://")):
        denied = f"the InferenceService has an invalid storageUri {model['storageUri']}"
    if denied:
        webhook = 'admission webhook "inferenceservice.kserve-webhook-server.validator" denied the request: '
        return _status(403, "Forbidden", webhook + denied)
    return None


def _selected(found: Object, query: dict[str, str]) -> bool:
    name = query.get("fieldSelector", "").removeprefix("metadata.name=")
    return not name or found["metadata"]["name"] == name


def _not_found(name: str) -> Answer:
    return _status(404, "NotFound", f'inferenceservices.serving.kserve.io "{name}" not found', name)


def _status(code: int, reason: str, message: str, name: str = "") -> Answer:
    details = {"details": {"name": name, "kind": "inferenceservices"}} if name else {}
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason}
    return Answer(code, {**body, **details, "code": code})


def _leaves(value: Object, path: Path_ = ()) -> dict[Path_, Any]:
    found: dict[Path_, Any] = {}
    for key, item in value.items():
        at = (*path, key)
        if at in _SERVER_FIELDS or at in (("apiVersion",), ("kind",), ("status",)):
            continue
        if isinstance(item, dict) and item:
            found |= _leaves(item, at)
        else:
            found[at] = item
    return found


def _at(value: Object, path: Path_) -> Any:
    for key in path:
        if not isinstance(value, dict) or key not in value:
            return None
        value = value[key]
    return value


def _set(value: Object, path: Path_, leaf: Any) -> None:
    for key in path[:-1]:
        value = value.setdefault(key, {})
    value[path[-1]] = copy.deepcopy(leaf)


def _remove(value: Object, path: Path_) -> None:
    for key in path[:-1]:
        value = value.get(key, {})
    value.pop(path[-1], None)
