"""Read labelled examples from a file or from the Hugging Face Hub."""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from reviewloop.errors import DataError, ObjectNotFound
from reviewloop.object_store import local_copy
from reviewloop.problems import EMPTY_TEXT, Problems, problem_with_text
from reviewloop.records import Example, Label
from reviewloop.task_types import TaskType

HUB_PREFIX = "hub:"


def read_examples(
    source: str, name: str, task: TaskType, problems: Problems, text_field: str = "text", label_field: str = "label"
) -> list[Example]:
    """All examples of ``source``, marked as coming from ``name``.

    ``source`` is a ``.csv`` or ``.jsonl`` file with ``text_field`` and ``label_field``, a Label Studio export
    (``.json``; the consensus of each task's annotations), or ``hub:OWNER/DATASET[:SPLIT]``. A file may also be an
    object in a bucket (``s3://...``). A label may be given by name or by index into the task's labels. Rows without a
    text, and what an export holds that says nothing, are left out and added to ``problems``.

    Raises:
        DataError: the source is missing, or a row lacks a field or has an unknown label; says which row.
    """
    try:
        with local_copy(source) as copy:
            return _read(source, Path(copy), name, task, problems, text_field, label_field)
    except ObjectNotFound as error:
        raise DataError(f"{error} Check data.source and data.test_sets.") from None


def _read(
    source: str, path: Path, name: str, task: TaskType, problems: Problems, text_field: str, label_field: str
) -> list[Example]:
    reader = None
    if source.startswith(HUB_PREFIX):
        rows = _hub_rows(source.removeprefix(HUB_PREFIX))
    else:
        reader = _READERS.get(path.suffix)
        if reader is None:
            raise DataError(f"Expected a .csv, .jsonl or .json file or {HUB_PREFIX}NAME, got {source!r}.")
        if not path.is_file():
            raise DataError(f"There is no data file at {path}. Check data.source and data.test_sets.")
        if reader is _export_rows:
            text_field, label_field = "text", "label"
        rows = _readable(reader(path, task, problems), source)
    examples = []
    for number, row in enumerate(rows, start=1):
        where = f"{source}, row {number}"
        for field, what in ((text_field, "text"), (label_field, "label")):
            if field not in row:
                raise DataError(f"{where}: expected a {what} in field {field!r}, got {', '.join(map(str, row))}.")
        text = row[text_field]
        if unusable := problem_with_text(text):
            problems.add(unusable, where)
            continue
        try:
            label = row[label_field] if reader is _export_rows else task.parse_label(row[label_field], text)
        except ValueError as error:
            raise DataError(f"{where}, field {label_field!r}: {error}.") from None
        examples.append(Example(text, label, name))
    return examples


def _csv_rows(path: Path, task: TaskType, problems: Problems) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        yield from csv.DictReader(lines)


def _jsonl_rows(path: Path, task: TaskType, problems: Problems) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{path}, line {number} is not JSON: {error}.") from None
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number}: expected a JSON object, got {line.strip()[:100]}.")
            yield row


def _export_rows(path: Path, task: TaskType, problems: Problems) -> Iterator[dict[str, Any]]:
    try:
        for exported in json.loads(path.read_text(encoding="utf-8-sig")):
            where = f"{path}, task {exported.get('id')}"
            text = exported["data"].get("text")
            answers: list[Label] = []
            for annotation in exported["annotations"]:
                if not isinstance(text, str) or annotation.get("was_cancelled"):
                    continue
                reading = task.read_annotation(annotation.get("result") or [], text)
                for problem in reading.problems:
                    problems.add("unusable answer", where, problem)
                if reading.label is not None:
                    answers.append(reading.label)
            if answers:
                yield {"text": text, "label": task.consensus(answers).label}
            elif not isinstance(text, str):
                problems.add(EMPTY_TEXT, where)
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
        raise DataError(f"{path} is not a Label Studio export in the JSON format, with annotations.") from None


def _readable(rows: Iterator[dict[str, Any]], source: str) -> Iterator[dict[str, Any]]:
    try:
        yield from rows
    except UnicodeDecodeError as error:
        raise DataError(f"{source} is not UTF-8 text ({error.reason}). Save it as UTF-8.") from None
    except csv.Error as error:
        raise DataError(f"{source} cannot be read as CSV: {error}.") from None


_READERS: dict[str, Callable[[Path, TaskType, Problems], Iterator[dict[str, Any]]]] = {
    ".csv": _csv_rows,
    ".jsonl": _jsonl_rows,
    ".json": _export_rows,
}


def _hub_rows(reference: str) -> Iterator[dict[str, Any]]:
    from datasets import load_dataset

    dataset, _, split = reference.partition(":")
    try:
        yield from load_dataset(dataset, split=split or "train")
    except Exception as error:
        raise DataError(
            f"The data set {dataset!r} cannot be loaded from the Hugging Face Hub ({type(error).__name__}). "
            "Without access to it, point data.source to a .csv or .jsonl file."
        ) from error
