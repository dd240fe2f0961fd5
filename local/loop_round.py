"""One round of the loop on this machine: train, serve, route, review, retrain, prove, swap."""

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from local.console import Console
from local.evaluations import print_evaluation
from local.platform import Platform
from local.processes import stop_descendants
from local.simulated_review import AnswersOf, answer_open_tasks
from local.traffic import TrafficResult, send_traffic
from reviewloop.errors import PlatformError
from reviewloop.label_studio import LabelStudioServer
from reviewloop.registry import VersionManifest
from reviewloop.spec import LoopSpec

DELIVERY_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Wording:
    """What a round calls its data, for the titles of its phases."""

    base: str
    traffic: str
    reviewers: str
    """Who answers, and how: a sentence's end."""
    simulated: str
    """What is simulated about the answers, in full."""


@dataclass(frozen=True, slots=True)
class LoopRound:
    """What a round found: the two versions, the traffic before and during the swap, the reviews, and times."""

    base: VersionManifest
    retrained: VersionManifest
    traffic: TrafficResult
    tasks: int
    annotations: int
    swapped: TrafficResult
    simulated: str
    phases_s: dict[str, float]

    def summary(self) -> dict[str, Any]:
        """What ``summary.json`` holds of every round."""
        evaluation = self.retrained.evaluation
        difference = evaluation["test_sets"][evaluation["primary"]]["difference"]
        return {
            "reviews": {
                "requests": self.traffic.requests,
                "texts": self.traffic.texts,
                "failed": self.traffic.failed,
                "routed": sum(self.traffic.routed.values()),
                "low_confidence": self.traffic.routed.get("low_confidence", 0),
                "audit": self.traffic.routed.get("audit", 0),
                "tasks": self.tasks,
                "annotations": self.annotations,
                "ties": evaluation["dataset"]["reviews"]["ties"],
                "simulated": self.simulated,
            },
            "live_accuracy_of_base": evaluation["live"],
            "promotion": {
                "verdict": self.retrained.verdict,
                "delta": difference["delta"],
                "interval": [difference["low"], difference["high"]],
                "reasons": evaluation["reasons"],
            },
            "versions": {"base": self.base.version, "retrained": self.retrained.version},
            "swap": {
                "requests_during": self.swapped.requests,
                "failed": self.swapped.failed,
                "versions_seen": sorted(self.swapped.model_versions),
            },
            "phases_s": self.phases_s | {"total": round(sum(self.phases_s.values()), 1)},
        }


def run_round(
    spec: LoopSpec,
    directory: Path,
    texts: Sequence[str],
    answers_of: AnswersOf,
    wording: Wording,
    console: Console,
) -> LoopRound:
    """Run the loop once in a fresh ``directory``: ``texts`` are the traffic, ``answers_of`` the reviewers.

    Raises:
        ReviewLoopError: a part did not start, or a step failed.
    """
    phases: dict[str, float] = {}

    @contextmanager
    def phase(name: str, title: str) -> Iterator[None]:
        console.phase(title)
        started = time.monotonic()
        yield
        phases[name] = round(time.monotonic() - started, 1)

    if directory.exists():
        shutil.rmtree(directory)
    platform = Platform(spec, directory, dies_with_parent=True)
    with _stopped_at_the_end(platform):
        with phase("start", "1. Start the platform"):
            platform.start(console.line)
        with phase("base_training", f"2. Train the base model on {wording.base}, through the pipeline"):
            base = _registered(platform, platform.train(console.step))
            print_evaluation(base, console)
        with phase("traffic", f"3. Send it {len(texts)} {wording.traffic}; what it is unsure of goes to review"):
            with console.progress("texts answered") as progress:
                traffic = send_traffic(texts, platform.endpoint, spec.name, _counter(progress, len(texts)))
            tasks = _wait_for_delivery(platform, sum(traffic.routed.values()), console)
        with phase("review", f"4. Review in Label Studio: {wording.reviewers}"):
            with console.progress("tasks answered") as progress:
                answered = answer_open_tasks(
                    LabelStudioServer(platform.label_studio_url, platform.credentials.api_key),
                    platform.project,
                    answers_of,
                    spec.review.annotations_per_task,
                    progress,
                )
            console.line(f"{answered.annotations} answers to {answered.tasks} tasks. {wording.simulated}")
        with phase("retraining", "5. Retrain, compare, and swap if the new model is better"):
            swap = _SwapTraffic(platform, list(texts))
            try:
                retrained = _registered(platform, platform.train(_starting(swap, console)))
            finally:
                swapped = swap.finish()
            print_evaluation(retrained, console)
    (directory / "report.html").write_bytes(platform.registry.report(retrained.version))
    return LoopRound(base, retrained, traffic, tasks, answered.annotations, swapped, wording.simulated, phases)


def save_summary(summary: dict[str, Any], round_: LoopRound, directory: Path) -> None:
    """Write ``summary.json``.

    Raises:
        PlatformError: a request failed during the round.
    """
    (directory / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    failed = round_.traffic.failed + round_.swapped.failed
    if failed:
        raise PlatformError(
            f"{failed} requests failed: {(round_.traffic.failures + round_.swapped.failures)[:3]}. "
            f"The parts' logs are in {directory / 'logs'}."
        )


def print_round(summary: dict[str, Any], metric: str, unit: str, directory: Path, console: Console) -> None:
    """What every round tells of itself in the end, and where to look next. ``unit`` is what was reviewed."""
    reviews, promotion = summary["reviews"], summary["promotion"]
    low, high = promotion["interval"]
    console.line(
        f"{summary['versions']['retrained']} {promotion['verdict']}: {metric} {promotion['delta']:+.3f} "
        f"(interval {low:+.3f} to {high:+.3f}) from {reviews['tasks']} reviewed {unit}."
    )
    console.line(
        f"{reviews['texts']} texts in {reviews['requests']} requests: {reviews['low_confidence']} routed for low "
        f"confidence, {reviews['audit']} by the random audit; {reviews['failed']} requests failed."
    )
    console.line(
        f"During the swap {summary['swap']['requests_during']} requests were answered and "
        f"{summary['swap']['failed']} failed."
    )
    console.line(f"The loop took {summary['phases_s']['total']:.0f} s. Report: {directory / 'report.html'}")


@dataclass(slots=True)
class _SwapTraffic:
    """Clients that keep asking while the new version is rolled out."""

    platform: Platform
    texts: list[str]
    result: TrafficResult = field(default_factory=TrafficResult)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, unless begun."""
        if self._thread:
            return
        self._thread = threading.Thread(target=self._run, name="swap traffic")
        self._thread.start()

    def finish(self) -> TrafficResult:
        """Stop asking, once the last request is answered."""
        self._stop.set()
        if self._thread:
            self._thread.join()
        return self.result

    def _run(self) -> None:
        position = 0
        while not self._stop.is_set():
            batch = self.texts[position : position + 60]
            position = (position + 60) % (len(self.texts) - 60)
            part = send_traffic(batch, self.platform.endpoint, self.platform.spec.name, clients=4)
            self.result.requests += part.requests
            self.result.failed += part.failed
            self.result.texts += part.texts
            self.result.model_versions |= part.model_versions
            self.result.failures += part.failures


@contextmanager
def _stopped_at_the_end(platform: Platform) -> Iterator[None]:
    try:
        yield
    finally:
        platform.stop()
        stop_descendants()


def _registered(platform: Platform, version: str | None) -> VersionManifest:
    if version is None:
        raise PlatformError(f"The pipeline trained nothing; see {platform.directory / 'logs' / 'training.log'}.")
    return platform.registry.manifest(version)


def _counter(progress: Callable[[int, int], None], total: int) -> Callable[[int], None]:
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress(done, total)

    return count


def _starting(swap: _SwapTraffic, console: Console) -> Callable[[str, str], None]:
    def report(step: str, text: str) -> None:
        if step == "deploy":
            swap.start()
        console.step(step, text)

    return report


def _wait_for_delivery(platform: Platform, expected: int, console: Console) -> int:
    """Wait until every routed item is a Label Studio task; how many tasks there are."""
    deadline = time.monotonic() + DELIVERY_TIMEOUT_S
    while (counts := platform.project.counts()).tasks < expected:
        if time.monotonic() > deadline:
            raise PlatformError(
                f"{counts.tasks} of {expected} items reached Label Studio within {DELIVERY_TIMEOUT_S:.0f} s; see "
                f"{platform.directory / 'logs'}."
            )
        time.sleep(0.5)
    console.line(f"{counts.tasks} review tasks are in Label Studio")
    return counts.tasks
