"""A closed-loop HTTP load generator in a process of its own, lean because it shares the cores it measures.

Reads one JSON command a line from standard input, writes one JSON result a line.
"""

import asyncio
import functools
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import uvloop


@dataclass(slots=True)
class Run:
    """One measurement. What completes before ``start`` (warming up) or after ``stop`` (running out) is not counted."""

    requests: list[bytes]
    start: float
    stop: float
    sent: int = 0
    failed: int = 0
    latencies: list[float] = field(default_factory=list)

    def next_request(self) -> bytes | None:
        """The next request's bytes, or None when the time is up."""
        if time.perf_counter() >= self.stop:
            return None
        self.sent += 1
        return self.requests[self.sent - 1]

    def completed(self, sent_at: float) -> None:
        """Count an answer that has arrived now."""
        now = time.perf_counter()
        if self.start <= now < self.stop:
            self.latencies.append(now - sent_at)


class Client(asyncio.Protocol):
    """One connection: sends the next request when the answer to the last one is complete."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._left = -1
        self._buffer = b""
        self._sent_at = 0.0
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start."""
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        """Count what is left of the answer; its status and length are all that is read of it."""
        if self._left < 0:
            self._buffer += data
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self._buffer[:end].lower()
            start = head.index(b"content-length:") + 15
            stop = head.find(b"\r\n", start)
            self._left = int(head[start : stop if stop >= 0 else end]) - (len(self._buffer) - end - 4)
            self._run.failed += head[9:12] != b"200"
            self._buffer = b""
        else:
            self._left -= len(data)
        if self._left == 0:
            self._run.completed(self._sent_at)
            self._left = -1
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        """A connection that ends before its work does is a failed request."""
        if not self.done.done():
            self._run.failed += 1
            self.done.set_result(None)

    def _send(self) -> None:
        request = self._run.next_request()
        if request is None:
            self.done.set_result(None)
            self._transport.close()
            return
        self._sent_at = time.perf_counter()
        self._transport.write(request)


@functools.cache
def requests_in(path: Path, url_path: str) -> list[bytes]:
    """The file's lines as POST requests."""
    head = f"POST {url_path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
    return [f"{head}{len(body)}\r\n\r\n".encode() + body for body in path.read_bytes().splitlines()]


async def measure(port: int, requests: list[bytes], clients: int, warm_s: float, seconds: float) -> dict[str, object]:
    """Send ``requests`` over ``clients`` connections, each one at a time; counts for ``seconds`` after ``warm_s``."""
    now = time.perf_counter()
    run = Run(requests, now + warm_s, now + warm_s + seconds)
    loop = asyncio.get_running_loop()
    made = [await loop.create_connection(lambda: Client(run), "127.0.0.1", port) for _ in range(clients)]
    await asyncio.gather(*(client.done for _, client in made))
    return {"seconds": seconds, "failed": run.failed, "latencies": run.latencies}


async def main() -> None:
    """Serve commands until standard input ends."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        command = json.loads(line)
        requests = requests_in(Path(command.pop("bodies")), command.pop("path"))
        first, count = command.pop("first"), command.pop("count")
        result = await measure(requests=requests[first : first + count], **command)
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(main())
