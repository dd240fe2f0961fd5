"""Start, watch and stop the platform's subprocesses."""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from reviewloop.errors import PlatformError

LOOPBACK = "127.0.0.1"
STOP_TIMEOUT_S = 20.0
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Part:
    """A running subprocess. ``started`` is its start time, so that a reused process id is not mistaken for it."""

    name: str
    pid: int
    started: float
    log: str

    @property
    def process(self) -> psutil.Process | None:
        """The process if it still runs."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            if abs(process.create_time() - self.started) < 0.01 and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None

    def log_tail(self, lines: int = 8) -> str:
        """The last lines it logged."""
        return "\n".join(Path(self.log).read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def free_port(preferred: int | None = None) -> int:
    """``preferred`` if nothing listens on it, else any free port on the loopback interface."""
    for port in (preferred, 0):
        if port is None:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((LOOPBACK, port))
            return int(probe.getsockname()[1])
    raise PlatformError("There is no free port on the loopback interface.")


def start_part(
    name: str, command: Sequence[str], log: Path, environment: Mapping[str, str], *, dies_with_parent: bool
) -> Part:
    """Start a subprocess in a session of its own, so that Ctrl-C reaches it only through us.

    Call it from the main thread: with ``dies_with_parent`` the kernel ends the subprocess when the calling thread
    ends, so that nothing outlives a parent that was killed.

    Raises:
        PlatformError: the program is not there.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        try:
            child = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                start_new_session=True,
                preexec_fn=_die_with_parent if dies_with_parent else None,
            )
        except FileNotFoundError:
            raise PlatformError(f"{command[0]} is not installed. Run `make setup`.") from None
    return Part(name, child.pid, psutil.Process(child.pid).create_time(), str(log))


def wait_until_healthy(
    part: Part, url: str, timeout_s: float, is_healthy: Callable[[httpx.Response], bool] | None = None
) -> None:
    """Poll ``url`` until it answers 200 (or ``is_healthy`` says so).

    Raises:
        PlatformError: the part died or the time is over; with the end of its log.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if part.process is None:
            raise PlatformError(f"{part.name} died while starting. The end of {part.log}:\n{part.log_tail()}")
        with contextlib.suppress(httpx.HTTPError):
            response = httpx.get(url, timeout=5.0)
            if is_healthy(response) if is_healthy else response.status_code == httpx.codes.OK:
                return
        time.sleep(0.1)
    raise PlatformError(
        f"{part.name} did not answer at {url} within {timeout_s:.0f} s. The end of {part.log}:\n{part.log_tail()}"
    )


def stop_parts(parts: Sequence[Part]) -> None:
    """Ask them to stop, all at once; kill what is left after ``STOP_TIMEOUT_S``."""
    processes = []
    for part in parts:
        if process := part.process:
            processes += [process, *process.children(recursive=True)]
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=STOP_TIMEOUT_S)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=5.0)


def stop_descendants() -> None:
    """Stop every process this one started, directly or not: for leaving after an interrupt."""
    descendants = psutil.Process().children(recursive=True)
    for process in descendants:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(descendants, timeout=STOP_TIMEOUT_S)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
