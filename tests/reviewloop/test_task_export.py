"""What is exported reads back to the same thing."""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.data_merge.base_data import read_examples
from reviewloop.errors import DataError, LabelStudioUnavailable
from reviewloop.problems import Problems
from reviewloop.records import Example
from reviewloop.task_export import write_label_studio_json, write_training_data
from reviewloop.task_files import FileAnnotation, FilePrediction, FileTask, read_tasks
from reviewloop.task_types import TASK_TYPES, TaskType, task_type

LABELS = (
    "good",
    "two words",
    "a|b",
    "a",
    "b",
    "[x]",
    "{y}",
    " ends ",
    'he said "so"',
    "it's",
    "<&>",
    "a,b;c\td",
    "1",
    "عربي",
    "😀 é",
)
TASKS = [task_type(name, LABELS) for name in TASK_TYPES]
TABULAR = [task for task in TASKS if task.name != "token-classification"]

PIECES = [
    "👩‍👩‍👧",
    "👍🏽",
    "e\u0301",
    "नमस्ते",
    "مرحبا",
    "שלום",
    "\n",
    "\r\n",
    "\r",
    "\t",
    "\u2028",
    "\x00",
    '"',
    "<b>&",
    "|",
    "\ufeff",
    "a",
]
TEXTS = (
    st.lists(st.sampled_from(PIECES) | st.text(max_size=10), min_size=1, max_size=8)
    .map("".join)
    .filter(lambda text: bool(text.strip()))
)
NAMES = st.text(min_size=1, max_size=10)
ACCOUNTS = st.emails() | st.integers(min_value=1).map(str) | NAMES
META = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
        max_leaves=5,
    ),
    max_size=3,
)


def labels_of(task: TaskType, text: str) -> st.SearchStrategy[Any]:
    """Labels that ``text`` can have."""
    name = st.sampled_from(task.labels)
    if task.name == "text-classification":
        return name
    if task.name == "multi-label-classification":
        return st.lists(name, unique=True).map(lambda names: task.parse_label(names, text))
    ends = st.lists(st.integers(0, len(text)), unique=True, max_size=6).map(sorted)
    places = ends.map(lambda e: list(zip(e[::2], e[1::2], strict=False)))
    return places.flatmap(
        lambda found: st.tuples(*(st.builds(dict, start=st.just(s), end=st.just(e), label=name) for s, e in found))
    ).map(list)


@st.composite
def file_tasks(draw: st.DrawFn, task: TaskType) -> FileTask:
    """Tasks as Label Studio may hold them."""
    text = draw(TEXTS)
    label = labels_of(task, text)
    annotation = st.builds(
        FileAnnotation,
        label=label,
        reviewer=st.none() | ACCOUNTS,
        updated_at=st.none() | st.datetimes().map(lambda moment: moment.isoformat() + "Z"),
        id=st.none() | st.integers(min_value=1),
    )
    prediction = st.builds(
        FilePrediction,
        label=label,
        score=st.none() | st.floats(0, 1),
        model_version=st.none() | NAMES,
    )
    return FileTask(
        text=text,
        annotations=tuple(draw(st.lists(annotation, max_size=3))),
        predictions=tuple(draw(st.lists(prediction, max_size=2))),
        meta=draw(META),
    )


@st.composite
def examples(draw: st.DrawFn, task: TaskType) -> Example:
    """Labelled texts."""
    text = draw(TEXTS)
    return Example(text, draw(labels_of(task, text)), draw(NAMES))


def read_back(path: Path, task: TaskType) -> list[FileTask]:
    """What ``path`` holds, all of it usable; without the places it is at, which are its own."""
    problems = Problems()
    tasks = [replace(read, origin="") for read in read_tasks(str(path), task, problems)]
    assert problems.summary() == {}
    return tasks


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
@given(data=st.data())
def test_an_exported_task_reads_back_to_itself(task: TaskType, data: st.DataObject) -> None:
    tasks = data.draw(st.lists(file_tasks(task), max_size=4))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "tasks.json"
        assert write_label_studio_json(tasks, task, path) == len(tasks)
        assert read_back(path, task) == tasks


@pytest.mark.parametrize(
    ("task", "suffix"),
    [*((task, ".jsonl") for task in TASKS), *((task, ".csv") for task in TABULAR)],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
@given(data=st.data())
def test_exported_training_data_reads_back_to_itself(task: TaskType, suffix: str, data: st.DataObject) -> None:
    rows = data.draw(st.lists(examples(task), max_size=4))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / f"training{suffix}"
        assert write_training_data(rows, task, path) == len(rows)
        assert read_back(path, task) == [FileTask(row.text, (FileAnnotation(row.label),)) for row in rows]
        assert read_examples(str(path), "base", task, Problems()) == [replace(row, source="base") for row in rows]


def test_label_studio_reads_what_is_exported(tmp_path: Path) -> None:
    task = task_type("text-classification", ("bad", "good"))
    annotations = [FileAnnotation("good", "4", "2026-01-02T03:04:05Z", 9), FileAnnotation("bad", "ana@example.org")]
    exported = FileTask("A text ü", tuple(annotations), (FilePrediction("good", 0.75, "v0003"),), meta={"draw": 0.5})
    path = tmp_path / "new" / "tasks.json"
    assert write_label_studio_json([exported, FileTask("Another")], task, path) == 2
    good, bad = (
        [{"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": [label]}}]
        for label in ("good", "bad")
    )
    assert json.loads(path.read_text(encoding="utf-8")) == [
        {
            "data": {"text": "A text ü"},
            "annotations": [
                {
                    "id": 9,
                    "completed_by": 4,
                    "result": good,
                    "was_cancelled": False,
                    "updated_at": "2026-01-02T03:04:05Z",
                },
                {"completed_by": {"email": "ana@example.org"}, "result": bad, "was_cancelled": False},
            ],
            "predictions": [{"result": good, "score": 0.75, "model_version": "v0003"}],
            "meta": {"draw": 0.5},
        },
        {"data": {"text": "Another"}, "annotations": [], "predictions": [], "meta": {}},
    ]
    assert "ü" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["json_min", "csv"])
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_label_studios_own_flat_exports_read_back_to_the_same_answers(
    tmp_path: Path, task: TaskType, kind: str
) -> None:
    from label_studio_sdk.converter import Converter

    answers: tuple[Any, ...] = {
        "text-classification": ("good", "a|b"),
        "multi-label-classification": (["two words", "a|b"], ["a|b"], []),
        "token-classification": ([{"start": 0, "end": 3, "label": "a|b"}, {"start": 7, "end": 10, "label": "<&>"}], []),
    }[task.name]
    annotations = tuple(FileAnnotation(label, str(id), f"2026-01-0{id}", id) for id, label in enumerate(answers, 1))
    texts = ['Ana in Rom 🎉, "so"\nü', "nobody's", "nobody's"]
    write_label_studio_json(
        [FileTask(text, annotations if text.startswith("Ana") else ()) for text in texts], task, tmp_path / "tasks.json"
    )
    tasks = json.loads((tmp_path / "tasks.json").read_text(encoding="utf-8"))
    for task_id, exported in enumerate(tasks, start=1):  # As they are once Label Studio holds them.
        exported["id"] = task_id
        for annotation in exported["annotations"]:
            annotation["created_at"] = annotation["updated_at"]
    (tmp_path / "tasks.json").write_text(json.dumps(tasks), encoding="utf-8")

    converter = Converter(task.labeling_config("Which?"), project_dir=str(tmp_path))
    places = {"input_data": str(tmp_path / "tasks.json"), "output_dir": str(tmp_path / "flat"), "is_dir": False}
    if kind == "csv":
        converter.convert_to_csv(**places, header=True, sep=",")
    else:
        converter.convert_to_json_min(**places)
    assert read_back(tmp_path / "flat", task) == [
        FileTask(texts[0], annotations),
        FileTask(texts[1]),
        FileTask(texts[2]),
    ]


def test_no_task_at_all_is_an_empty_list(tmp_path: Path) -> None:
    task = TASKS[0]
    assert write_label_studio_json([], task, tmp_path / "tasks.json") == 0
    assert read_back(tmp_path / "tasks.json", task) == []


@pytest.mark.parametrize(
    ("label", "cell"),
    [
        (["good", "a"], "good|a"),
        (["good"], "good"),
        (["a|b"], "a|b"),
        (["good", "a|b"], '"[""good"", ""a|b""]"'),
        (["a", "b"], '"[""a"", ""b""]"'),
        (["[x]"], "[x]"),
        ([], "[]"),
    ],
)
def test_labels_are_joined_in_a_table_where_that_tells_them_apart(tmp_path: Path, label: list[str], cell: str) -> None:
    task = task_type("multi-label-classification", LABELS)
    write_training_data([Example("text", label, "reviews")], task, tmp_path / "training.csv")
    assert (tmp_path / "training.csv").read_bytes().decode() == f"text,label,source\r\ntext,{cell},reviews\r\n"


def test_training_data_goes_only_where_it_fits(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Expected a \.jsonl or \.csv file to write training data to, got .*\.txt'"):
        write_training_data([], TASKS[0], tmp_path / "training.txt")
    with pytest.raises(
        DataError, match=r"Entities do not fit into a table, got .*\.csv'\. Name a \.jsonl file instead"
    ):
        write_training_data([], task_type("token-classification", LABELS), tmp_path / "training.csv")
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_breaks_off_leaves_the_old_file(tmp_path: Path) -> None:
    def broken() -> Iterator[FileTask]:
        yield FileTask("one")
        raise LabelStudioUnavailable("gone")

    path = tmp_path / "tasks.json"
    path.write_text("old")
    with pytest.raises(LabelStudioUnavailable):
        write_label_studio_json(broken(), TASKS[0], path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/tasks\.json cannot be written: (File exists|Not a directory)\."):
        write_label_studio_json([], TASKS[0], tmp_path / "file" / "tasks.json")


def test_half_a_character_does_not_stop_an_export(tmp_path: Path) -> None:
    write_label_studio_json([FileTask("half \ud83c"), FileTask("whole")], TASKS[0], tmp_path / "tasks.json")
    assert [task["data"]["text"] for task in json.loads((tmp_path / "tasks.json").read_bytes())] == [
        "half \ud83c",
        "whole",
    ]
