"""When a run is due because of what people answered since the last training.

Nothing is kept here: how much was trained on is in the registry and in the descriptions of the runs that the trigger
started, and whether one is under way, or failed a moment ago, is asked of Kubeflow Pipelines. So a trigger that is
killed at any moment starts nothing twice.
"""

import logging
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from prometheus_client import Gauge

from pipelines.kubeflow import ACTIVE_STATES, TrainingPipeline
from reviewloop.errors import LabelStudioError
from reviewloop.label_studio import ReviewProject
from reviewloop.registry import Registry
from reviewloop.spec import RetrainSpec

FIRST_RETRY = timedelta(minutes=15)
"""After a failed run; after each further one twice as long, up to :data:`LAST_RETRY`."""
LAST_RETRY = timedelta(days=1)

_NOTE = "Started by the retrain trigger at {} annotations."
_NOTED = re.compile(re.escape(_NOTE).replace(r"\{\}", r"(\d+)"))

logger = logging.getLogger("pipelines.retrain_trigger")

label_studio_up = Gauge("reviewloop_label_studio_up", "Whether Label Studio answered the last look: 1 or 0.")
tasks_open = Gauge("reviewloop_review_tasks_open", "Review tasks that still want an annotation.")
annotations_new = Gauge("reviewloop_annotations_new", "Annotations since the last training.")
last_annotation = Gauge(
    "reviewloop_last_annotation_timestamp_seconds", "When the last annotation came, as far as is known (Unix time)."
)


class Retraining:
    """Looks, and starts a run if one is due."""

    def __init__(
        self,
        retrain: RetrainSpec,
        project: ReviewProject,
        registry: Registry,
        pipeline: TrainingPipeline,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._retrain = retrain
        # With a minimum of none, a run would start as soon as the last one ends.
        self._wanted = max(1, retrain.min_new_annotations)
        self._project = project
        self._registry = registry
        self._pipeline = pipeline
        self._now = now
        self._count: int | None = None
        self._last_annotation: datetime | None = None
        self._said = ""

    def look(self) -> float:
        """Start a run if one is due; seconds until another look may find more than this one.

        Raises:
            ReviewLoopError: Label Studio, the object store or Kubeflow Pipelines cannot be asked; nothing was started,
                or what was is seen at the next look.
        """
        annotations = self._observe()
        new = annotations - annotations_trained_on(self._registry)
        runs = None
        if new >= self._wanted:
            runs = list(self._pipeline.runs())
            new = min(new, annotations - _noted(runs))
        annotations_new.set(max(0, new))
        if runs is None or new < self._wanted:
            self._say(f"{max(0, new)} annotations are new; {self._wanted} start a training.", logging.DEBUG)
            return self._retrain.poll_s
        now = self._now()
        quiet_at = (self._last_annotation or now) + timedelta(seconds=self._retrain.quiet_s)
        if now < quiet_at:
            self._say("Enough annotations are new; waiting until no more come.")
            return (quiet_at - now).total_seconds()
        if any(run.state in ACTIVE_STATES for run in runs):
            self._say("Enough annotations are new; a run is under way already.")
            return self._retrain.poll_s
        retry_at = _retry_at(runs)
        if retry_at and now < retry_at:
            self._say(f"Enough annotations are new; the last run failed: the next waits until {retry_at:%F %R} UTC.")
            return (retry_at - now).total_seconds()
        self._start(annotations)
        return self._retrain.poll_s

    def _observe(self) -> int:
        try:
            counts = self._project.counts()
            if self._count is None:
                # Other than a count, this says it of a time when this process did not run; where no task is finished
                # yet, what is there is taken to be new.
                self._last_annotation = self._project.last_finished_at() or (
                    self._now() if counts.annotations else None
                )
        except LabelStudioError:
            label_studio_up.set(0)
            raise
        label_studio_up.set(1)
        tasks_open.set(counts.tasks - counts.finished)
        if self._count is not None and counts.annotations > self._count:
            self._last_annotation = self._now()
        self._count = counts.annotations
        if self._last_annotation:
            last_annotation.set(self._last_annotation.timestamp())
        return counts.annotations

    def _start(self, annotations: int) -> None:
        name = f"{self._pipeline.name} {self._now():%Y-%m-%d %H:%M:%S}"
        started = self._pipeline.start(name, _NOTE.format(annotations))
        active = [run for run in self._pipeline.runs() if run.state in ACTIVE_STATES]
        ours = next((run for run in active if run.run_id == started), None)
        # A schedule, a person or another trigger may have started one in the same moment: the first one stays.
        if ours and min(active, key=lambda run: (run.created_at, run.run_id)) is not ours:
            self._pipeline.terminate(started)
            self._say("Another run started in the same moment; ended this one.")
            return
        self._say(f"Started run {started}, at {annotations} annotations.")

    def _say(self, text: str, level: int = logging.INFO) -> None:
        """Log it, unless it was the last that was said."""
        if text != self._said:
            logger.log(level, "%s", text)
        self._said = text


def annotations_trained_on(registry: Registry) -> int:
    """Annotations that the newest version was trained on, whatever became of it; 0 if there is none."""
    versions = registry.versions()
    return registry.manifest(versions[-1]).lineage.annotations if versions else 0


def _noted(runs: Sequence[Any]) -> int:
    """The annotations at the newest successful run that the trigger started.

    Not all need be usable, and a run that found too few that are registers nothing: without this it would be repeated.
    """
    for run in runs:
        if run.state == "SUCCEEDED" and (noted := _NOTED.search(run.description or "")):
            return int(noted[1])
    return 0


def _retry_at(runs: Sequence[Any]) -> datetime | None:
    """When a run may follow the newest ones, if these failed; None if the last one succeeded."""
    failures = 0
    for run in runs:
        if run.state not in ("FAILED", "CANCELED"):
            break
        failures += 1
    if not failures:
        return None
    newest = runs[0]
    ended: datetime = max(newest.created_at, newest.finished_at or newest.created_at)
    wait: timedelta = min(LAST_RETRY, FIRST_RETRY * 2 ** min(failures - 1, 10))
    return ended + wait
