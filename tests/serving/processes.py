"""The serving processes as tests start them: real subprocesses on free ports of the loopback interface."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[2]
MODEL = "sentiment"
START_TIMEOUT_S = 60.0


def free_port() -> int:
    """A port that nothing listens on at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Process:
    """A Python module run as a subprocess, its output in a file."""

    def __init__(self, module: str, *arguments: object, log: Path, **environment: str) -> None:
        self.log_path = log
        with log.open("ab") as output:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", module, *map(str, arguments)],
                cwd=ROOT,
                env=os.environ | environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def log(self) -> str:
        """All it has written so far."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self.popen.send_signal(number)

    def wait(self, timeout_s: float = 30.0) -> int:
        """Its exit status, once it has ended."""
        return self.popen.wait(timeout_s)

    def stop(self) -> None:
        """End it, by force if it does not go."""
        if self.popen.poll() is None:
            self.signal(signal.SIGTERM)
            try:
                self.wait(15.0)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()


class Server(Process):
    """A serving process with an HTTP endpoint."""

    def __init__(self, module: str, *arguments: object, log: Path, port: int | None = None) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        shared = ["--model_name", MODEL, "--http_port", self.port, "--host", "127.0.0.1"]
        super().__init__(module, *shared, *arguments, log=log)

    def wait_until(self, path: str = "/v2/health/ready") -> None:
        """Return once ``path`` answers 200."""
        wait_until(lambda: self._answers(path), f"{self.url}{path} to answer; its log:\n{self.log}")

    def predict(self, *texts: str) -> list[dict[str, Any]]:
        """The V1 predictions for ``texts``."""
        response = self.post_v1({"instances": list(texts)})
        assert response.status_code == 200, response.text
        return list(response.json()["predictions"])

    def post_v1(self, body: Any, **headers: str) -> httpx.Response:
        """POST ``body`` (bytes as they are, else JSON) to the V1 endpoint."""
        return self.post(f"/v1/models/{MODEL}:predict", body, **headers)

    def post_v2(self, body: Any, **headers: str) -> httpx.Response:
        """POST ``body`` (bytes as they are, else JSON) to the V2 endpoint."""
        return self.post(f"/v2/models/{MODEL}/infer", body, **headers)

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        """POST ``body`` (bytes as they are, else JSON)."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
        return httpx.post(self.url + path, content=content, headers=headers, timeout=30)

    def get(self, path: str) -> httpx.Response:
        """GET ``path``."""
        return httpx.get(self.url + path, timeout=10)

    def metric(self, name: str, **labels: str) -> float:
        """The value of a sample on /metrics, 0 if there is none."""
        total = 0.0
        for line in self.get("/metrics").text.splitlines():
            if line.startswith(name) and all(f'{k}="{v}"' in line for k, v in labels.items()):
                sample, value = line.rsplit(" ", 1)
                if sample.split("{")[0] == name:
                    total += float(value)
        return total

    def _answers(self, path: str) -> bool:
        assert self.popen.poll() is None, f"The process ended:\n{self.log}"
        try:
            return self.get(path).status_code == 200
        except httpx.TransportError:
            return False


def predictor(model_dir: Path, log: Path, port: int | None = None) -> Server:
    """A predictor serving ``model_dir``."""
    return Server("serving.predictor", "--model_dir", model_dir, log=log, port=port)


def transformer(predictor_url: str, log: Path, *arguments: object) -> Server:
    """A transformer in front of the predictor at ``predictor_url``."""
    host = predictor_url.removeprefix("http://")
    return Server("serving.transformer", "--predictor_host", host, *arguments, log=log)


@contextmanager
def running(*processes: Process) -> Iterator[None]:
    """Stop the processes in the end."""
    try:
        yield
    finally:
        for process in processes:
            process.stop()


def wait_until(condition: Any, what: str, timeout_s: float = START_TIMEOUT_S) -> None:
    """Return once ``condition()`` is true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"Waited {timeout_s:g} s for {what}"
        time.sleep(0.05)
