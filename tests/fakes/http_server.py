"""What the fakes share: a threaded HTTP server on the loopback interface that speaks JSON."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass
class Answer:
    """A status with a JSON document, a text, or a stream of documents, a line each."""

    status: int
    body: Any = None
    stream: Iterator[Any] | None = None


class FakeHandler(BaseHTTPRequestHandler):
    """Hands every request to ``respond``."""

    protocol_version = "HTTP/1.1"

    def respond(self, method: str, path: str, query: dict[str, str], body: Any) -> Answer:
        """The answer to a request whose body was JSON."""
        raise NotImplementedError

    def do_GET(self) -> None:
        self._do()

    def do_POST(self) -> None:
        self._do()

    def do_PATCH(self) -> None:
        self._do()

    def do_PUT(self) -> None:
        self._do()

    def do_DELETE(self) -> None:
        self._do()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _do(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        answer = self.respond(self.command, url.path, query, json.loads(content) if content else None)
        text = isinstance(answer.body, str)
        self.send_response(answer.status)
        self.send_header("Content-Type", "text/plain" if text else "application/json")
        if answer.stream is not None:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            try:
                for document in answer.stream:
                    self._write_chunk(json.dumps(document).encode() + b"\n")
                self._write_chunk(b"")
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # Who watched has gone.
            return
        content = answer.body.encode() if text else json.dumps(answer.body).encode()
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _write_chunk(self, content: bytes) -> None:
        self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
        self.wfile.flush()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


@contextmanager
def serve(handler: type[FakeHandler], port: int = 0) -> Iterator[str]:
    """Serve on a free port, or on ``port``; the URL."""
    server = _Server(("127.0.0.1", port), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
