"""What serving costs, and what it gains: the figures of benchmarks/README.md.

All contenders run at once and are measured in turns, in short slices, so that what else the machine does falls on
all of them alike. Those whose difference is small take turns within a round, in changing order.
"""

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import httpx

ROOT = Path(__file__).parents[1]
DEMO_MODEL = ROOT / "build" / "demo" / "serving" / "v0002"
DEMO_TEXTS = ROOT / "build" / "assets" / "amazon-traffic.jsonl"
MODEL = "sentiment"
AUDIT_RATE = 0.03
ROUTED_SHARE = 0.2
LIMIT_S = 1.5
MAX_ROUNDS = 6


@dataclass(frozen=True)
class Load:
    """How many clients send how many texts a request, for how long a slice, and how many slices a round."""

    name: str
    clients: int
    texts: int
    seconds: float
    warm_s: float
    requests_a_slice: int
    slices: int
    """Turns that each of our variants gets; the plain one, whose difference is large, gets one."""


SINGLE = Load("32 clients, 1 text a request", 32, 1, 1.5, 0.2, 2500, 9)
BATCHED = Load("8 clients, 32 texts a request", 8, 32, 1.4, 0.4, 150, 6)
ALONE = Load("1 client, 1 text a request", 1, 1, 0.5, 0.1, 600, 6)
LOADS = (SINGLE, BATCHED, ALONE)
OFF, ON, DOWN = "hook off", "hook on, 20% routed", "hook on, Label Studio down"
PLAIN, LIMIT = "plain KServe model", "forward passes alone"


class Talker:
    """A subprocess that answers one JSON line with one JSON line."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def ask(self, **command: Any) -> Any:
        """Send a command and wait for its result."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@dataclass
class Sample:
    """Slices of one variant under one load in one round, put together."""

    texts: int = 0
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)

    @property
    def throughput(self) -> float:
        """Texts a second."""
        return self.texts / self.seconds

    def latency_ms(self, quantile: float) -> float:
        """Latency of a request in milliseconds."""
        ordered = sorted(self.latencies)
        return 1000 * ordered[min(len(ordered) - 1, int(quantile * len(ordered)))]


Results = dict[tuple[str, str], list[Sample]]


class Bench:
    """Starts the contenders, measures them in turns, and ends them."""

    def __init__(self, model_dir: Path, texts: Sequence[str], work: Path, stack: ExitStack) -> None:
        self._work = work
        self._stack = stack
        self._model_dir = work / "model"
        shutil.copytree(model_dir, self._model_dir)
        self._texts = texts
        sample = work / "sample.jsonl"
        texts_alike = itertools.islice(self._supply("limit"), 2000)
        sample.write_text("\n".join(json.dumps(text) for text in texts_alike), encoding="utf-8")
        self._limit = Talker(self._start("benchmarks.limit", "--model_dir", self._model_dir, "--texts", sample))
        self.mean_tokens = self._set_threshold()
        self._bodies = {load: self._write_bodies(load) for load in LOADS}
        self._slices_used: dict[Load, int] = defaultdict(int)
        self._load = Talker(self._start("benchmarks.load"))
        self._ports = self._start_contenders()

    def round(self, results: Results, number: int) -> None:
        """One round: every contender under every load."""
        for passes, threads in ((1, os.cpu_count()), (os.cpu_count(), 1)):
            texts_a_second = self._limit.ask(what="speed", passes=passes, threads=threads, seconds=LIMIT_S)
            name = f"{LIMIT}, {passes} at a time of {threads} threads"
            results[name, "-"].append(Sample(round(texts_a_second * LIMIT_S), LIMIT_S))
        for load in LOADS:
            if load is not BATCHED:  # One request after the other: a slice would end before the first answers.
                self._measure(results, PLAIN, load, number, self._next_slice(load))
            for turn in range(load.slices):
                first = self._next_slice(load)
                variants = [OFF, ON, DOWN]
                for variant in variants[turn % 3 :] + variants[: turn % 3]:
                    self._measure(results, variant, load, number, first)

    def _measure(self, results: Results, name: str, load: Load, number: int, first: int) -> None:
        answer = self._load.ask(
            port=self._ports[name],
            path=f"/v1/models/{MODEL}:predict",
            bodies=str(self._bodies[load]),
            clients=load.clients,
            first=first,
            count=load.requests_a_slice,
            warm_s=load.warm_s,
            seconds=load.seconds,
        )
        if answer["failed"]:
            raise SystemExit(f"{answer['failed']} requests to {name!r} failed; see the logs in {self._work}.")
        samples = results[name, load.name]
        if len(samples) == number:
            samples.append(Sample())
        samples[-1].texts += len(answer["latencies"]) * load.texts
        samples[-1].seconds += answer["seconds"]
        samples[-1].latencies += answer["latencies"]

    def _next_slice(self, load: Load) -> int:
        # Every slice has texts of its own, the same for all variants, so that rows are really inserted.
        self._slices_used[load] += 1
        return (self._slices_used[load] - 1) * load.requests_a_slice

    def _set_threshold(self) -> float:
        """Make the threshold route the share that the benchmark is about; the mean number of tokens."""
        answer = self._limit.ask(what="scores")
        low_confidence = (ROUTED_SHARE - AUDIT_RATE) / (1 - AUDIT_RATE)
        scores = sorted(answer["scores"])
        path = self._model_dir / "inference.json"
        settings = json.loads(path.read_text(encoding="utf-8"))
        settings["threshold"] = scores[int(low_confidence * len(scores))]
        path.write_text(json.dumps(settings), encoding="utf-8")
        return float(answer["mean_tokens"])

    def _write_bodies(self, load: Load) -> Path:
        path = self._work / f"{load.clients}x{load.texts}.jsonl"
        slices = MAX_ROUNDS * (load.slices + 1)
        supply = self._supply(load.name)
        with path.open("w", encoding="utf-8") as file:
            for _ in range(slices * load.requests_a_slice):
                file.write(json.dumps({"instances": list(itertools.islice(supply, load.texts))}) + "\n")
        return path

    def _supply(self, salt: str) -> Iterator[str]:
        # One word more makes a text a new one to the outbox, and hardly longer.
        chance = random.Random(salt)
        words = sorted({word for text in self._texts for word in text.split() if word.isalpha()})
        seen = set()
        while True:
            text = f"{chance.choice(self._texts)} {chance.choice(words)}"
            if text not in seen:
                seen.add(text)
                yield text

    def _start_contenders(self) -> dict[str, int]:
        ports = {name: _free_port() for name in (PLAIN, OFF, ON, DOWN)}
        back = _free_port()
        shared = ("--model_name", MODEL, "--enable_grpc", "false", "--http_port")
        local = ("--host", "127.0.0.1")
        self._start("benchmarks.plain", *shared, ports[PLAIN], "--model_dir", self._model_dir)
        self._start("serving.predictor", *shared, back, *local, "--model_dir", self._model_dir)
        for name, review in ((OFF, ["--review", "off"]), (ON, self._outbox("on")), (DOWN, self._outbox("down"))):
            predictor = ("--predictor_host", f"127.0.0.1:{back}")
            self._start("serving.transformer", *shared, ports[name], *local, *predictor, *review)
        dead = f"http://127.0.0.1:{_free_port()}"
        dispatcher = ("--label_studio_url", dead, "--project", "benchmark", *self._outbox("down")[:2])
        self._start("serving.review.dispatcher", *dispatcher)
        for port in (back, *ports.values()):
            _wait_until_ready(f"http://127.0.0.1:{port}/v2/health/ready")
        return ports

    def _outbox(self, name: str) -> list[str]:
        return ["--outbox_url", f"sqlite:///{self._work / name}.db", "--audit_rate", str(AUDIT_RATE)]

    def _start(self, module: str, *arguments: object) -> "subprocess.Popen[str]":
        return self._stack.enter_context(_subprocess(module, *map(str, arguments), log=self._work / f"{module}.log"))


@contextmanager
def _subprocess(module: str, *arguments: str, log: Path) -> Iterator["subprocess.Popen[str]"]:
    with log.open("a") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=os.environ | {"LABEL_STUDIO_API_KEY": "none"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if module in {"benchmarks.limit", "benchmarks.load"} else errors,
            stderr=errors,
            text=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()


def report(results: Results, mean_tokens: float) -> str:
    """The results as Markdown."""
    rounds = len(next(iter(results.values())))
    limits = {name: samples for (name, load), samples in results.items() if load == "-"}
    limit = max(limits, key=lambda name: statistics.median(s.throughput for s in limits[name]))
    lines = [
        f"Median of {rounds} rounds (smallest to largest). Texts of {mean_tokens:.0f} tokens in the mean.",
        "",
        "| contender | load | texts/s | p50 ms | p99 ms |",
        "|---|---|---|---|---|",
    ]
    for (name, load), samples in results.items():
        row = [_spread([s.throughput for s in samples], 0)]
        row += [_spread([s.latency_ms(q) for s in samples], 1) if load != "-" else "" for q in (0.5, 0.99)]
        lines.append(f"| {name} | {load} | {' | '.join(row)} |")

    def ratio(above: str, below: str, load: Load) -> str:
        pairs = zip(results[above, load.name], results[below, load.name], strict=True)
        return _spread([a.throughput / b.throughput for a, b in pairs], 3)

    def added_ms(variant: str, load: Load) -> str:
        pairs = zip(results[variant, load.name], results[OFF, load.name], strict=True)
        return _spread([a.latency_ms(0.5) - b.latency_ms(0.5) for a, b in pairs], 2)

    shares = [
        _spread(
            [o.throughput / li.throughput for o, li in zip(results[v, BATCHED.name], limits[limit], strict=True)], 3
        )
        for v in (OFF, ON)
    ]
    lines += [
        "",
        "| target | measured |",
        "|---|---|",
        f"| at least 4 times the plain model, 32 clients with 1 text | {ratio(ON, PLAIN, SINGLE)} |",
        f"| at least 0.75 of the limit ({limit}), 32 texts a request | off {shares[0]}, on {shares[1]} |",
        f"| the hook costs at most 3% of throughput: on / off, 1 text | {ratio(ON, OFF, SINGLE)} |",
        f"| the same, 32 texts a request | {ratio(ON, OFF, BATCHED)} |",
        f"| the hook adds at most 0.5 ms to the p50, 32 clients with 1 text | {added_ms(ON, SINGLE)} ms |",
        f"| the same, 1 client with 1 text | {added_ms(ON, ALONE)} ms |",
        f"| Label Studio down costs at most 5%: down / off, 1 text | {ratio(DOWN, OFF, SINGLE)} |",
        f"| the same, 32 texts a request | {ratio(DOWN, OFF, BATCHED)} |",
    ]
    return "\n".join(lines)


def _spread(values: Sequence[float], digits: int) -> str:
    low, middle, high = (f"{value:.{digits}f}" for value in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low} to {high})"


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return cast(int, listener.getsockname()[1])


def _wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise SystemExit(f"{url} did not answer within two minutes.")


def main() -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        epilog="`make demo` makes both files.",
    )
    parser.add_argument("--model_dir", type=Path, default=DEMO_MODEL, help="A model directory of the pipeline.")
    parser.add_argument("--texts", type=Path, default=DEMO_TEXTS, help="JSON Lines with a field text.")
    parser.add_argument("--rounds", type=int, default=5, choices=range(1, MAX_ROUNDS + 1))
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    texts = [json.loads(line)["text"] for line in arguments.texts.read_text(encoding="utf-8").splitlines()]
    random.Random(1).shuffle(texts)
    results: Results = defaultdict(list)
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="serving-benchmark-")))
        bench = Bench(arguments.model_dir, texts, work, stack)
        for number in range(arguments.rounds):
            print(f"{time.strftime('%X')} round {number + 1} of {arguments.rounds}", file=sys.stderr)
            bench.round(results, number)
    print(report(results, bench.mean_tokens))


if __name__ == "__main__":
    main()
