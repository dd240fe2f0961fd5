"""The retrain trigger's HTTP side: a webhook that makes it look sooner, its health, and its metrics."""

import hmac
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

SECRET_HEADER = "X-Reviewloop-Secret"  # noqa: S105 - the header's name
MAX_BODY = 1_000_000
"""Bytes; Label Studio sends the whole annotation with its task."""
CLIENT_TIMEOUT_S = 10.0


@contextmanager
def listening(host: str, port: int, secret: str, hint: Callable[[], None]) -> Iterator[int]:
    """Answer HTTP requests meanwhile, and call ``hint`` for each from Label Studio; gives the port.

    Without a ``secret``, every webhook request is refused.
    """
    handler = type("Handler", (_Handler,), {"secret": secret.encode(), "hint": staticmethod(hint)})
    with ThreadingHTTPServer((host, port), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, name="webhook", daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    secret: bytes
    hint: Callable[[], None]
    timeout = CLIENT_TIMEOUT_S
    server_version = "reviewloop"
    sys_version = ""

    def do_GET(self) -> None:
        if self.path == "/healthz":
            self._answer(HTTPStatus.OK, b"ok\n")
        elif self.path == "/metrics":
            self._answer(HTTPStatus.OK, generate_latest(), CONTENT_TYPE_LATEST)
        else:
            self._answer(HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        if self.path != "/webhook":
            self._answer(HTTPStatus.NOT_FOUND)
            return
        given = self.headers.get(SECRET_HEADER)
        if given is None:
            self._answer(HTTPStatus.UNAUTHORIZED)
        elif not self.secret or not hmac.compare_digest(given.encode("latin-1", "replace"), self.secret):
            self._answer(HTTPStatus.FORBIDDEN)
        else:
            self._take()

    def _take(self) -> None:
        length = self.headers.get("Content-Length", "0")
        if not length.isdigit():
            self._answer(HTTPStatus.BAD_REQUEST)
        elif int(length) > MAX_BODY:
            self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        else:
            # Read, so that the sender gets the answer; what it says is asked of Label Studio.
            self.rfile.read(int(length))
            self.hint()
            self._answer(HTTPStatus.NO_CONTENT)

    def _answer(self, status: HTTPStatus, body: bytes = b"", kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        if status != HTTPStatus.NO_CONTENT:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not logged: they carry texts of users, and a probe comes every few seconds."""
