"""A Label Studio with one project, as the retrain trigger sees it: counts, and the task that was finished last."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from tests.fakes.http_server import Answer, FakeHandler, serve


class FakeReviewCounts:
    """What the project counts; the test sets it."""

    def __init__(self, title: str) -> None:
        self.url = ""
        self.title = title
        self.tasks = 100
        self.finished = 0
        self.annotations = 0
        self.last_finished_at: datetime | None = None
        self.down = False

    def answer(self, path: str, query: dict[str, str]) -> Answer:
        """The answer to a GET."""
        if self.down:
            return Answer(503, {})
        if path.rstrip("/") == "/api/projects":
            found = [{"id": 1, "title": self.title}] if query.get("page", "1") == "1" else []
            return Answer(200, {"count": 1, "results": found})
        if path.rstrip("/") == "/api/projects/1":
            counts = {"task_number": self.tasks, "finished_task_number": self.finished}
            return Answer(200, {"id": 1, "title": self.title, "total_annotations_number": self.annotations} | counts)
        if path.rstrip("/") == "/api/tasks":
            annotations = [{"id": 1, "created_at": self.last_finished_at.isoformat()}] if self.last_finished_at else []
            tasks: list[Any] = [{"id": 1, "data": {"text": "a"}, "annotations": annotations}] if annotations else []
            return Answer(200, {"tasks": tasks, "total": len(tasks), "total_annotations": 0, "total_predictions": 0})
        return Answer(404, {"detail": "Not found."})


class _Handler(FakeHandler):
    fake: FakeReviewCounts

    def respond(self, method: str, path: str, query: dict[str, str], body: Any) -> Answer:
        return self.fake.answer(path, query) if method == "GET" else Answer(405, {"detail": "Method not allowed."})


@contextmanager
def fake_review_counts(title: str) -> Iterator[FakeReviewCounts]:
    """A running one."""
    fake = FakeReviewCounts(title)
    with serve(type("Handler", (_Handler,), {"fake": fake})) as url:
        fake.url = url
        yield fake
