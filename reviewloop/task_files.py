"""Read labelling tasks from files: CSV, JSON Lines, and Label Studio's JSON exports, locally or on S3.

One task at a time, so that the size of a file does not matter.
"""

import csv
import io
import itertools
import json
import mmap
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

import ijson

from reviewloop.errors import DataError
from reviewloop.object_store import open_store
from reviewloop.problems import Problems, problem_with_text
from reviewloop.records import Label
from reviewloop.task_types import TaskType
from reviewloop.task_types.base import CONTROL_NAME, OBJECT_NAME
from reviewloop.task_types.token_classification import TokenClassification

SUFFIXES = (".csv", ".jsonl", ".ndjson", ".json")
KNOWN_FILES = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file"

MAX_CELL = 2**24
"""Characters in a CSV cell. A quote that is never closed would make one cell of the rest of the file."""

MAX_DIGITS = 18
"""Decimal digits of an id in a CSV cell, which fit into a 64-bit number."""

HALF_A_CHARACTER = re.compile(
    rb"\\u[dD](?:[89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..\\u[dD])[c-fC-F])", re.DOTALL
)
"""The JSON escape of a surrogate without its other half."""

BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class FileAnnotation:
    """One answer that a file holds. ``reviewer`` is an email or an id, as the file gives it."""

    label: Label
    reviewer: str | None = None
    updated_at: str | None = None
    id: int | None = None


@dataclass(frozen=True, slots=True)
class FilePrediction:
    """One pre-annotation that a file holds."""

    label: Label
    score: float | None = None
    model_version: str | None = None


@dataclass(frozen=True, slots=True)
class FileTask:
    """One text, with what a file says of it."""

    text: str
    annotations: tuple[FileAnnotation, ...] = ()
    predictions: tuple[FilePrediction, ...] = ()
    origin: str = ""
    """The file, and the row, line, item or task id in it, for messages."""
    meta: dict[str, Any] = field(default_factory=dict)
    """The ``meta`` of a Label Studio task."""


def read_tasks(
    uri: str, task: TaskType, problems: Problems, text_field: str = "text", label_field: str = "label"
) -> Iterator[FileTask]:
    """The tasks of ``uri``, in the order of its files' names and of what is in them.

    ``uri`` is a path, a ``file:///path`` or an ``s3://bucket/key``: a file, or a directory or prefix of which every
    file counts. By suffix, and for the JSON ones by content, a file is

    - ``.csv``, with a header and a column ``text_field``;
    - ``.jsonl`` or ``.ndjson``, an object a line, flat or a whole Label Studio task;
    - ``.json``, Label Studio's JSON or JSON_MIN export, or one task alone.

    Flat rows and objects may have a label in ``label_field``, as :meth:`TaskType.parse_label` takes it or as
    Label Studio's flat exports write it. An empty cell or null is no annotation, whatever the task type: an empty
    list says that no label applies. In whole tasks the text is ``data``'s ``text_field``, or without one its ``text``,
    and the control must be the loop's own, ``label``. A flat export repeats a task once an annotation: here it is one
    again, with its annotations in the order they were recorded.

    What cannot be used is left out and added to ``problems``. A task whose annotation cannot be used is still a
    task.

    Raises:
        DataError: while iterating: there is nothing at ``uri``, or a file is not of its format: not UTF-8, not
            JSON, CSV without ``text_field``. Tasks before that place have been given already.
        ObjectStoreError: while iterating: the object store cannot be read.
    """
    reader = _Reader(task, problems, text_field, label_field)
    files = _s3_files(uri, problems) if uri.startswith("s3://") else _local_files(uri, problems)
    try:
        for name, path in files:
            with path.open("rb") as file:
                yield from _merged(reader.entries(file, name))
    except OSError as error:
        raise DataError(f"{error.filename or uri} cannot be read: {error.strerror or error}.") from error


# Which files.


def _local_files(uri: str, problems: Problems) -> Iterator[tuple[str, Path]]:
    root = _local_path(uri)
    names = [root.as_posix()] if root.is_file() else sorted(p.as_posix() for p in root.rglob("*") if p.is_file())
    for name in _of_known_format(names, uri, problems):
        yield name, Path(name)


def _local_path(uri: str) -> Path:
    parts = urlsplit(uri)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(unquote(parts.path))
    if "://" in uri:
        raise DataError(f"Expected a path, a file:///path or an s3://bucket/key, got {uri!r}.")
    return Path(uri)


def _s3_files(uri: str, problems: Problems) -> Iterator[tuple[str, Path]]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    store = open_store(f"s3://{bucket}")
    below = f"{key.rstrip('/')}/" if key else ""
    keys = [k for k in store.list(key) if k == key or k.startswith(below)]
    if key in keys:
        keys = [key]
    for name in _of_known_format([store.uri(k) for k in keys], uri, problems):
        with tempfile.TemporaryDirectory() as directory:
            copy = Path(directory) / f"copy{PurePosixPath(name).suffix}"
            store.download_file(name.removeprefix(store.uri("")), copy)
            yield name, copy


def _of_known_format(names: list[str], uri: str, problems: Problems) -> list[str]:
    if not names:
        raise DataError(f"There is no file at {uri}.")
    # Hidden files are what systems leave behind, whatever their suffix.
    known = [name for name in names if _suffix(name) in SUFFIXES and not PurePosixPath(name).name.startswith(".")]
    if not known:
        raise DataError(f"Expected a {KNOWN_FILES} at {uri}, found none.")
    for name in sorted(set(names) - set(known)):
        problems.add("file skipped", name, f"not a {KNOWN_FILES}")
    return known


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


# What a file holds.


@dataclass(frozen=True, slots=True)
class _Entry:
    """A task, or of a flat export the part of one that a row is; ``group`` is then what its rows share."""

    task: FileTask
    group: str | None = None


def _merged(entries: Iterator[_Entry]) -> Iterator[FileTask]:
    """One task for all the rows that are it."""
    for (group, _), same in itertools.groupby(entries, key=lambda entry: (entry.group, entry.task.text)):
        if group is None:
            yield from (entry.task for entry in same)
        else:
            parts = [entry.task for entry in same]
            # Label Studio writes the last answer first.
            annotations = sorted((a for part in parts for a in part.annotations), key=lambda a: a.id or 0)
            yield replace(parts[0], annotations=tuple(annotations))


def _rows(file: BinaryIO, name: str, text_field: str, problems: Problems) -> Iterator[tuple[str, Any]]:
    """Each row, line or item of a file, with its place."""
    if _suffix(name) == ".csv":
        return _csv_rows(file, name, text_field, problems)
    first = _skip_to_content(file)
    if first == b"[":
        return _json_items(file, name, "item")
    if _suffix(name) != ".json":
        return _json_lines(file, name, problems)
    if first != b"{":
        raise DataError(f"{name} is not JSON in UTF-8: expected a list of tasks, or a task. Export it again.")
    return _json_items(file, name, "")


def _skip_to_content(file: BinaryIO) -> bytes:
    """The first character that is not white space; the file is left after its byte order mark, if it has one."""
    start = len(BOM) if file.read(len(BOM)) == BOM else 0
    file.seek(start)
    while (character := file.read(1)).isspace():
        pass
    file.seek(start)
    return character


def _csv_rows(file: BinaryIO, name: str, text_field: str, problems: Problems) -> Iterator[tuple[str, Any]]:
    csv.field_size_limit(MAX_CELL)
    number = 0
    # Escaped instead of refused, bytes that are not UTF-8 are found in the row they are in.
    with io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        rows = csv.DictReader(lines)
        try:
            _check_header(rows.fieldnames or (), name, text_field)
            for number, row in enumerate(rows, start=1):
                where = f"{name}, row {number}"
                surplus = row.pop(None, ())
                _check_utf8((*row.values(), *surplus), where)
                if surplus:
                    problems.add("row not readable", where, "more cells than the header has")
                else:
                    yield where, row
        except csv.Error as error:
            raise DataError(f"{name} is not CSV after row {number}: {error}. Is a quote missing?") from None


def _check_header(header: Sequence[str], name: str, text_field: str) -> None:
    _check_utf8(header, f"{name}, header")
    if text_field not in header:
        raise DataError(
            f"{name} has no column {text_field!r} in its header, separated from others by commas. Add the header, "
            "or say which column holds the text."
        )


def _check_utf8(cells: Iterable[str | None], where: str) -> None:
    try:
        "".join(cell for cell in cells if cell).encode()
    except UnicodeEncodeError:
        raise DataError(f"{where} is not UTF-8 text. Save the file as UTF-8.") from None


def _json_lines(file: BinaryIO, name: str, problems: Problems) -> Iterator[tuple[str, Any]]:
    is_json = False
    for number, line in enumerate(file, start=1):
        where = f"{name}, line {number}"
        if line.isspace():
            continue
        try:
            text = line.decode()
        except UnicodeDecodeError:
            raise DataError(f"{where} is not UTF-8 text. Save the file as UTF-8.") from None
        try:
            row = json.loads(text)
        except (ValueError, RecursionError):
            if not is_json:
                raise DataError(f"{where} is not JSON. Expected one JSON object a line.") from None
            problems.add("row not readable", where, "not JSON")
            continue
        is_json = True
        yield where, row


def _json_items(file: BinaryIO, name: str, prefix: str) -> Iterator[tuple[str, Any]]:
    number = 0
    try:
        for number, item in enumerate(_json_parser(file).items(file, prefix, multiple_values=not prefix), start=1):
            yield f"{name}, item {number}", item
    except (ijson.JSONError, ValueError):
        # From None, because their messages quote the file.
        raise DataError(f"{name} is not JSON in UTF-8 after item {number}. Export it again.") from None


def _json_parser(file: BinaryIO) -> Any:
    """ijson's fast parser; its slow one for a file with half a character, which the fast one changes or refuses."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return ijson.get_backend("python") if HALF_A_CHARACTER.search(content) else ijson


# What a row says.


class _Reader:
    def __init__(self, task: TaskType, problems: Problems, text_field: str, label_field: str) -> None:
        self._task = task
        self._problems = problems
        self._text_field = text_field
        self._label_field = label_field

    def entries(self, file: BinaryIO, name: str) -> Iterator[_Entry]:
        """The usable rows of a file."""
        for where, row in _rows(file, name, self._text_field, self._problems):
            try:
                entry = self._entry(row, where, name)
            except RecursionError:
                self._problems.add("row not readable", where, "nested too deeply")
                continue
            if entry:
                yield entry

    def _entry(self, row: Any, where: str, name: str) -> _Entry | None:
        if not isinstance(row, dict):
            self._problems.add("not an object", where)
            return None
        data = row.get("data")
        if not isinstance(data, dict):
            text = self._text(row, where)
            return None if text is None else self._flat_entry(row, text, where)
        where = f"{name}, task {row['id']}" if isinstance(row.get("id"), int) else where
        # The loop's own tasks have their text there, whatever its base data call it.
        text = self._text(data if self._text_field in data else {self._text_field: data.get(OBJECT_NAME)}, where)
        return None if text is None else _Entry(self._label_studio_task(row, text, where))

    def _text(self, fields: dict[str, Any], where: str) -> str | None:
        text = fields.get(self._text_field)
        if unusable := problem_with_text(text):
            self._problems.add(unusable, where)
            return None
        return text

    def _label_studio_task(self, row: dict[str, Any], text: str, where: str) -> FileTask:
        annotations = (self._annotation(raw, text, at) for raw, at in self._objects(row, "annotation", where))
        predictions = (self._prediction(raw, text, at) for raw, at in self._objects(row, "prediction", where))
        return FileTask(
            text=text,
            annotations=tuple(a for a in annotations if a is not None),
            predictions=tuple(p for p in predictions if p is not None),
            origin=where,
            meta=_with_floats(row.get("meta")),
        )

    def _objects(self, row: dict[str, Any], kind: str, where: str) -> Iterator[tuple[dict[str, Any], str]]:
        given = row.get(f"{kind}s") or []
        for number, raw in enumerate(given if isinstance(given, list) else [given], start=1):
            if isinstance(raw, dict):
                yield raw, f"{where} {kind} {_whole(raw.get('id')) or number}"
            # Label Studio exports the bare ids of predictions, unless told to expand them.
            elif not isinstance(raw, int):
                self._problems.add("not an object", f"{where} {kind} {number}")

    def _annotation(self, raw: dict[str, Any], text: str, where: str) -> FileAnnotation | None:
        if raw.get("was_cancelled"):
            self._problems.add("cancelled annotation", where)
            return None
        label = self._answer(raw.get("result"), text, where)
        if label is None:
            return None
        return FileAnnotation(
            label, _reviewer(raw.get("completed_by")), _name(raw.get("updated_at")), _whole(raw.get("id"))
        )

    def _prediction(self, raw: dict[str, Any], text: str, where: str) -> FilePrediction | None:
        label = self._answer(raw.get("result"), text, where)
        if label is None:
            return None
        return FilePrediction(label, _number(raw.get("score")), _name(raw.get("model_version")))

    def _answer(self, result: Any, text: str, where: str) -> Label | None:
        """The label that a ``result`` gives, or None if it gives none."""
        result = result or []
        ours = [
            region
            for region in (result if isinstance(result, list) else [])
            if isinstance(region, dict) and region.get("from_name") == CONTROL_NAME
        ]
        usable = [region for region in ours if _is_readable(region)]
        if len(usable) < len(ours):
            self._problems.add("unusable region", where, "not as Label Studio writes it")
        if result and not ours:
            self._problems.add("empty annotation", where, f"nothing from the control {CONTROL_NAME!r}")
        if result and not usable:
            return None
        reading = self._task.read_annotation(usable, text)
        for problem in reading.problems:
            self._problems.add(_kind_of_problem(problem), where, problem)
        if reading.label is None and not reading.problems:
            self._problems.add("empty annotation", where)
        return reading.label

    def _flat_entry(self, row: dict[str, Any], text: str, where: str) -> _Entry:
        label = self._flat_label(row, text, where)
        annotation_id = _whole(row.get("annotation_id"))
        annotation = FileAnnotation(label, _reviewer(row.get("annotator")), _name(row.get("updated_at")), annotation_id)
        exported = annotation_id is not None and row.get("id") is not None
        return _Entry(
            FileTask(text, () if label is None else (annotation,), origin=where),
            group=str(row["id"]) if exported else None,
        )

    def _flat_label(self, row: dict[str, Any], text: str, where: str) -> Label | None:
        value = row.get(self._label_field)
        if value is None or (isinstance(value, str) and not value.strip() and value not in self._task.labels):
            # An annotation without any region has no field for them in Label Studio's flat exports.
            return None if _whole(row.get("annotation_id")) is None else self._answer([], text, where)
        regions = self._flat_regions(value)
        if regions:
            return self._answer(regions, text, where)
        try:
            return self._task.parse_label(value, text)
        except ValueError as error:
            self._problems.add(self._kind_of_error(str(error)), where)  # The message may quote the text.
            return None

    def _flat_regions(self, value: Any) -> list[dict[str, Any]]:
        """What ``value`` was in an annotation before Label Studio made it flat; empty if it was not in one."""
        if isinstance(value, str) and value.startswith(("{", "[{")) and value not in self._task.labels:
            try:
                value = json.loads(value)
            except ValueError:
                return []
        values = value if isinstance(value, list) else [value]
        if all(isinstance(entry, dict) and ("choices" in entry or "labels" in entry) for entry in values):
            return [{"from_name": CONTROL_NAME, "value": entry} for entry in values]
        return []

    def _kind_of_error(self, message: str) -> str:
        if message.startswith("expected one of ") or "unknown label" in message:
            return "unknown label"
        return "unusable region" if isinstance(self._task, TokenClassification) else "unusable label"


def _kind_of_problem(problem: str) -> str:
    if problem.startswith("unknown label"):
        return "unknown label"
    return "unusable region" if problem.startswith("region") else "unusable annotation"


def _is_readable(region: dict[str, Any]) -> bool:
    """Whether a region's value is made as task types expect it."""
    value = region.get("value")
    if not isinstance(value, dict):
        return False
    given = [value[key] for key in ("choices", "labels") if key in value]
    return all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in given)


def _reviewer(given: Any) -> str | None:
    """An account by its email, or else by its id, as Label Studio's exports give one, the other or both."""
    if isinstance(given, dict):
        given = given.get("email") or given.get("id")
    return str(given) if isinstance(given, int) else _name(given)


def _name(given: Any) -> str | None:
    return given if isinstance(given, str) and given else None


def _whole(given: Any) -> int | None:
    """A whole number, also where a table can only give its digits."""
    if isinstance(given, str) and given.isdecimal() and len(given) <= MAX_DIGITS:
        return int(given)
    return given if isinstance(given, int) and not isinstance(given, bool) else None


def _number(given: Any) -> float | None:
    try:
        return float(given)
    except (TypeError, ValueError):
        return None


def _with_floats(meta: Any) -> dict[str, Any]:
    """``meta`` with floats for the decimals that ijson reads, which keep all digits but are not JSON."""
    return json.loads(json.dumps(meta, default=float)) if isinstance(meta, dict) else {}
