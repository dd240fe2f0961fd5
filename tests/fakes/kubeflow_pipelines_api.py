"""A Kubeflow Pipelines API server (v2beta1) with state, that refuses what the real one refuses.

Runs go through the frames that a test gives them, one at each time they are asked for.
"""

import email
import email.policy
import json
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from tests.fakes.http_server import FakeHandler, serve

Document = dict[str, Any]

ACTIVE = ("PENDING", "RUNNING")
NEVER = "1970-01-01T00:00:00Z"

ROBFIG_FIELD = re.compile(
    r"^(\*|\?|(\d+|[a-z]{3})(-(\d+|[a-z]{3}))?)(/\d+)?(,(\*|\?|(\d+|[a-z]{3})(-(\d+|[a-z]{3}))?)(/\d+)?)*$"
)


@dataclass(frozen=True)
class Frame:
    """What a run looks like at one moment: its state, and its steps' (or a step's error, after a colon)."""

    state: str
    steps: dict[str, str] = field(default_factory=dict)


class Refused(Exception):
    """The request is answered with this status and this message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class FakePipelinesApi:
    """The server's state. The attributes say how it is configured and how the next requests fail."""

    def __init__(self) -> None:
        self.url = ""
        self.multi_user = False
        self.namespaces = {"team"}
        """Where this user may work, of a multi-user server."""
        self.token: str | None = None
        """The bearer token that is wanted."""
        self.cookie: str | None = None
        """The cookie that is wanted."""
        self.login_page = False
        """Every request is answered with a page in HTML."""
        self.down = False
        """Every request is answered 503."""
        self.lose_answers = 0
        """So many runs are made, and their requests answered 500."""
        self.refuse_deletes = False
        """A recurring run cannot be deleted: 500."""
        self.next_frames: list[Frame] = [Frame("RUNNING")]
        """What the next runs go through."""
        self.concurrent_run = False
        """A run of the same pipeline is started, by somebody else, a moment before the next one."""
        self.clock_offset = timedelta(0)
        self.pipelines: dict[str, Document] = {}
        self.versions: dict[str, Document] = {}
        self.experiments: dict[str, Document] = {}
        self.runs: dict[str, Document] = {}
        self.recurring_runs: dict[str, Document] = {}
        self.frames: dict[str, list[Frame]] = {}
        self.requests: list[str] = []
        """Method and path of every request."""
        self.headers: list[dict[str, str]] = []
        self.lock = threading.RLock()
        self._last = datetime.now(UTC)

    @property
    def active_runs(self) -> list[Document]:
        """The runs that have not ended."""
        return [run for run in self.runs.values() if run["state"] in ACTIVE]

    def add_run(self, pipeline_id: str, state: str, created_at: datetime, description: str = "") -> Document:
        """A run as it is in the history."""
        run = {
            "run_id": str(uuid.uuid4()),
            "display_name": "earlier",
            "description": description,
            "experiment_id": "none",
            "pipeline_version_reference": {"pipeline_id": pipeline_id, "pipeline_version_id": "gone"},
            "created_at": _text(created_at),
            "finished_at": NEVER if state in ACTIVE else _text(created_at + timedelta(minutes=1)),
            "state": state,
            "namespace": "",
        }
        self.runs[run["run_id"]] = run
        self.frames[run["run_id"]] = []
        return run

    def end_runs(self, state: str) -> None:
        """Let every active run end."""
        for run in self.active_runs:
            run["state"], run["finished_at"] = state, self.now()

    def now(self) -> str:
        """The time, later at each call."""
        with self.lock:
            self._last = max(datetime.now(UTC) + self.clock_offset, self._last + timedelta(milliseconds=1))
            return _text(self._last)

    def package(self, version_id: str) -> Document:
        """The pipeline spec of an uploaded version."""
        return dict(self.versions[version_id]["pipeline_spec"])

    # Pipelines

    def create_pipeline(self, body: Document) -> Document:
        """POST /pipelines."""
        name, namespace = body.get("display_name") or body.get("name"), self._namespace(body.get("namespace"))
        if not name:
            raise Refused(400, "Pipeline's name cannot be empty")
        if any(p["display_name"] == name and p["namespace"] == namespace for p in self.pipelines.values()):
            raise Refused(409, f"The pipeline name {name} already exists")
        made = {"pipeline_id": str(uuid.uuid4()), "display_name": name, "name": name, "namespace": namespace}
        self.pipelines[made["pipeline_id"]] = made | {"created_at": self.now()}
        return self.pipelines[made["pipeline_id"]]

    def pipeline_by_name(self, name: str, namespace: str | None) -> Document:
        """GET /pipelines/names/NAME."""
        wanted = self._namespace(namespace)
        for pipeline in self.pipelines.values():
            if pipeline["name"] == name and pipeline["namespace"] == wanted:
                return pipeline
        raise Refused(404, f"Pipeline {name} not found")

    def upload_version(self, pipeline_id: str, name: str, description: str, package: str) -> Document:
        """POST /pipelines/upload_version."""
        if pipeline_id not in self.pipelines:
            raise Refused(400, "Failed to create a pipeline version")
        documents = list(yaml.safe_load_all(package))
        if not documents or "pipelineInfo" not in documents[0]:
            raise Refused(400, "invalid input error: unknown pipeline spec")
        if any(v["pipeline_id"] == pipeline_id and v["name"] == name for v in self.versions.values()):
            raise Refused(409, "Failed to create a pipeline version")
        made = {
            "pipeline_id": pipeline_id,
            "pipeline_version_id": str(uuid.uuid4()),
            "display_name": name,
            "name": name,
            "description": description,
            "created_at": self.now(),
            "pipeline_spec": documents[0],
        }
        self.versions[made["pipeline_version_id"]] = made
        return made

    def list_versions(self, pipeline_id: str) -> list[Document]:
        """GET /pipelines/ID/versions."""
        if pipeline_id not in self.pipelines:
            raise Refused(404, f"Pipeline {pipeline_id} not found")
        return [version for version in self.versions.values() if version["pipeline_id"] == pipeline_id]

    # Experiments

    def create_experiment(self, body: Document) -> Document:
        """POST /experiments."""
        name, namespace = body.get("display_name"), self._namespace(body.get("namespace"))
        if not name:
            raise Refused(400, "Experiment name is empty")
        if any(e["display_name"] == name and e["namespace"] == namespace for e in self.experiments.values()):
            raise Refused(409, f"Experiment {name} already exists")
        made = {"experiment_id": str(uuid.uuid4()), "display_name": name, "namespace": namespace}
        self.experiments[made["experiment_id"]] = made | {"created_at": self.now()}
        return self.experiments[made["experiment_id"]]

    # Runs

    def create_run(self, body: Document) -> Document:
        """POST /runs."""
        namespace = self._experiment_namespace(body)
        version = self._version(body)
        declared = version["pipeline_spec"]["root"].get("inputDefinitions", {}).get("parameters", {})
        self._check_parameters(body, declared)
        if self.concurrent_run:
            self.concurrent_run = False
            self.add_run(version["pipeline_id"], "PENDING", datetime.fromisoformat(self.now()))
        made = body | {
            "run_id": str(uuid.uuid4()),
            "namespace": namespace,
            "created_at": self.now(),
            "finished_at": NEVER,
            "state": "PENDING",
        }
        self.runs[made["run_id"]] = made
        self.frames[made["run_id"]] = list(self.next_frames)
        if self.lose_answers:
            self.lose_answers -= 1
            raise Refused(500, "context deadline exceeded")
        return made

    def get_run(self, run_id: str) -> Document:
        """GET /runs/ID; the run goes on to its next frame."""
        run = self._run(run_id)
        if self.frames[run_id] and run["state"] in ACTIVE:
            self._advance(run, self.frames[run_id].pop(0))
        return run

    def terminate_run(self, run_id: str) -> Document:
        """POST /runs/ID:terminate."""
        run = self._run(run_id)
        if run["state"] not in ACTIVE:
            raise Refused(400, "Failed to terminate a run. The run is already finished")
        run["state"], run["finished_at"] = "CANCELED", self.now()
        return {}

    # Recurring runs

    def create_recurring_run(self, body: Document) -> Document:
        """POST /recurringruns."""
        if not body.get("display_name"):
            raise Refused(400, "Recurring run name is empty. Please specify a valid name")
        namespace = self._experiment_namespace(body)
        self._version(body)
        if not 1 <= int(body.get("max_concurrency") or 0) <= 10:
            raise Refused(400, "Max concurrency of a recurring run must be at least 1 and at most 10")
        if cron := body.get("trigger", {}).get("cron_schedule", {}).get("cron"):
            _parse_cron(cron)
        made = body | {
            "recurring_run_id": str(uuid.uuid4()),
            "namespace": namespace,
            "created_at": self.now(),
            "status": "ENABLED" if body.get("mode") == "ENABLE" else "DISABLED",
        }
        self.recurring_runs[made["recurring_run_id"]] = made
        return made

    def delete_recurring_run(self, recurring_run_id: str) -> Document:
        """DELETE /recurringruns/ID."""
        if self.refuse_deletes:
            raise Refused(500, "Internal Server Error")
        if recurring_run_id not in self.recurring_runs:
            raise Refused(404, f"Job {recurring_run_id} not found")
        del self.recurring_runs[recurring_run_id]
        return {}

    def in_namespace(self, documents: dict[str, Document], namespace: str | None) -> list[Document]:
        """What a list request with this namespace gives."""
        wanted = self._namespace(namespace)
        if self.multi_user and not wanted:
            raise Refused(400, "A resource in multi-user mode requires a namespace")
        return [document for document in documents.values() if document.get("namespace", "") == wanted]

    def _namespace(self, namespace: str | None) -> str:
        if not self.multi_user:
            if namespace:
                raise Refused(400, "In single-user mode, the namespace must be empty")
            return ""
        if namespace and namespace not in self.namespaces:
            raise Refused(403, f"User 'me' is not authorized in namespace {namespace}")
        return namespace or ""

    def _experiment_namespace(self, body: Document) -> str:
        experiment = self.experiments.get(body.get("experiment_id", ""))
        if experiment is None:
            raise Refused(404, f"Experiment {body.get('experiment_id')} not found")
        if self.multi_user and not experiment["namespace"]:
            raise Refused(400, "A run cannot have an empty namespace in multi-user mode")
        return str(experiment["namespace"])

    def _version(self, body: Document) -> Document:
        reference = body.get("pipeline_version_reference") or {}
        of_pipeline = [v for v in self.versions.values() if v["pipeline_id"] == reference.get("pipeline_id")]
        wanted = reference.get("pipeline_version_id")
        found = [v for v in of_pipeline if wanted in (None, "", v["pipeline_version_id"])]
        if not found:
            raise Refused(404, f"PipelineVersion {wanted} not found")
        return found[-1]

    def _check_parameters(self, body: Document, declared: Document) -> None:
        given = body.get("runtime_config", {}).get("parameters", {})
        if unknown := given.keys() - declared.keys():
            raise Refused(400, f"parameter(s) provided are not required or optional: {', '.join(sorted(unknown))}")
        required = {n for n, p in declared.items() if "defaultValue" not in p and not p.get("isOptional")}
        if missing := required - given.keys():
            raise Refused(400, f"parameter(s) missing: {', '.join(sorted(missing))}")
        if any(len(json.dumps(value)) > 10_000 for value in given.values()):
            raise Refused(400, "The input parameter length exceed maximum size of 10000")

    def _run(self, run_id: str) -> Document:
        if run_id not in self.runs:
            raise Refused(404, f"Run {run_id} not found")
        return self.runs[run_id]

    def _advance(self, run: Document, frame: Frame) -> None:
        run["state"] = frame.state
        if frame.state not in ACTIVE:
            run["finished_at"] = self.now()
        known = {task["display_name"]: task for task in run.get("run_details", {}).get("task_details", [])}
        for name, text in {"root-driver": "SUCCEEDED", **frame.steps}.items():
            state, _, error = text.partition(":")
            task = known.setdefault(
                name,
                {"run_id": run["run_id"], "task_id": str(uuid.uuid4()), "display_name": name}
                | {"create_time": self.now(), "start_time": self.now(), "end_time": NEVER},
            )
            task["state"] = state
            if state not in ACTIVE:
                task["end_time"] = self.now()
            if error:
                task["error"] = {"code": 13, "message": error}
        run["run_details"] = {"task_details": list(known.values())}


class _Handler(FakeHandler):
    api: FakePipelinesApi

    protocol_version = "HTTP/1.0"

    def _do(self) -> None:  # Uploads are no JSON.
        content = self.rfile.read(int(self.headers.get("content-length") or 0))
        api = self.api
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        with api.lock:
            api.requests.append(f"{self.command} {url.path}")
            api.headers.append(dict(self.headers.items()))
            if api.login_page:
                self._answer(200, b"<html>Log in</html>", "text/html")
                return
            try:
                self._check()
                answer = self._route(url.path, query, content)
            except Refused as refused:
                body = {"error": str(refused), "code": 0, "message": str(refused)}
                self._answer(refused.status, json.dumps(body).encode())
                return
            self._answer(200, json.dumps(answer).encode())

    def _check(self) -> None:
        if self.api.down:
            raise Refused(503, "upstream connect error")
        if self.api.token is not None and self.headers.get("authorization") != f"Bearer {self.api.token}":
            raise Refused(401, "Request header error: there is no user identity header")
        if self.api.cookie is not None and self.headers.get("cookie") != self.api.cookie:
            raise Refused(401, "Request header error: there is no user identity header")

    def _route(self, path: str, query: dict[str, str], content: bytes) -> Document:
        api = self.api
        parts = unquote(path).removeprefix("/apis/v2beta1/").split("/")
        namespace = query.get("namespace")
        if path == "/apis/v2beta1/pipelines/upload_version" and self.command == "POST":
            package = _uploaded(self.headers["content-type"], content)
            return api.upload_version(
                query.get("pipelineid", ""), query.get("name", ""), query.get("description", ""), package
            )
        body = json.loads(content) if content else {}
        match self.command, *parts:
            case "GET", "healthz":
                return {"multi_user": api.multi_user}
            case "POST", "pipelines":
                return api.create_pipeline(body)
            case "GET", "pipelines", "names", name:
                return api.pipeline_by_name(name, namespace)
            case "GET", "pipelines", pipeline_id, "versions":
                return _page("pipeline_versions", api.list_versions(pipeline_id), query)
            case "POST", "experiments":
                return api.create_experiment(body)
            case "GET", "experiments":
                return _page("experiments", api.in_namespace(api.experiments, namespace), query)
            case "POST", "runs":
                return api.create_run(body)
            case "GET", "runs":
                return _page("runs", api.in_namespace(api.runs, namespace), query)
            case "GET", "runs", run_id:
                return api.get_run(run_id)
            case "POST", "runs", action if action.endswith(":terminate"):
                return api.terminate_run(action.removesuffix(":terminate"))
            case "POST", "recurringruns":
                return api.create_recurring_run(body)
            case "GET", "recurringruns":
                return _page("recurringRuns", api.in_namespace(api.recurring_runs, namespace), query)
            case "DELETE", "recurringruns", recurring_run_id:
                return api.delete_recurring_run(recurring_run_id)
        raise Refused(404, "Not Found")

    def _answer(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _page(name: str, documents: list[Document], query: dict[str, str]) -> Document:
    ordered = sorted(documents, key=lambda document: document["created_at"])
    if query.get("sort_by") == "created_at desc":
        ordered.reverse()
    elif query.get("sort_by"):
        raise Refused(400, f"Invalid sorting field: {query['sort_by']}")
    start, size = int(query.get("page_token") or 0), int(query.get("page_size") or 20)
    page: Document = {name: ordered[start : start + size], "total_size": len(ordered)}
    if start + size < len(ordered):
        page["next_page_token"] = str(start + size)
    return page


def _uploaded(content_type: str, content: bytes) -> str:
    message = email.message_from_bytes(
        b"content-type: " + content_type.encode() + b"\r\n\r\n" + content, policy=email.policy.HTTP
    )
    for part in message.iter_parts():  # type: ignore[attr-defined]
        if part.get_param("name", header="content-disposition") == "uploadfile":
            return str(part.get_payload(decode=True).decode())
    raise Refused(400, "Failed to read pipeline from file")


def _parse_cron(line: str) -> None:
    """As github.com/robfig/cron v1 does: five fields are taken too, seconds first."""
    if line.startswith("@"):
        if line in ("@yearly", "@monthly", "@weekly", "@daily", "@hourly") or line.startswith("@every "):
            return
        raise Refused(400, f"Schedule cron is not a supported format. Error: Unrecognized descriptor: {line}")
    fields = line.split()
    if not 5 <= len(fields) <= 6:
        raise Refused(400, f"Schedule cron is not a supported format. Error: Expected 5 to 6 fields, found {line}")
    if not all(ROBFIG_FIELD.match(part.lower()) for part in fields):
        raise Refused(400, f"Schedule cron is not a supported format. Error: Failed to parse int from {line}")


def _text(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@contextmanager
def fake_pipelines_api() -> Iterator[FakePipelinesApi]:
    """A running one."""
    api = FakePipelinesApi()
    with serve(type("Handler", (_Handler,), {"api": api})) as url:
        api.url = url
        yield api
