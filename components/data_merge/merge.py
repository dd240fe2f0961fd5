"""The data_merge step: base data + annotations -> train / validation / test, with a content hash."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.data_merge.base_data import read_examples
from components.data_merge.reviews import Reviews, annotation_ids, collect_reviews
from components.data_merge.splits import Splits, split_examples
from reviewloop.dataset import TEST_PREFIX, dataset_hash, write_reviewed_traffic, write_split, write_summary
from reviewloop.errors import DataError
from reviewloop.label_studio import ReviewProject, api_key_from_environment
from reviewloop.problems import Problems
from reviewloop.records import Example
from reviewloop.registry import Registry
from reviewloop.spec import DataSpec
from reviewloop.task_types import TaskType, task_type

MACHINE_SOURCE = "machine"
"""The source of examples that no person labelled."""


@dataclass(frozen=True, slots=True)
class MergeResult:
    """Whether there is enough new to train on, a sentence that says so, and the counts."""

    train: bool
    message: str
    summary: dict[str, Any]


def merge_data(
    data: DataSpec,
    task_name: str,
    labels: tuple[str, ...],
    label_studio_url: str,
    project_title: str,
    registry_uri: str,
    min_new_annotations: int,
    output: Path,
) -> MergeResult:
    """Read everything, write the dataset into ``output``, and say whether training is due.

    Training is due if no version exists yet, or if at least ``min_new_annotations`` annotations are not in the
    snapshot of the newest version. An empty ``label_studio_url`` means that there are no reviews to read.

    Raises:
        DataError: the base data cannot be used.
        LabelStudioError: the annotations cannot be read.
    """
    task = task_type(task_name, labels)
    registry = Registry(registry_uri)
    problems = Problems()
    tasks = (
        ReviewProject(label_studio_url, api_key_from_environment(), project_title, task).tasks(problems)
        if label_studio_url
        else ()
    )
    reviews = collect_reviews(tasks, task, problems)
    fields = (data.text_field, data.label_field)
    base = read_examples(data.source, data.name, task, problems, *fields) if data.source else []
    reviewed = reviews.training
    if not data.source and not data.test_sets:
        base, reviewed = reviewed, []  # Then what people answered is all there is to test on, too.
    machine = list(registry.machine_labels())
    machine_examples = [Example(m.text, m.label, MACHINE_SOURCE) for m in machine] if data.machine_labels else []
    test_sets = {name: read_examples(source, name, task, problems, *fields) for name, source in data.test_sets.items()}
    splits = split_examples(
        base, data.name, reviewed, machine_examples, test_sets, data.test_fraction, data.validation_fraction
    )
    for key in splits.contradictions:
        problems.add("same text, another label", f"{data.name} text {key}", "the first counts")
    if not base:
        del splits.tests[data.name]
    _check(splits, task)

    output.mkdir(parents=True, exist_ok=True)
    write_split(output, "train", splits.train)
    write_split(output, "validation", splits.validation)
    for name, examples in splits.tests.items():
        write_split(output, TEST_PREFIX + name, examples)
    write_reviewed_traffic(output, reviews.traffic)
    if reviews.snapshot_hash:
        registry.write_snapshot(reviews.snapshot_hash, reviews.snapshot)

    versions = registry.versions()
    new = len(reviews.annotation_ids - _trained_on(registry, versions))
    summary = _summary(splits, reviews, new, task) | {
        "machine_labels": {
            "accepted": len(machine),
            "trained_on": sum(e.source == MACHINE_SOURCE for e in splits.train),
            "checked": reviews.checked,
            "errors": reviews.machine_errors,
        },
        "problems": problems.summary(),
        "dataset_hash": dataset_hash(output),
    }
    write_summary(output, summary)
    train = not versions or new >= min_new_annotations
    return MergeResult(train, _message(train, versions, new, min_new_annotations), summary)


def _trained_on(registry: Registry, versions: list[str]) -> frozenset[int]:
    snapshot = registry.manifest(versions[-1]).lineage.annotation_snapshot if versions else None
    return annotation_ids(registry.read_snapshot(snapshot)) if snapshot else frozenset()


def _check(splits: Splits, task: TaskType) -> None:
    taught = {name for example in splits.train for name in task.names(example.label)}
    missing = [label for label in task.labels if label not in taught]
    if missing:
        raise DataError(
            f"The training data have no example of {', '.join(missing)}. Add some to data.source, or have some "
            "reviewed, or remove the label from task.labels."
        )
    if not splits.validation:
        raise DataError("No example is left to calibrate with: raise data.validation_fraction or add data.")
    empty = [name for name, examples in splits.tests.items() if not examples]
    if empty:
        raise DataError(f"Test set {', '.join(empty)} is empty: raise data.test_fraction or add data.")


def _summary(splits: Splits, reviews: Reviews, new: int, task: TaskType) -> dict[str, Any]:
    used = {"train": splits.train, "validation": splits.validation} | {
        f"test {name}": examples for name, examples in splits.tests.items()
    }
    return {
        "sizes": {name: len(examples) for name, examples in used.items()},
        "splits": {
            name: dict(Counter(label for e in examples for label in task.names(e.label)))
            for name, examples in used.items()
        },
        "sources": dict(Counter(e.source for e in [*splits.train, *splits.validation])),
        "duplicates": splits.duplicates,
        "kept_from_training": splits.kept_from_training,
        "annotation_snapshot": reviews.snapshot_hash,
        "reviews": {
            "tasks": reviews.tasks,
            "answered": reviews.answered,
            "audited": reviews.audited,
            "annotations": len(reviews.annotation_ids),
            "new_annotations": new,
            "ties": reviews.ties,
            "agreement": reviews.agreement,
            "by_reason": reviews.by_reason,
        },
    }


def _message(train: bool, versions: list[str], new: int, min_new_annotations: int) -> str:
    if not versions:
        return "No version exists yet: training the first one."
    if train:
        return f"{new} annotations are new since {versions[-1]}: training."
    return (
        f"Training is skipped: {new} annotations are new since {versions[-1]}, and "
        f"retrain.min_new_annotations is {min_new_annotations}."
    )
