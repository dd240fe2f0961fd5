"""``reviewloop import``: tasks from files into the loop's project, pre-labelled by the champion if wanted."""

import itertools
import json
import re
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx

from reviewloop.errors import PlatformError
from reviewloop.label_studio import ROUTED_REASONS, LabelStudioServer, ReviewProject, is_whole_routing
from reviewloop.problems import Problems
from reviewloop.records import MACHINE_CHECK, MachineLabel
from reviewloop.registry import Registry
from reviewloop.task_files import FileAnnotation, FilePrediction, FileTask
from reviewloop.text_keys import content_key, uniform_draw
from serving.protocol import MAX_TEXT_CHARACTERS

BATCH = 250
"""Tasks in one import: Label Studio takes about a second for it."""

PREDICTION_BATCH = 200
PREDICTION_CHARACTERS = 1_000_000
"""In one request, whose body is then within the predictor's limit however the characters are encoded."""

PREDICTION_TIMEOUT_S = 120.0
BUSY_TIMEOUT_S = 60.0
IMPORTED = "import"
CHECK_SALT = "machine check"

ANSWERED = 2.0
"""Comes after every open task, whose certainty is at most 1."""

UNKNOWN = 0.0
"""The certainty where the predictor takes no text as long."""

PLAIN_NAME = r"[A-Za-z0-9_-]{1,40}"
PLAIN_EMAIL = r"[A-Za-z0-9_+-]+(\.[A-Za-z0-9_+-]+)*@([A-Za-z0-9]+(-+[A-Za-z0-9]+)*\.)+[A-Za-z]{2,}"
MAX_EMAIL = 120

Item = TypeVar("Item")


@dataclass(slots=True)
class ImportResult:
    """What became of the tasks that were read."""

    read: int = 0
    imported: int = 0
    known: int = 0
    """Already in the project, or accepted as machine labels, by content key."""
    accepted: int = 0
    """Taken as machine labels instead of going to people."""
    checked: int = 0
    """Sure enough to be accepted, but sent to people to measure how often such labels are wrong."""
    problems: Problems = field(default_factory=Problems)


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Predictions of at least ``above`` become machine labels, but for a random share ``check`` (both in [0, 1])."""

    above: float
    check: float


class Champion:
    """The model that serves, asked over its V1 endpoint."""

    def __init__(self, predictor_url: str, model_name: str) -> None:
        self._url = f"{predictor_url}/v1/models/{model_name}:predict"

    def predict(self, texts: list[str]) -> list[dict[str, Any]]:
        """One V1 prediction a text.

        Raises:
            PlatformError: the predictor does not answer, or refuses.
        """
        return [prediction for request in _requests(texts) for prediction in self._ask(request)]

    def _ask(self, texts: list[str]) -> list[dict[str, Any]]:
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        while True:
            try:
                response = httpx.post(self._url, json={"instances": texts}, timeout=PREDICTION_TIMEOUT_S)
            except httpx.HTTPError as error:
                raise PlatformError(
                    f"The predictor at {self._url} does not answer ({type(error).__name__}). `reviewloop up` starts it."
                ) from None
            # It sheds load while others ask as well.
            if response.status_code != httpx.codes.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
                break
            time.sleep(float(response.headers.get("retry-after", 1)))
        if response.status_code != httpx.codes.OK:
            raise PlatformError(f"The predictor answered {response.status_code}: {response.text[:300]}")
        return list(response.json()["predictions"])


class TaskImport:
    """Puts tasks that are not known yet into the project, in batches; run again, it goes on where it stopped."""

    def __init__(self, server: LabelStudioServer, project: ReviewProject, registry: Registry) -> None:
        self._server = server
        self._project = project
        self._registry = registry
        self._accounts: dict[str, int] = {}

    def run(
        self,
        tasks: Iterator[FileTask],
        result: ImportResult,
        champion: Champion | None = None,
        acceptance: Acceptance | None = None,
        report_progress: Callable[[ImportResult], None] = lambda result: None,
    ) -> None:
        """Import ``tasks``, counting into ``result``.

        With ``champion``, tasks without an annotation get its prediction and are imported least certain first,
        which is the order that Label Studio hands them out in.

        Raises:
            LabelStudioError, PlatformError, ObjectStoreError, DataError: a part failed. What was imported stays.
        """
        accepted = {label.key for label in self._registry.machine_labels()}
        new = self._not_known(tasks, self._project.keys(), accepted, result)
        if champion:
            with _queue() as queue:
                for batch in _batches(new, PREDICTION_BATCH):
                    queue.put(self._prelabelled(batch, champion, acceptance, result))
                    report_progress(result)
                self._import(queue.least_certain_first(), result, report_progress)
        else:
            self._import(map(self._as_it_is, new), result, report_progress)

    def _not_known(
        self, tasks: Iterator[FileTask], known: set[str], accepted: set[str], result: ImportResult
    ) -> Iterator[FileTask]:
        for task in tasks:
            result.read += 1
            key = content_key(task.text)
            # A person's answer is more than a machine label, and comes in beside it.
            if key in known or (key in accepted and not task.annotations):
                result.known += 1
                continue
            known.add(key)
            yield task

    def _prelabelled(
        self, tasks: list[FileTask], champion: Champion, acceptance: Acceptance | None, result: ImportResult
    ) -> Iterator["_Queued"]:
        open_tasks = []
        for task in tasks:
            if task.annotations:
                yield _Queued(ANSWERED, self._as_it_is(task))
            elif len(task.text) > MAX_TEXT_CHARACTERS:
                yield _Queued(UNKNOWN, self._as_it_is(task))
            else:
                open_tasks.append(task)
        machine_labels = []
        predictions = champion.predict([task.text for task in open_tasks]) if open_tasks else []
        for task, prediction in zip(open_tasks, predictions, strict=True):
            key, score, version = content_key(task.text), prediction.pop("score"), prediction.pop("model_version")
            prediction.pop("threshold", None)
            label = self._project.task.answered(prediction)
            draw = uniform_draw(key, CHECK_SALT)
            if acceptance is None or score < acceptance.above:
                task = replace(task, predictions=(FilePrediction(label, score, version),))
                yield _Queued(score, self._as_it_is(task))
            elif draw < acceptance.check:
                result.checked += 1
                # Without a pre-annotation, which would draw the reviewer towards it, and anywhere in the queue.
                facts = {"confidence": score, "model_version": version, "prediction": prediction}
                task = replace(task, predictions=(), meta=task.meta | {"reason": MACHINE_CHECK, **facts})
                yield _Queued(uniform_draw(key, "place") * acceptance.above, self._as_it_is(task))
            else:
                machine_labels.append(MachineLabel(key, task.text, label, score, version, _now()))
        if machine_labels:
            self._registry.add_machine_labels(machine_labels)
            result.accepted += len(machine_labels)

    def _import(
        self, tasks: Iterator[dict[str, Any]], result: ImportResult, report_progress: Callable[[ImportResult], None]
    ) -> None:
        for batch in _batches(tasks, BATCH):
            self._project.import_tasks(batch)
            result.imported += len(batch)
            report_progress(result)

    def _as_it_is(self, task: FileTask) -> dict[str, Any]:
        """The task as Label Studio imports it."""
        kind = self._project.task
        return {
            "data": {"text": task.text, "key": content_key(task.text)},
            "meta": {"origin": task.origin} | task.meta | {"reason": self._reason(task.meta)},
            "annotations": [
                {
                    "result": kind.annotation_result(annotation.label, task.text),
                    "completed_by": self._account(annotation, number),
                }
                for number, annotation in enumerate(task.annotations, start=1)
            ],
            "predictions": [
                {
                    "result": kind.annotation_result(prediction.label, task.text),
                    "score": prediction.score,
                    "model_version": prediction.model_version,
                }
                for prediction in task.predictions
            ],
        }

    def _reason(self, meta: dict[str, Any]) -> Any:
        """That of a task that a loop routed, as its export says it; training reads what stands beside it."""
        reason = meta.get("reason", IMPORTED)
        if reason in ROUTED_REASONS and not is_whole_routing(meta, self._project.task):
            return IMPORTED
        return reason

    def _account(self, annotation: FileAnnotation, number: int) -> int:
        """An account here for each reviewer there, since one reviewer's second answer would replace the first."""
        name = annotation.reviewer or str(number)
        # Label Studio refuses an account without a proper address, and a file may name people in any way.
        is_plain = re.fullmatch(PLAIN_NAME, name)
        is_email = re.fullmatch(PLAIN_EMAIL, name) and len(name) <= MAX_EMAIL
        email = name if is_email else f"imported-{name if is_plain else content_key(name)}@example.com"
        if email not in self._accounts:
            self._accounts |= self._server.ensure_reviewers([email])
        return self._accounts[email]


@dataclass(frozen=True, slots=True)
class _Queued:
    """A task to import, and its place in the order of certainty."""

    certainty: float
    task: dict[str, Any]


class _Queue:
    """Tasks on disk, since they may be too many for memory, given back in the order of their certainty."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        database.execute("CREATE TABLE tasks (certainty REAL, task TEXT)")

    def put(self, tasks: Iterable[_Queued]) -> None:
        """Add tasks."""
        rows = ((queued.certainty, json.dumps(queued.task)) for queued in tasks)
        self._database.executemany("INSERT INTO tasks VALUES (?, ?)", rows)

    def least_certain_first(self) -> Iterator[dict[str, Any]]:
        """All tasks."""
        return (json.loads(task) for (task,) in self._database.execute("SELECT task FROM tasks ORDER BY certainty"))


@contextmanager
def _queue() -> Iterator[_Queue]:
    with tempfile.TemporaryDirectory() as directory, closing(sqlite3.connect(Path(directory) / "tasks.db")) as database:
        yield _Queue(database)


def _batches(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    while batch := list(itertools.islice(items, size)):
        yield batch


def _requests(texts: list[str]) -> Iterator[list[str]]:
    """``texts`` in lists of at most :data:`PREDICTION_CHARACTERS`."""
    request: list[str] = []
    size = 0
    for text in texts:
        if request and size + len(text) > PREDICTION_CHARACTERS:
            yield request
            request, size = [], 0
        request.append(text)
        size += len(text)
    if request:
        yield request


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
