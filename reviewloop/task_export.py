"""Write tasks as a Label Studio export, and examples as training data."""

import contextlib
import csv
import json
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from reviewloop.errors import DataError
from reviewloop.records import Example
from reviewloop.task_files import FileAnnotation, FilePrediction, FileTask
from reviewloop.task_types import TaskType
from reviewloop.task_types.multi_label import SEPARATOR
from reviewloop.task_types.token_classification import TokenClassification

TRAINING_FIELDS = ("text", "label", "source")


def write_label_studio_json(tasks: Iterable[FileTask], task: TaskType, path: Path) -> int:
    """Write ``tasks`` to ``path`` in Label Studio's JSON format, one at a time; returns how many.

    Label Studio imports the file, and :func:`reviewloop.task_files.read_tasks` reads the same tasks from it.
    ``path`` appears when all of it is written.

    Raises:
        DataError: the file cannot be written.
    """
    count = 0
    with _written_whole(path) as file:
        file.write("[")
        for exported in tasks:
            file.write(",\n" if count else "\n")
            file.write(_json(_label_studio_task(exported, task)))
            count += 1
        file.write("\n]\n")
    return count


def write_training_data(examples: Iterable[Example], task: TaskType, path: Path) -> int:
    """Write ``examples`` to ``path`` as base data for ``data.source`` in loop.yaml; returns how many.

    A ``.jsonl`` file has ``{"text", "label", "source"}`` a line. A ``.csv`` file has these columns; several labels
    are joined by ``|``, or are a JSON list where there are none or joining would not tell them apart.
    ``path`` appears when all of it is written.

    Raises:
        DataError: the suffix is another one, entities are to go into a ``.csv``, or the file cannot be written.
    """
    write = _TRAINING_WRITERS.get(path.suffix.lower())
    if write is None:
        raise DataError(f"Expected a .jsonl or .csv file to write training data to, got {str(path)!r}.")
    if write is _write_csv and isinstance(task, TokenClassification):
        raise DataError(f"Entities do not fit into a table, got {str(path)!r}. Name a .jsonl file instead.")
    with _written_whole(path) as file:
        return write(examples, task, file)


def _write_jsonl(examples: Iterable[Example], task: TaskType, file: TextIO) -> int:
    count = 0
    for example in examples:
        file.write(_json(asdict(example)) + "\n")
        count += 1
    return count


def _write_csv(examples: Iterable[Example], task: TaskType, file: TextIO) -> int:
    rows = csv.writer(file)
    rows.writerow(TRAINING_FIELDS)
    count = 0
    for example in examples:
        rows.writerow((example.text, _cell(example, task), example.source))
        count += 1
    return count


_TRAINING_WRITERS: dict[str, Callable[[Iterable[Example], TaskType, TextIO], int]] = {
    ".jsonl": _write_jsonl,
    ".csv": _write_csv,
}


def _cell(example: Example, task: TaskType) -> str:
    if isinstance(example.label, str):
        return example.label
    joined = SEPARATOR.join(example.label)
    with contextlib.suppress(ValueError):
        if joined and task.parse_label(joined, example.text) == example.label:
            return joined
    return _json(example.label)


def _label_studio_task(exported: FileTask, task: TaskType) -> dict[str, Any]:
    return {
        "data": {"text": exported.text},
        "annotations": [_annotation(annotation, exported.text, task) for annotation in exported.annotations],
        "predictions": [_prediction(prediction, exported.text, task) for prediction in exported.predictions],
        "meta": exported.meta,
    }


def _annotation(annotation: FileAnnotation, text: str, task: TaskType) -> dict[str, Any]:
    return _given(
        id=annotation.id,
        completed_by=_account(annotation.reviewer),
        result=task.annotation_result(annotation.label, text),
        was_cancelled=False,
        updated_at=annotation.updated_at,
    )


def _prediction(prediction: FilePrediction, text: str, task: TaskType) -> dict[str, Any]:
    return _given(
        result=task.annotation_result(prediction.label, text),
        score=prediction.score,
        model_version=prediction.model_version,
    )


def _account(reviewer: str | None) -> int | dict[str, str] | None:
    """A reviewer as Label Studio's import takes one: an id, or an object with an email."""
    if reviewer is None:
        return None
    is_id = reviewer.isdecimal() and str(int(reviewer)) == reviewer
    return int(reviewer) if is_id else {"email": reviewer}


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


@contextlib.contextmanager
def _written_whole(path: Path) -> Iterator[TextIO]:
    """A file that takes the name ``path`` once it is complete, and is gone if it does not get there."""
    temporary = path.with_name(f".tmp-{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Half a character, which UTF-8 cannot hold, becomes its JSON escape.
        with temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            yield file
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
