"""A predictor that is down, slow, empty or overloaded; an outbox that cannot be written; and the end of a process."""

import json
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.review.outbox import Outbox
from serving.transformer.model import MAX_SMALL_REQUESTS_UNDER_WAY
from tests.serving.conftest import Serving
from tests.serving.processes import MODEL, Server, free_port, predictor, running, transformer, wait_until
from tests.tiny_model import write_tiny_model

MARKER = "xylophone7531"


@dataclass
class FakePredictor:
    """Answers everything alike: what no real predictor can be brought to do."""

    url: str = ""
    status: int = 200
    answer: bytes = b""
    delay_s: float = 0.0
    texts: list[str] = field(default_factory=list)
    """All texts it was ever sent."""


@pytest.fixture(scope="module")
def fake_predictor() -> Iterator[FakePredictor]:
    fake = FakePredictor()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            fake.texts += json.loads(self.rfile.read(int(self.headers["content-length"])))["instances"]
            time.sleep(fake.delay_s)
            self.send_response(fake.status)
            self.send_header("content-length", str(len(fake.answer)))
            self.end_headers()
            with suppress(BrokenPipeError):
                self.wfile.write(fake.answer)

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        fake.url = f"http://127.0.0.1:{server.server_port}"
        yield fake
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def front_of_fake(fake_predictor: FakePredictor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("front") / "log"
    front = transformer(fake_predictor.url, log, "--review", "off", "--predictor_request_timeout_seconds", "2")
    with running(front):
        front.wait_until()
        yield front
    assert MARKER not in front.log and "Traceback" not in front.log


@pytest.mark.parametrize(
    ("status", "answer", "expected"),
    [
        (503, b'{"error": "The server has more texts waiting than it can take."}', 503),
        (500, b"Internal Server Error", 503),
        (422, b'{"error": "No such thing."}', 422),
        (200, b'{"predictions": [{"0": 0.9, "1": 0.1}]}', 502),
        (200, b'{"predictions": []}', 502),
        (200, b'{"predictions": ["positive"]}', 502),
        (200, b'{"predictions": [{"score": 0.9, "model_version": "v1", "threshold": 0.9, "answer": 42}]}', 502),
        (200, b"hello", 502),
    ],
)
def test_what_the_predictor_answers_reaches_the_client(
    front_of_fake: Server, fake_predictor: FakePredictor, status: int, answer: bytes, expected: int
) -> None:
    fake_predictor.status, fake_predictor.answer, fake_predictor.delay_s = status, answer, 0.0
    response = front_of_fake.post_v1({"instances": [MARKER]})
    assert response.status_code == expected
    assert response.json()["error"].endswith(".")
    assert ("retry-after" in response.headers) == (expected == 503)


def test_a_predictor_that_hangs_is_a_503_after_the_timeout(
    front_of_fake: Server, fake_predictor: FakePredictor
) -> None:
    fake_predictor.delay_s = 3.0
    response = front_of_fake.post_v1({"instances": [MARKER]})
    assert response.status_code == 503
    assert "does not answer (TimeoutError)" in response.json()["error"]


def test_the_text_of_a_client_that_left_is_not_sent_on(front_of_fake: Server, fake_predictor: FakePredictor) -> None:
    fake_predictor.delay_s = 1.0
    fake_predictor.status, fake_predictor.answer = 422, b'{"error": "Not now."}'

    def post(text: str, timeout_s: float) -> None:
        with suppress(httpx.TimeoutException):
            url = f"{front_of_fake.url}/v1/models/{MODEL}:predict"
            httpx.post(url, json={"instances": [text]}, timeout=timeout_s)

    with ThreadPoolExecutor(6) as clients:
        for number in range(MAX_SMALL_REQUESTS_UNDER_WAY):
            clients.submit(post, f"early {number}", 10)
            time.sleep(0.05)
        clients.submit(post, "left", 0.5)
        clients.submit(post, "stayed", 10)
    assert "stayed" in fake_predictor.texts
    assert "left" not in fake_predictor.texts


def test_a_predictor_that_is_down_is_a_quick_503(tmp_path: Path) -> None:
    front = transformer(f"http://127.0.0.1:{free_port()}", tmp_path / "log", "--review", "off")
    with running(front):
        front.wait_until()
        for post, body in (
            (front.post_v1, {"instances": [MARKER]}),
            (front.post_v2, {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1], "data": [MARKER]}]}),
        ):
            started = time.monotonic()
            response = post(body)
            assert time.monotonic() - started < 2.0
            assert response.status_code == 503
            assert response.headers["retry-after"] == "1"
            assert "predictor does not answer" in response.json()["error"]
    assert MARKER not in front.log and "Traceback" not in front.log


def test_an_empty_predictor_waits_for_its_first_model(tmp_path: Path) -> None:
    current = tmp_path / "current"
    back = predictor(current, tmp_path / "back.log")
    front = transformer(back.url, tmp_path / "front.log", "--review", "off")
    with running(front, back):
        back.wait_until("/v2/health/live")
        front.wait_until()
        assert back.get("/v2/health/ready").status_code == 503
        assert back.get(f"/v1/models/{MODEL}").status_code == 503
        assert back.get(f"/v2/models/{MODEL}").json()["outputs"] == []
        for server in (back, front):
            response = server.post_v1({"instances": ["a text"]})
            assert (response.status_code, response.headers["retry-after"]) == (503, "1")
            assert "no version to answer with yet" in response.json()["error"]
        response = back.post(f"/v2/repository/models/{MODEL}/load", b"")
        assert response.status_code == 503
        assert "inference.json is missing" in response.json()["error"]
        current.symlink_to(write_tiny_model(tmp_path / "v0001"))
        assert back.post(f"/v2/repository/models/{MODEL}/load", b"").status_code == 200
        assert back.get("/v2/health/ready").status_code == 200
        assert front.predict("a text")[0]["model_version"] == "v0001"


def test_an_overloaded_server_sheds_and_recovers(serving: Serving) -> None:
    text = "the movie was great and " * 40
    body = json.dumps({"instances": [text] * 1000}).encode()
    sent = threading.Event()

    def post(number: int) -> tuple[int, bool]:
        response = serving.predictor.post_v1(body)
        sent.set()
        return response.status_code, "retry-after" in response.headers

    with ThreadPoolExecutor(24) as clients:
        answers = list(clients.map(post, range(72)))
    assert set(answers) == {(200, False), (503, True)}
    assert serving.predictor.predict("the movie")


@pytest.fixture
def own_transformer(serving: Serving, tmp_path: Path) -> Iterator[tuple[Server, Path]]:
    """A transformer with an outbox of its own."""
    path = tmp_path / "outbox.db"
    front = transformer(
        serving.predictor.url, tmp_path / "log", "--outbox_url", f"sqlite:///{path}", "--audit_rate", "1"
    )
    with running(front):
        front.wait_until()
        yield front, path


def test_an_outbox_that_cannot_be_written_costs_the_review_and_not_the_answer(
    own_transformer: tuple[Server, Path],
) -> None:
    front, path = own_transformer
    assert front.predict("before")[0]["review"]["routed"]
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        (prediction,) = front.predict(f"meanwhile {MARKER}")
        assert time.monotonic() - started < 3.0
    assert prediction["label"]
    assert prediction["review"]["routed"] is False
    assert prediction["review"]["reason"] in {"low_confidence", "audit"}
    assert prediction["review"]["error"] == "The review outbox took longer than 2 s."
    assert front.metric("reviewloop_outbox_write_failures_total") == 1
    assert front.predict("after")[0]["review"]["routed"]
    assert "outbox takes items again" in front.log
    assert MARKER not in front.log


def test_sigterm_answers_what_has_arrived(serving: Serving, tmp_path: Path, model_dir: Path) -> None:
    back = predictor(model_dir, tmp_path / "back.log")
    front = transformer(back.url, tmp_path / "front.log", "--outbox_url", f"sqlite:///{tmp_path / 'outbox.db'}")
    with running(front, back):
        back.wait_until()
        front.wait_until()
        bodies = [{"instances": [f"the movie was great {n} {i}" for i in range(1000)]} for n in range(4)]
        with ThreadPoolExecutor(4) as clients:
            answers = [clients.submit(front.post_v1, body) for body in bodies]
            wait_until(lambda: _busy(front), "the requests to arrive", 10)
            front.signal(signal.SIGTERM)
            responses = [answer.result() for answer in answers]
        assert [r.status_code for r in responses] == [200] * 4
        assert front.wait() == 0
        routed = {p["review"]["key"] for r in responses for p in r.json()["predictions"] if p["review"]["routed"]}
        outbox = Outbox(f"sqlite:///{tmp_path / 'outbox.db'}")
        assert routed
        assert outbox.counts().pending == len(routed)
        outbox.close()
        back.signal(signal.SIGINT)
        assert back.wait() == 0
    for server in (front, back):
        assert "Traceback" not in server.log


def _busy(server: Server) -> bool:
    time.sleep(0.3)
    return server.popen.poll() is None


@pytest.mark.parametrize(("number", "delay_s"), [(signal.SIGINT, 0.3), (signal.SIGTERM, 1.5), (signal.SIGINT, 3.0)])
def test_a_process_that_is_still_starting_ends_quietly(
    tmp_path: Path, model_dir: Path, number: int, delay_s: float
) -> None:
    back = predictor(model_dir, tmp_path / "log")
    with running(back):
        time.sleep(delay_s)
        back.signal(number)
        back.wait()
    assert "Traceback" not in back.log


def test_workers_share_one_port(serving: Serving, tmp_path: Path) -> None:
    front = transformer(
        serving.predictor.url,
        tmp_path / "log",
        *("--outbox_url", f"sqlite:///{tmp_path / 'outbox.db'}", "--workers", "2"),
    )
    with running(front):
        front.wait_until()
        texts = [f"the movie {number}" for number in range(30)]
        routed = {p["review"]["key"] for t in texts for p in front.predict(t) if p["review"]["routed"]}
        response = front.post_v1({"instances": []})
        assert response.status_code == 400
    outbox = Outbox(f"sqlite:///{tmp_path / 'outbox.db'}")
    assert outbox.counts().pending == len(routed) > 0
    outbox.close()
    assert "Traceback" not in front.log


@pytest.mark.parametrize(
    ("module", "arguments", "part"),
    [
        ("serving.predictor", ["--workers", "2"], "--workers must be 1"),
        ("serving.transformer", [], "--predictor_host is required"),
        ("serving.transformer", ["--predictor_host", "x:1"], "--outbox_url, or REVIEWLOOP_OUTBOX_URL, is required"),
        ("serving.transformer", ["--predictor_host", "x:1", "--outbox_url", "x"], "outbox URL is not usable"),
        ("serving.transformer", ["--predictor_host", "x:1", "--audit_rate", "7"], "between 0 and 1, got 7"),
    ],
)
def test_bad_arguments_are_named(tmp_path: Path, module: str, arguments: list[str], part: str) -> None:
    server = Server(module, *arguments, log=tmp_path / "log")
    assert server.wait() == 2
    assert part in server.log
    assert "Traceback" not in server.log


def test_a_port_that_is_taken_is_said_so(serving: Serving, tmp_path: Path, model_dir: Path) -> None:
    server = predictor(model_dir, tmp_path / "log", port=serving.predictor.port)
    assert server.wait() != 0
    assert "address already in use" in server.log
    assert "Traceback" not in server.log
