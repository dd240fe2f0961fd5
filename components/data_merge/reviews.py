"""Turn Label Studio tasks into examples, a snapshot of the annotations, and evidence on live accuracy."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from reviewloop.dataset import ReviewedTraffic
from reviewloop.problems import Problems
from reviewloop.records import MACHINE_CHECK, Example, ReviewTask
from reviewloop.task_types import Consensus, TaskType
from reviewloop.text_keys import content_key

SOURCE = "reviews"


@dataclass(frozen=True, slots=True)
class Reviews:
    """What the reviewers said.

    ``training`` are the examples to learn from; the audited ones are not among them, so that they stay a sample
    of the live traffic that neither training nor the router has skewed.
    """

    training: list[Example]
    traffic: list[ReviewedTraffic]
    annotation_ids: frozenset[int]
    snapshot: bytes
    """Every usable annotation as JSON Lines, in the order of their texts' content keys."""
    tasks: int
    answered: int
    audited: int
    ties: int
    agreement: float
    """Mean share of a task's answers that equal its consensus; 1 if there are none."""
    checked: int
    """Answered tasks that check machine labels."""
    machine_errors: int
    """Of these, how often the machine label would have been wrong."""
    by_reason: dict[str, int]
    """Tasks by the reason they were routed for; ``other`` for tasks the loop did not make."""

    @property
    def snapshot_hash(self) -> str | None:
        """SHA-256 of the snapshot, or None if there is no annotation."""
        return hashlib.sha256(self.snapshot).hexdigest() if self.snapshot else None


def collect_reviews(tasks: Iterable[ReviewTask], task_type: TaskType, problems: Problems) -> Reviews:
    """Take the consensus of each task's answers.

    Of tasks with the same content key the one with most answers counts, the oldest of several; where the others
    came to another label, they are added to ``problems``.
    """
    distinct: dict[str, ReviewTask] = {}
    others: list[ReviewTask] = []
    for task in tasks:
        key = content_key(task.text)
        if key not in distinct:
            distinct[key] = task
        elif len(task.annotations) > len(distinct[key].annotations):
            others.append(distinct[key])
            distinct[key] = task
        else:
            others.append(task)
    answered = {
        key: (task, task_type.consensus([a.label for a in task.annotations]))
        for key, task in distinct.items()
        if task.annotations
    }
    # In an order of their own: the same answers make the same data, in whatever order the tasks arrived.
    answered = dict(sorted(answered.items()))
    for other in others:
        if other.annotations:
            kept, consensus = answered[content_key(other.text)]
            if task_type.consensus([a.label for a in other.annotations]).label != consensus.label:
                problems.add("same text, another label", f"task {other.task_id}", f"task {kept.task_id} counts")
    routed = Counter(_stratum(task) for task in distinct.values())
    reviewed = Counter(_stratum(task) for task, _ in answered.values())
    return Reviews(
        training=[
            Example(task.text, consensus.label, SOURCE)
            for task, consensus in answered.values()
            if _reason(task) != "audit"
        ],
        traffic=[
            _reviewed_traffic(task, task_type, consensus, reviewed[_stratum(task)] / routed[_stratum(task)])
            for task, consensus in answered.values()
            if _reason(task) in ("low_confidence", "audit")
        ],
        annotation_ids=frozenset(a.id for task, _ in answered.values() for a in task.annotations),
        snapshot=_snapshot(task for task, _ in answered.values()),
        tasks=len(distinct),
        answered=len(answered),
        audited=sum(_reason(task) == "audit" for task, _ in answered.values()),
        ties=sum(consensus.tied for _, consensus in answered.values()),
        agreement=_mean([consensus.agreement for _, consensus in answered.values()]),
        checked=sum(_reason(task) == MACHINE_CHECK for task, _ in answered.values()),
        machine_errors=sum(
            task_type.answered(task.item["prediction"]) != consensus.label
            for task, consensus in answered.values()
            if _reason(task) == MACHINE_CHECK
        ),
        by_reason=dict(Counter(map(_reason, distinct.values()))),
    )


def annotation_ids(snapshot: bytes) -> frozenset[int]:
    """The annotations in a snapshot."""
    return frozenset(json.loads(line)["annotation"] for line in snapshot.splitlines())


def _reason(task: ReviewTask) -> str:
    return str(task.item.get("reason", "other"))


def _stratum(task: ReviewTask) -> tuple[str, str]:
    # Each version's traffic is a population of its own: reviewers may be done with one and not with another.
    return _reason(task), str(task.item.get("model_version", ""))


def _reviewed_traffic(
    task: ReviewTask, task_type: TaskType, consensus: Consensus, answered_share: float
) -> ReviewedTraffic:
    return ReviewedTraffic(
        label=consensus.label,
        predicted=task_type.answered(task.item["prediction"]),
        reason=task.item["reason"],
        weight=1.0 / (task.item["propensity"] * answered_share),
        model_version=task.item["model_version"],
    )


def _snapshot(tasks: Iterable[ReviewTask]) -> bytes:
    rows = (
        {
            "annotation": annotation.id,
            "task": task.task_id,
            "key": content_key(task.text),
            "text": task.text,
            "label": annotation.label,
            "reviewer": annotation.reviewer,
            "updated_at": annotation.updated_at,
        }
        for task in tasks
        for annotation in task.annotations
    )
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 1.0
