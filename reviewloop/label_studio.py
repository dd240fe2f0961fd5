"""The loop's Label Studio project: tasks in, annotations out.

A thin layer over label-studio-sdk that speaks in the loop's records and turns every failure into one of two
errors: refused, or unavailable.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, get_args

import httpx
from label_studio_sdk import LabelStudio
from label_studio_sdk.core.api_error import ApiError
from label_studio_sdk.core.request_options import RequestOptions

from reviewloop.errors import LabelStudioError, LabelStudioUnavailable
from reviewloop.problems import EMPTY_TEXT, Problems
from reviewloop.records import MACHINE_CHECK, Annotation, Label, ReviewItem, ReviewReason, ReviewTask
from reviewloop.task_types import TaskType
from reviewloop.task_types.base import CONTROL_NAME
from reviewloop.text_keys import content_key

API_KEY_VARIABLE = "LABEL_STUDIO_API_KEY"
PAGE_SIZE = 100
TIMEOUT_S = 60.0
ROUTED_REASONS = (*get_args(ReviewReason), MACHINE_CHECK)
"""The reasons of tasks that the loop routed to people itself."""

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

    def emails(self) -> dict[int, str]:
        """The email of every account, by user id."""
        with _errors(self.url):
            return {int(user.id): str(user.email) for user in self._client.users.list()}

    def ensure_reviewers(self, emails: Iterable[str]) -> dict[str, int]:
        """User ids of these accounts by email, made if they are not there yet."""
        with _errors(self.url):
            known = {email: user_id for user_id, email in self.emails().items()}
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
                "`reviewloop up` makes it; on a cluster, the dispatcher does."
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
        return self.import_tasks(tasks)

    def import_tasks(self, tasks: Any) -> list[int]:
        """Make tasks in Label Studio's own import format, in one request; the task ids in the same order.

        Raises:
            LabelStudioUnavailable: no answer; the tasks may exist or not.
            LabelStudioError: the request was refused and made nothing.
        """
        with _errors(self._server.url):
            response = self._client.projects.import_tasks(
                self.id, request=tasks, return_task_ids=True, request_options=NO_RETRY
            )
        return [int(task_id) for task_id in response.task_ids or []]

    def keys(self) -> set[str]:
        """The content keys of all tasks, also of those that were made without one."""
        return {str(task.data.get("key") or content_key(str(task.data.get("text", "")))) for task in self._tasks(None)}

    def find_tasks(self, keys: Sequence[str]) -> dict[str, list[int]]:
        """Ids of the tasks that carry these content keys, by key; a key without a task is left out."""
        found: dict[str, list[int]] = {}
        for start in range(0, len(keys), PAGE_SIZE):
            pattern = "^(" + "|".join(keys[start : start + PAGE_SIZE]) + ")$"
            for task in self._tasks(_filter("data.key", "regex", "String", pattern)):
                found.setdefault(task.data["key"], []).append(int(task.id))
        return found

    def open_tasks(self) -> Iterator[tuple[int, str]]:
        """Task id and text of every task with a text that still wants an annotation, oldest first."""
        for task in self._tasks(_filter("completed_at", "empty", "Datetime", True)):
            text = _text(task)
            if text is not None:
                yield int(task.id), text

    def annotate(self, task_id: int, text: str, label: Label, reviewer: int) -> None:
        """Answer one task, which asks about ``text``, in a reviewer's name."""
        with _errors(self._server.url):
            self._client.annotations.create(
                task_id,
                result=self.task.annotation_result(label, text),
                completed_by=reviewer,
                request_options=NO_RETRY,
            )

    def tasks(self, problems: Problems) -> Iterator[ReviewTask]:
        """Every task, oldest first, with its usable answers, one a reviewer: the last one.

        What is left out is added to ``problems``: a task without a text, a cancelled (skipped) annotation, one
        that names a label or a place that does not exist, and all but a reviewer's last, and a prediction that is
        not of our task type. A task deleted meanwhile is not there, and hides no other.
        """
        self._check_config(problems)
        for task in self._tasks(None, fields="all"):
            text = _text(task)
            if text is None:
                problems.add(EMPTY_TEXT, f"task {task.id}")
                continue
            records = (raw if isinstance(raw, dict) else raw.dict() for raw in task.annotations or [])
            answers = [self._annotation(record, int(task.id), text, problems) for record in records]
            usable = _last_of_each_reviewer([a for a in answers if a is not None], int(task.id), problems)
            yield ReviewTask(int(task.id), text, usable, self._item(task, problems))

    def counts(self) -> ProjectCounts:
        """How far the reviewers are."""
        with _errors(self._server.url):
            project = self._client.projects.get(self.id)
        return ProjectCounts(
            tasks=int(project.task_number or 0),
            finished=int(project.finished_task_number or 0),
            annotations=int(project.total_annotations_number or 0),
        )

    def last_finished_at(self) -> datetime | None:
        """When the task that was finished last got its last annotation; None if none is finished."""
        finished = {"conjunction": "and", "items": [_filter("completed_at", "empty", "Datetime", False)]}
        query = json.dumps({"filters": finished, "ordering": ["-tasks:completed_at"]})
        with _errors(self._server.url):
            page = self._client.tasks.list(project=self.id, query=query, fields="all", page_size=1)
        for task in page.items or []:
            times = [(a if isinstance(a, dict) else a.dict()).get("created_at") for a in task.annotations or []]
            return max((_time(time) for time in times if time), default=None)
        return None

    def _pre_annotation(self, item: ReviewItem) -> dict[str, Any]:
        return {
            "result": self.task.annotation_result(self.task.answered(item.prediction), item.text),
            "score": item.confidence,
            "model_version": item.model_version,
        }

    def _check_config(self, problems: Problems) -> None:
        """Say what a labeling configuration that was edited by hand can no longer ask."""
        with _errors(self._server.url):
            config = self._client.projects.get(self.id).parsed_label_config or {}
        offered = dict(config).get(CONTROL_NAME, {}).get("labels", [])
        if set(offered) != set(self.task.labels):
            problems.add(
                "labeling config edited by hand",
                f"project {self.id}",
                f"it offers {', '.join(offered) or 'nothing'} in the control {CONTROL_NAME!r}",
            )

    def _item(self, task: Any, problems: Problems) -> dict[str, Any]:
        """The routing metadata; none where they are not all there or not ours, as in a task made by hand."""
        item = dict(task.meta or {})
        if item.get("reason") not in ROUTED_REASONS or is_whole_routing(item, self.task):
            return item
        # Perhaps the loop's task type was another one then; what people answered may still be usable.
        problems.add("routing not readable", f"task {task.id}")
        return {}

    def _annotation(self, record: dict[str, Any], task_id: int, text: str, problems: Problems) -> Annotation | None:
        where = f"task {task_id} annotation {record['id']}"
        if record.get("was_cancelled"):
            problems.add("cancelled annotation", where)
            return None
        reading = self.task.read_annotation(record.get("result") or [], text)
        for problem in reading.problems:
            problems.add("unusable answer", where, problem)
        if reading.label is None:
            if not reading.problems:
                problems.add("empty annotation", where)
            return None
        reviewer = record.get("completed_by") or 0
        return Annotation(
            id=int(record["id"]),
            reviewer=int(reviewer["id"] if isinstance(reviewer, dict) else reviewer),
            label=reading.label,
            updated_at=str(record["updated_at"]),
        )

    def _tasks(self, condition: dict[str, Any] | None, fields: Any = "task_only") -> Iterator[Any]:
        # From the last id on, not by page number: a task deleted meanwhile would move others to a page already read.
        last = 0
        while True:
            with _errors(self._server.url):
                page = self._client.tasks.list(
                    project=self.id, query=_query(condition, last), fields=fields, page_size=PAGE_SIZE
                )
            tasks = list(page.items or [])
            yield from tasks
            if len(tasks) < PAGE_SIZE:
                return
            last = int(tasks[-1].id)


def is_whole_routing(meta: dict[str, Any], task: TaskType) -> bool:
    """Whether a task's ``meta``, whose reason is one of ours, has what evaluation reads beside the reason."""
    prediction = meta.get("prediction")
    propensity = meta.get("propensity", 1 if meta["reason"] == MACHINE_CHECK else None)
    return (
        isinstance(prediction, dict)
        and task.answer_fields <= prediction.keys()
        and isinstance(meta.get("model_version"), str)
        and isinstance(propensity, int | float)
        and 0 < propensity <= 1
    )


def _text(task: Any) -> str | None:
    """What the task asks about; None if there is nothing to read."""
    text = (task.data or {}).get("text")
    return text if isinstance(text, str) and text.strip() else None


def _last_of_each_reviewer(answers: list[Annotation], task_id: int, problems: Problems) -> tuple[Annotation, ...]:
    last: dict[int, Annotation] = {}
    unnamed = []
    for answer in sorted(answers, key=lambda a: (a.updated_at, a.id)):
        if not answer.reviewer:
            unnamed.append(answer)
            continue
        if earlier := last.get(answer.reviewer):
            problems.add("second annotation by the same reviewer", f"task {task_id} annotation {earlier.id}")
        last[answer.reviewer] = answer
    return tuple(sorted([*last.values(), *unnamed], key=lambda a: a.id))


def _filter(column: str, operator: str, kind: str, value: object) -> dict[str, Any]:
    return {"filter": f"filter:tasks:{column}", "operator": operator, "type": kind, "value": value}


def _time(value: Any) -> datetime:
    return value if isinstance(value, datetime) else datetime.fromisoformat(str(value))


def _query(condition: dict[str, Any] | None, after: int) -> str:
    # Label Studio silently ignores a query that is not a JSON string.
    items = [_filter("id", "greater", "Number", after), *([condition] if condition else [])]
    return json.dumps({"filters": {"conjunction": "and", "items": items}, "ordering": ["tasks:id"]})


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
