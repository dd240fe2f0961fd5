"""The loop's Label Studio project: tasks in, annotations out.

A thin layer over label-studio-sdk that speaks in the loop's records and turns every failure into one of two
errors: refused, or unavailable.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from label_studio_sdk import LabelStudio
from label_studio_sdk.core.api_error import ApiError
from label_studio_sdk.core.request_options import RequestOptions

from reviewloop.errors import LabelStudioError, LabelStudioUnavailable
from reviewloop.records import Annotation, ReviewItem, ReviewTask
from reviewloop.task_types import TaskType

API_KEY_VARIABLE = "LABEL_STUDIO_API_KEY"
PAGE_SIZE = 100
TIMEOUT_S = 60.0
# The SDK would repeat a write whose outcome is unknown, and Label Studio never deduplicates.
NO_RETRY: RequestOptions = {"max_retries": 0}


@dataclass(frozen=True, slots=True)
class ProjectCounts:
    """How far the reviewers are: tasks, tasks with all their annotations, and annotations."""

    tasks: int
    finished: int
    annotations: int


def api_key_from_environment() -> str:
    """The Label Studio API key, from the environment and nowhere else.

    Raises:
        LabelStudioError: the variable is not set.
    """
    key = os.environ.get(API_KEY_VARIABLE, "")
    if not key:
        raise LabelStudioError(
            f"The environment variable {API_KEY_VARIABLE} is not set. Copy an access token from "
            "Label Studio's Account & Settings page into it."
        )
    return key


class LabelStudioServer:
    """A Label Studio server as its administrator sees it: projects and reviewer accounts."""

    def __init__(self, url: str, api_key: str) -> None:
        self.url = url.rstrip("/")
        # A kept-alive connection waits 40 ms a request for a delayed ACK, because Label Studio's server sends
        # headers and body apart: a new connection each time is twice as fast.
        self._client: Any = LabelStudio(
            base_url=self.url,
            api_key=api_key,
            httpx_client=httpx.Client(
                timeout=httpx.Timeout(TIMEOUT_S, connect=5.0),
                limits=httpx.Limits(max_keepalive_connections=0),
                follow_redirects=True,
            ),
        )

    def find_project(self, title: str) -> int | None:
        """The id of the project with exactly this title, the oldest if there are several."""
        with _errors(self.url):
            ids = [p.id for p in self._client.projects.list(title=title, page_size=PAGE_SIZE) if p.title == title]
        return min(ids, default=None)

    def ensure_project(self, title: str, task: TaskType, instructions: str, annotations_per_task: int) -> int:
        """The id of the loop's project, made if it is not there yet; its settings are brought up to date."""
        settings: dict[str, Any] = {
            "title": title,
            "label_config": task.labeling_config(instructions),
            "expert_instruction": instructions,
            "show_instruction": bool(instructions),
            "maximum_annotations": annotations_per_task,
            # Reviewers see what the model said, with the version that said it, and correct it.
            "show_collab_predictions": True,
        }
        project = self.find_project(title)
        with _errors(self.url):
            if project is None:
                created = self._client.projects.create(**settings, request_options=NO_RETRY)
                return int(created.id)
            self._client.projects.update(project, **settings)
        return project

    def ensure_reviewers(self, emails: Iterable[str]) -> dict[str, int]:
        """User ids of these accounts by email, made if they are not there yet."""
        with _errors(self.url):
            known = {user.email: int(user.id) for user in self._client.users.list()}
            return {
                email: known[email]
                if email in known
                else int(self._client.users.create(email=email, username=email).id)
                for email in emails
            }


class ReviewProject:
    """The project that holds one loop's review tasks, found by its title."""

    def __init__(self, url: str, api_key: str, title: str, task: TaskType) -> None:
        self.title = title
        self.task = task
        self._server = LabelStudioServer(url, api_key)
        self._client = self._server._client
        self._id: int | None = None

    @property
    def id(self) -> int:
        """The project's id.

        Raises:
            LabelStudioError: there is no such project.
        """
        if self._id is None:
            self._id = self._server.find_project(self.title)
        if self._id is None:
            raise LabelStudioError(
                f"Label Studio at {self._server.url} has no project named {self.title!r}. "
                "`reviewloop up` makes it; on a cluster, the project Job does."
            )
        return self._id

    def import_items(self, items: Sequence[ReviewItem]) -> list[int]:
        """Make one task an item, in one request, and return the task ids in the same order.

        A low-confidence item carries the model's answer as a pre-annotation; an audit item is blind, because a
        shown answer would draw the reviewer towards it.

        Raises:
            LabelStudioUnavailable: no answer; the tasks may exist or not.
            LabelStudioError: the request was refused and made nothing.
        """
        tasks: Any = [
            {
                "data": {"text": item.text, "key": item.key},
                "meta": item.metadata(),
                "predictions": [] if item.reason == "audit" else [self._pre_annotation(item)],
            }
            for item in items
        ]
        with _errors(self._server.url):
            response = self._client.projects.import_tasks(
                self.id, request=tasks, return_task_ids=True, request_options=NO_RETRY
            )
        return [int(task_id) for task_id in response.task_ids or []]

    def find_tasks(self, keys: Sequence[str]) -> dict[str, list[int]]:
        """Ids of the tasks that carry these content keys, by key; a key without a task is left out."""
        found: dict[str, list[int]] = {}
        for start in range(0, len(keys), PAGE_SIZE):
            pattern = "^(" + "|".join(keys[start : start + PAGE_SIZE]) + ")$"
            for task in self._tasks(_filter("data.key", "regex", "String", pattern)):
                found.setdefault(task.data["key"], []).append(int(task.id))
        return found

    def open_tasks(self) -> Iterator[tuple[int, str]]:
        """Task id and text of every task that still wants an annotation, oldest first."""
        for task in self._tasks(_filter("completed_at", "empty", "Datetime", True)):
            yield int(task.id), str(task.data["text"])

    def annotate(self, task_id: int, label: str, reviewer: int) -> None:
        """Answer one task in a reviewer's name."""
        with _errors(self._server.url):
            self._client.annotations.create(
                task_id,
                result=self.task.annotation_result(label),
                completed_by=reviewer,
                request_options=NO_RETRY,
            )

    def tasks(self) -> Iterator[ReviewTask]:
        """Every task, oldest first, with its usable answers: cancelled (skipped) and empty ones are dropped."""
        for task in self._tasks(_filter("id", "greater", "Number", 0), fields="all"):
            annotations = (self._annotation(raw) for raw in task.annotations or [])
            usable = sorted((a for a in annotations if a is not None), key=lambda a: a.id)
            yield ReviewTask(int(task.id), str(task.data["text"]), tuple(usable), dict(task.meta or {}))

    def counts(self) -> ProjectCounts:
        """How far the reviewers are."""
        with _errors(self._server.url):
            project = self._client.projects.get(self.id)
        return ProjectCounts(
            tasks=int(project.task_number or 0),
            finished=int(project.finished_task_number or 0),
            annotations=int(project.total_annotations_number or 0),
        )

    def _pre_annotation(self, item: ReviewItem) -> dict[str, Any]:
        label = max(item.prediction, key=item.prediction.__getitem__)
        return {
            "result": self.task.pre_annotation(label),
            "score": item.confidence,
            "model_version": item.model_version,
        }

    def _annotation(self, raw: Any) -> Annotation | None:
        record = raw if isinstance(raw, dict) else raw.dict()
        label = self.task.annotated_label(record.get("result") or [])
        if record.get("was_cancelled") or label is None:
            return None
        reviewer = record.get("completed_by") or 0
        return Annotation(
            id=int(record["id"]),
            reviewer=int(reviewer["id"] if isinstance(reviewer, dict) else reviewer),
            label=label,
            updated_at=str(record["updated_at"]),
        )

    def _tasks(self, query: str, fields: Any = "task_only") -> Iterator[Any]:
        with _errors(self._server.url):
            yield from self._client.tasks.list(project=self.id, query=query, fields=fields, page_size=PAGE_SIZE)


def _filter(column: str, operator: str, kind: str, value: object) -> str:
    # Label Studio silently ignores a query that is not a JSON string.
    item = {"filter": f"filter:tasks:{column}", "operator": operator, "type": kind, "value": value}
    return json.dumps({"filters": {"conjunction": "and", "items": [item]}, "ordering": ["tasks:id"]})


@contextmanager
def _errors(url: str) -> Iterator[None]:
    try:
        yield
    except ApiError as error:
        status = error.status_code or 0
        if status >= 500 or status in (408, 429):
            raise LabelStudioUnavailable(f"Label Studio at {url} answered {status}.") from error
        if status == 401:
            raise LabelStudioError(f"Label Studio at {url} refused the API key. Check {API_KEY_VARIABLE}.") from error
        raise LabelStudioError(f"Label Studio at {url} answered {status}: {str(error.body)[:300]}") from error
    except httpx.TransportError as error:
        raise LabelStudioUnavailable(
            f"Label Studio at {url} did not answer ({type(error).__name__}). Is it running?"
        ) from error
