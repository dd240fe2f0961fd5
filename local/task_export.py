"""``reviewloop export``: what was reviewed, as a Label Studio export and as training data."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from components.data_merge.reviews import collect_reviews
from reviewloop.label_studio import LabelStudioServer, ReviewProject
from reviewloop.object_store import open_store
from reviewloop.problems import Problems
from reviewloop.task_export import write_label_studio_json, write_training_data
from reviewloop.task_files import FileAnnotation, FileTask

TASKS_FILE = "tasks.json"
TRAINING_FILE = "training.jsonl"


@dataclass(frozen=True, slots=True)
class ExportResult:
    """How many reviewed tasks and training examples were written, and what was left out."""

    tasks: int
    examples: int
    problems: Problems


def export_reviews(server: LabelStudioServer, project: ReviewProject, uri: str) -> ExportResult:
    """Write every task with an answer below ``uri`` (a directory, ``file://`` or ``s3://``).

    ``tasks.json`` is Label Studio's JSON format with each reviewer's answer; ``training.jsonl`` has the consensus
    of each task that may be trained on, as ``data.source`` takes it.

    Raises:
        LabelStudioError: the reviews cannot be read.
        ObjectStoreError: ``uri`` cannot be written.
    """
    problems = Problems()
    emails = server.emails()
    tasks = [task for task in project.tasks(problems) if task.annotations]
    reviews = collect_reviews(tasks, project.task, problems)
    exported = (
        FileTask(
            text=task.text,
            annotations=tuple(
                FileAnnotation(a.label, emails.get(a.reviewer), a.updated_at, a.id) for a in task.annotations
            ),
            meta=task.item,
        )
        for task in tasks
    )
    store = open_store(uri if "://" in uri else Path(uri).resolve().as_uri())
    with tempfile.TemporaryDirectory() as directory:
        files = {name: Path(directory) / name for name in (TASKS_FILE, TRAINING_FILE)}
        count = write_label_studio_json(exported, project.task, files[TASKS_FILE])
        examples = write_training_data(reviews.training, project.task, files[TRAINING_FILE])
        for name, path in files.items():
            store.upload_file(path, name)
    return ExportResult(count, examples, problems)
