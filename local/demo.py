"""The loop once round on one machine: train, serve, route, review, retrain, prove, swap."""

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from local.assets import fetch_assets, read_traffic
from local.console import Console
from local.evaluations import print_evaluation
from local.platform import Platform
from local.processes import stop_descendants
from local.review_replay import replay_ratings
from local.traffic import TrafficResult, send_traffic
from reviewloop.errors import PlatformError
from reviewloop.label_studio import LabelStudioServer
from reviewloop.registry import VersionManifest
from reviewloop.spec import LoopSpec

TRAFFIC_SENTENCES = 1_700
"""Of the 2,889 Amazon sentences that are not the test set: enough for about 500 reviews."""

DELIVERY_TIMEOUT_S = 120.0


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


def run_demo(spec: LoopSpec, directory: Path, assets: Path, console: Console) -> dict[str, Any]:
    """Run the whole loop once in a fresh ``directory`` and return the summary, also written there.

    Raises:
        ReviewLoopError: a part did not start, a step failed, or a request failed.
    """
    phases: dict[str, float] = {}

    @contextmanager
    def phase(name: str, title: str) -> Iterator[None]:
        console.phase(title)
        started = time.monotonic()
        yield
        phases[name] = round(time.monotonic() - started, 1)

    fetch_assets(assets, console.line)
    if directory.exists():
        shutil.rmtree(directory)
    sentences = read_traffic(assets)[:TRAFFIC_SENTENCES]
    texts = [sentence.text for sentence in sentences]
    platform = Platform(spec, directory, dies_with_parent=True)
    with _stopped_at_the_end(platform):
        with phase("start", "1. Start the platform"):
            platform.start(console.line)
        with phase("base_training", "2. Train the base model on movie sentences, through the pipeline"):
            base = _registered(platform, platform.train(console.step))
            print_evaluation(base, console)
        with phase("traffic", f"3. Send it {len(texts)} Amazon sentences; what it is unsure of goes to review"):
            with console.progress("texts answered") as progress:
                traffic = send_traffic(texts, platform.endpoint, spec.name, _counter(progress, len(texts)))
            tasks = _wait_for_delivery(platform, sum(traffic.routed.values()), console)
        with phase("review", "4. Review in Label Studio: three accounts replay human ratings of each sentence"):
            with console.progress("tasks answered") as progress:
                replayed = replay_ratings(
                    LabelStudioServer(platform.label_studio_url, platform.credentials.api_key),
                    platform.project,
                    sentences,
                    spec.review.annotations_per_task,
                    progress,
                )
            console.line(
                f"{replayed.annotations} answers to {replayed.tasks} tasks. The reviewing is simulated: each answer is "
                "a rating some person once gave to that very sentence; none was made up."
            )
        with phase("retraining", "5. Retrain, compare, and swap if the new model is better"):
            swap = _SwapTraffic(platform, texts)
            try:
                retrained = _registered(platform, platform.train(_starting(swap, console)))
            finally:
                swapped = swap.finish()
            print_evaluation(retrained, console)
    summary = _summary(base, retrained, traffic, tasks, replayed.annotations, swapped, phases)
    (directory / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    (directory / "report.html").write_bytes(platform.registry.report(retrained.version))
    if traffic.failed or swapped.failed:
        raise PlatformError(
            f"{traffic.failed + swapped.failed} requests failed: {(traffic.failures + swapped.failures)[:3]}. "
            f"The parts' logs are in {directory / 'logs'}."
        )
    return summary


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


def _summary(
    base: VersionManifest,
    retrained: VersionManifest,
    traffic: TrafficResult,
    tasks: int,
    annotations: int,
    swapped: TrafficResult,
    phases: dict[str, float],
) -> dict[str, Any]:
    evaluation = retrained.evaluation
    difference = evaluation["test_sets"][evaluation["primary"]]["difference"]
    probe = evaluation["probes"][0]
    return {
        "base": _figures(base),
        "retrained": _figures(retrained),
        "reviews": {
            "requests": traffic.requests,
            "texts": traffic.texts,
            "failed": traffic.failed,
            "routed": sum(traffic.routed.values()),
            "low_confidence": traffic.routed.get("low_confidence", 0),
            "audit": traffic.routed.get("audit", 0),
            "tasks": tasks,
            "annotations": annotations,
            "ties": evaluation["dataset"]["reviews"]["ties"],
            "simulated": "answers are human ratings recorded for each sentence, replayed through the REST API",
        },
        "live_accuracy_of_base": evaluation["live"],
        "promotion": {
            "verdict": retrained.verdict,
            "delta": difference["delta"],
            "interval": [difference["low"], difference["high"]],
            "reasons": evaluation["reasons"],
        },
        "probe": {"text": probe["text"], "before": probe["champion"], "after": probe["challenger"]},
        "versions": {"base": base.version, "retrained": retrained.version},
        "swap": {
            "requests_during": swapped.requests,
            "failed": swapped.failed,
            "versions_seen": sorted(swapped.model_versions),
        },
        "phases_s": phases | {"total": round(sum(phases.values()), 1)},
    }


def _figures(manifest: VersionManifest) -> dict[str, float]:
    test_sets = {name: t["challenger"] for name, t in manifest.evaluation["test_sets"].items()}
    return {
        "movies_accuracy": test_sets["movies"]["accuracy"],
        "amazon_accuracy": test_sets["amazon"]["accuracy"],
        "amazon_macro_f1": test_sets["amazon"]["macro_f1"],
        "ece": test_sets["amazon"]["ece"],
    }


def print_outcome(summary: dict[str, Any], directory: Path, console: Console) -> None:
    """The difference the reviews made, and where to look next."""
    base, retrained = summary["base"], summary["retrained"]
    reviews, promotion, probe = summary["reviews"], summary["promotion"], summary["probe"]
    console.phase("The difference")
    figures = {
        "accuracy on 800 unseen Amazon sentences": "amazon_accuracy",
        "accuracy on unseen movie sentences": "movies_accuracy",
        "macro F1 on Amazon": "amazon_macro_f1",
        "calibration error on Amazon": "ece",
    }
    rows = [(title, f"{base[name]:.3f}", f"{retrained[name]:.3f}") for title, name in figures.items()]
    rows.append((f"\u201c{probe['text']}\u201d", _top(probe["before"]), _top(probe["after"])))
    console.table(("", "before", "after"), rows)
    low, high = promotion["interval"]
    console.line(
        f"{summary['versions']['retrained']} {promotion['verdict']}: {promotion['delta']:+.3f} on Amazon "
        f"(interval {low:+.3f} to {high:+.3f}) from {reviews['tasks']} reviewed sentences."
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
    console.line(f"Look around in it: reviewloop up --state {directory}")


def _top(probabilities: dict[str, float]) -> str:
    label = max(probabilities, key=probabilities.__getitem__)
    return f"{label} {probabilities[label]:.3f}"
