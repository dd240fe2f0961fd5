"""A Label Studio that fails on demand, in the ways that the real one cannot be brought to fail at a chosen moment."""

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

PROJECT = "reviews"


class FakeLabelStudio:
    """One project's tasks. The attributes say how the next requests fail."""

    def __init__(self) -> None:
        self.url = ""
        self.tasks: list[dict[str, Any]] = []
        self.imports: list[int] = []
        """Sizes of the import requests, in order."""
        self.down = False
        """Every request is answered 503."""
        self.unauthorized = False
        """Every request is answered 401."""
        self.lose_answers = 0
        """So many imports take effect, and are answered 500."""
        self.late_effect_s: list[float] = []
        """For each of the next imports: the connection breaks at once, and it takes effect so much later."""
        self.answer_after_s = 0.0
        """An import has taken effect so long before it is answered."""
        self.refused_word: str | None = None
        """An import with a text that has this word is answered 400, and has no effect."""
        self._lock = threading.Lock()

    def task_keys(self) -> list[str]:
        """The key of every task, in order."""
        return [task["data"]["key"] for task in self.tasks]

    def add(self, tasks: list[dict[str, Any]]) -> list[int]:
        """Make the tasks; their ids."""
        with self._lock:
            first = len(self.tasks) + 1
            self.tasks += [{"id": first + n, "data": task["data"]} for n, task in enumerate(tasks)]
            return list(range(first, first + len(tasks)))


class _Handler(BaseHTTPRequestHandler):
    fake: FakeLabelStudio

    def do_GET(self) -> None:
        if self._fails():
            return
        url = urlsplit(self.path)
        parameters = {name: values[0] for name, values in parse_qs(url.query).items()}
        if url.path == "/api/projects/":
            projects = [{"id": 1, "title": PROJECT}] if parameters.get("page", "1") == "1" else []
            self._answer(200, {"count": 1, "results": projects})
            return
        filters = json.loads(parameters["query"])["filters"]["items"]
        wanted = {item["filter"]: item["value"] for item in filters}
        after, pattern = wanted["filter:tasks:id"], wanted["filter:tasks:data.key"]
        found = [task for task in self.fake.tasks if task["id"] > after and re.search(pattern, task["data"]["key"])]
        shown = found[: int(parameters["page_size"])]
        self._answer(200, {"tasks": shown, "total": len(found), "total_annotations": 0, "total_predictions": 0})

    def do_POST(self) -> None:
        tasks = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self._fails():
            return
        fake = self.fake
        fake.imports.append(len(tasks))
        if fake.late_effect_s:
            delay = fake.late_effect_s.pop(0)
            self.close_connection = True
            self.connection.close()
            time.sleep(delay)
            fake.add(tasks)
        elif fake.refused_word and any(fake.refused_word in task["data"]["text"] for task in tasks):
            self._answer(400, {"detail": "Validation error"})
        elif fake.lose_answers:
            fake.lose_answers -= 1
            fake.add(tasks)
            self._answer(500, {"detail": "database is locked"})
        else:
            made = fake.add(tasks)
            time.sleep(fake.answer_after_s)
            self._answer(201, {"task_count": len(tasks), "task_ids": made})

    def log_message(self, *args: Any) -> None:
        pass

    def _fails(self) -> bool:
        if self.fake.down:
            self._answer(503, {})
        elif self.fake.unauthorized:
            self._answer(401, {"detail": "Invalid token."})
        return self.fake.down or self.fake.unauthorized

    def _answer(self, status: int, document: Any) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def fake_label_studio() -> Iterator[FakeLabelStudio]:
    """A running one."""
    fake = FakeLabelStudio()
    handler = type("Handler", (_Handler,), {"fake": fake})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        server.handle_error = lambda *args: None  # type: ignore[method-assign]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        fake.url = f"http://127.0.0.1:{server.server_port}"
        yield fake
        server.shutdown()
        thread.join()
