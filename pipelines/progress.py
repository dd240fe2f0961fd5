"""Follow a run on the cluster: which step does what, and how it ended."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pipelines.connection import PipelinesUnavailable
from pipelines.kubeflow import ACTIVE_STATES, TrainingPipeline
from pipelines.training import STEPS

POLL_S = 5.0
PATIENCE_S = 600.0
"""For a server that does not answer while a run is followed: the run goes on without it."""

_NOT_RUN = ("SKIPPED", "RUNTIME_STATE_UNSPECIFIED", "PENDING")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: ``promoted``, ``refused``, ``skipped``, ``failed`` or ``canceled``, and a sentence."""

    verdict: str
    sentence: str

    @property
    def good(self) -> bool:
        """Whether the run did what it should, whatever it found."""
        return self.verdict in ("promoted", "refused", "skipped")


def follow_run(pipeline: TrainingPipeline, run_id: str, report_progress: Callable[[str, str], None]) -> Outcome:
    """Wait until a run has ended. ``report_progress`` gets a step's name and what became of it.

    Raises:
        PipelinesError: the server cannot be asked any more; the run goes on.
    """
    told: dict[str, str] = {}
    silent_since: float | None = None
    while True:
        try:
            run = pipeline.run(run_id)
            silent_since = None
        except PipelinesUnavailable as error:
            now = time.monotonic()
            if silent_since is None:
                silent_since = now
                report_progress("", f"{error} Waiting for it; the run goes on.")
            elif now - silent_since > PATIENCE_S:
                raise
            time.sleep(POLL_S)
            continue
        steps = step_details(run)
        for step in STEPS:
            if (detail := steps.get(step)) and told.get(step) != detail.state:
                told[step] = detail.state
                if text := _what_happened(detail):
                    report_progress(step, text)
        if run.state not in ACTIVE_STATES:
            return outcome(run)
        time.sleep(POLL_S)


def step_details(run: Any) -> dict[str, Any]:
    """The newest detail of each of the pipeline's steps that the server knows."""
    details = (run.run_details.task_details if run.run_details else None) or []
    ordered = sorted((d for d in details if d.display_name in STEPS and d.create_time), key=lambda d: d.create_time)
    return {detail.display_name: detail for detail in ordered}


def outcome(run: Any) -> Outcome:
    """How an ended run ended."""
    steps = step_details(run)

    def ran(step: str) -> bool:
        return step in steps and steps[step].state not in _NOT_RUN

    if run.state == "SUCCEEDED":
        if ran("deploy"):
            return Outcome("promoted", "The new version was better, and serves.")
        if ran("register"):
            return Outcome(
                "refused", "The new version is registered but was not shown to be better: evaluate says why."
            )
        return Outcome("skipped", "Nothing was trained: fewer annotations are new than retrain.min_new_annotations.")
    failed = next((step for step in STEPS if step in steps and steps[step].state == "FAILED"), None)
    reason = _error(steps[failed]) if failed else ""
    if run.state in ("CANCELED", "CANCELING"):
        return Outcome("canceled", "Somebody terminated the run.")
    reason = reason or (run.error.message if run.error and run.error.message else "its log says why")
    return Outcome("failed", f"Step {failed or 'of the run'} failed: {reason.rstrip('.')}.")


def duration(start: datetime | None, end: datetime | None) -> str:
    """How long something took, for people; empty if that is not known."""
    # What has not ended has the year 1970 or 1 as its end.
    if not start or not end or end < start:
        return ""
    seconds = int((end - start).total_seconds())
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h {seconds % 3600 // 60} min"


def _what_happened(detail: Any) -> str:
    took = duration(detail.start_time or detail.create_time, detail.end_time)
    after = f" in {took}" if took else ""
    if detail.state == "FAILED":
        reason = _error(detail)
        return f"failed{after}" + (f": {reason}" if reason else "")
    said = {"RUNNING": "started", "SUCCEEDED": f"succeeded{after}", "SKIPPED": "skipped", "CANCELED": "canceled"}
    return said.get(detail.state, "")


def _error(detail: Any) -> str:
    message = detail.error.message if detail.error and detail.error.message else ""
    return " ".join(str(message).split())[:500]
