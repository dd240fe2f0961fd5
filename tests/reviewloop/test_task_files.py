"""Every format that labelling tasks come in, and what happens to what cannot be used."""

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from reviewloop.errors import DataError, ObjectStoreError
from reviewloop.object_store import open_store
from reviewloop.problems import Problems
from reviewloop.task_files import FileAnnotation, FilePrediction, FileTask, read_tasks
from reviewloop.task_types import TaskType, task_type
from tests.reviewloop.conftest import BUCKET

SINGLE = task_type("text-classification", ("bad", "good"))
MULTI = task_type("multi-label-classification", ("cheap", "fast", "a|b"))
ENTITIES = task_type("token-classification", ("PER", "LOC"))
SECRET = "Madame Ouzoulias"


class Read:
    """What a file holds, and what of it could not be used."""

    def __init__(self, uri: str | Path, task: TaskType = SINGLE, **fields: str) -> None:
        problems = Problems()
        self.tasks = list(read_tasks(str(uri), task, problems, **fields))
        self.problems = problems.summary()

    @property
    def labels(self) -> list[list[Any]]:
        """The labels of each task's annotations."""
        return [[annotation.label for annotation in task.annotations] for task in self.tasks]

    @property
    def texts(self) -> list[str]:
        """The texts of the tasks."""
        return [task.text for task in self.tasks]

    @property
    def counts(self) -> dict[str, int]:
        """How many problems there are of each kind."""
        return {kind: found["count"] for kind, found in self.problems.items()}


def written(path: Path, content: Any) -> Path:
    """``path``, holding ``content``: bytes, text, or what becomes JSON."""
    if not isinstance(content, bytes):
        content = (content if isinstance(content, str) else json.dumps(content)).encode()
    path.write_bytes(content)
    return path


def choice(*names: str, **fields: Any) -> dict[str, Any]:
    """An annotation with these choices."""
    return {"result": [{"from_name": "label", "value": {"choices": list(names)}}], **fields}


def region(start: Any, end: Any, *labels: str) -> dict[str, Any]:
    """A marked piece of text."""
    return {"from_name": "label", "value": {"start": start, "end": end, "text": SECRET, "labels": list(labels)}}


def exported(text: Any, *annotations: Any, **fields: Any) -> dict[str, Any]:
    """A task as Label Studio's JSON format has it."""
    return {"id": 7, "data": {"text": text}, "annotations": list(annotations), **fields}


# Formats.


def test_a_csv_file_is_read(tmp_path: Path) -> None:
    content = '\ufefftext,label,id\r\n"Good, and ""quoted""\nover lines",good,1\r\n\r\nSchlecht ü,0,2\r\nOffen,,3\r\n'
    path = written(tmp_path / "a.csv", content)
    read = Read(path)
    assert read.texts == ['Good, and "quoted"\nover lines', "Schlecht ü", "Offen"]
    assert read.labels == [["good"], ["bad"], []]
    assert [task.origin for task in read.tasks] == [f"{path}, row {number}" for number in (1, 2, 3)]
    assert read.problems == {}


def test_a_csv_file_without_labels_gives_tasks_without_annotations(tmp_path: Path) -> None:
    assert Read(written(tmp_path / "a.csv", "text\none\ntwo\n")).labels == [[], []]


def test_a_csv_file_with_the_line_ends_of_old_macs_is_read(tmp_path: Path) -> None:
    assert Read(written(tmp_path / "a.csv", "text,label\rone,good\rtwo,bad\r")).texts == ["one", "two"]


def test_a_csv_cell_may_be_larger_than_pythons_limit(tmp_path: Path) -> None:
    text = "long " * 100_000
    assert Read(written(tmp_path / "a.csv", f"text\n{text}\n")).texts == [text]


@pytest.mark.parametrize(
    ("task", "cell", "label"),
    [
        (MULTI, "fast|cheap", ["cheap", "fast"]),
        (MULTI, '["a|b"]', ["a|b"]),
        (MULTI, "[]", []),
        (ENTITIES, '[{"start": 0, "end": 2, "label": "LOC"}]', [{"start": 0, "end": 2, "label": "LOC"}]),
        (ENTITIES, "[]", []),
    ],
)
def test_a_csv_cell_can_hold_the_labels_of_every_task_type(
    tmp_path: Path, task: TaskType, cell: str, label: Any
) -> None:
    quoted = cell.replace('"', '""')
    assert Read(written(tmp_path / "a.csv", f'text,label\nsome text,"{quoted}"\n'), task).labels == [[label]]


@pytest.mark.parametrize("task", [SINGLE, MULTI, ENTITIES], ids=lambda task: task.name)
def test_no_label_is_no_annotation_whatever_the_task_type(tmp_path: Path, task: TaskType) -> None:
    assert Read(written(tmp_path / "a.csv", "text,label\none,\ntwo, \n"), task).labels == [[], []]
    assert Read(written(tmp_path / "a.jsonl", '{"text": "one", "label": null}\n'), task).labels == [[]]


def test_the_csv_export_of_label_studio_is_read(tmp_path: Path) -> None:
    header = "text,id,label,annotator,annotation_id,created_at,updated_at,lead_time\n"
    row = 'some text,3,"{""choices"": [""fast"", ""cheap""]}",4,9,,2026-01-02T03:04:05Z,1.5\n'
    (task,) = Read(written(tmp_path / "a.csv", header + row), MULTI).tasks
    assert task.annotations == (FileAnnotation(["cheap", "fast"], "4", "2026-01-02T03:04:05Z", 9),)
    regions = '"[{""start"": 0, ""end"": 4, ""text"": ""some"", ""labels"": [""PER""]}]"'
    (task,) = Read(written(tmp_path / "a.csv", header + f"some text,3,{regions},4,9,,,\n"), ENTITIES).tasks
    assert task.annotations == (FileAnnotation([{"start": 0, "end": 4, "label": "PER"}], "4", None, 9),)


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "A.JSONL", "a.json"])
def test_json_lines_are_read(tmp_path: Path, name: str) -> None:
    lines = [{"text": "Good 🎉", "label": "good"}, {"text": "Bad", "label": 0}, exported("Whole", choice("good"))]
    path = written(tmp_path / name, "\ufeff" + "\n".join(map(json.dumps, lines)) + "\n\n")
    read = Read(path)
    assert read.texts == ["Good 🎉", "Bad", "Whole"]
    assert read.labels == [["good"], ["bad"], ["good"]]
    place = "item" if name == "a.json" else "line"
    assert [task.origin for task in read.tasks] == [f"{path}, {place} 1", f"{path}, {place} 2", f"{path}, task 7"]


def test_a_label_studio_export_is_read_with_all_it_says(tmp_path: Path) -> None:
    task = exported(
        "A text",
        choice("good", id=31, completed_by=4, updated_at="2026-01-02T03:04:05.678901Z"),
        choice("bad", id=32, completed_by={"id": 5, "email": "ana@example.org"}),
        choice("bad", completed_by="ben@example.org"),
        choice("bad", completed_by={"id": 6}),
        predictions=[choice("good", score=0.75, model_version="v0003"), choice("bad"), 12],
        meta={"reason": "audit", "propensity": 0.1, "nested": [{"n": 1, "big": 2**70}]},
    )
    path = written(tmp_path / "a.json", [task])
    read = Read(path)
    assert read.tasks == [
        FileTask(
            text="A text",
            annotations=(
                FileAnnotation("good", "4", "2026-01-02T03:04:05.678901Z", 31),
                FileAnnotation("bad", "ana@example.org", None, 32),
                FileAnnotation("bad", "ben@example.org"),
                FileAnnotation("bad", "6"),
            ),
            predictions=(FilePrediction("good", 0.75, "v0003"), FilePrediction("bad")),
            origin=f"{path}, task 7",
            meta={"reason": "audit", "propensity": 0.1, "nested": [{"n": 1, "big": 2**70}]},
        )
    ]
    assert read.problems == {}
    json.dumps(read.tasks[0].meta)


def test_one_label_studio_task_alone_is_read(tmp_path: Path) -> None:
    assert Read(written(tmp_path / "a.json", "\n " + json.dumps(exported("A text")))).texts == ["A text"]


def test_entities_are_read_from_an_export(tmp_path: Path) -> None:
    task = exported("Ana in Rom 🎉", {"result": [region(7, 10, "LOC"), region(0, 3, "PER")]}, {"result": []})
    assert Read(written(tmp_path / "a.json", [task]), ENTITIES).labels == [
        [[{"start": 0, "end": 3, "label": "PER"}, {"start": 7, "end": 10, "label": "LOC"}], []]
    ]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_the_flat_export_is_read_and_its_repeated_tasks_are_one_again(tmp_path: Path, name: str) -> None:
    rows: list[dict[str, Any]] = [
        {"text": "one", "id": 1, "annotator": 5, "annotation_id": 12},
        {
            "text": "one",
            "id": 1,
            "label": {"choices": ["fast", "cheap"]},
            "annotator": "ana@example.org",
            "annotation_id": 11,
        },
        {"text": "one", "id": 1, "label": "fast", "annotator": 4, "annotation_id": 10, "updated_at": "2026-01-02"},
        {"text": "two", "id": 2, "label": "a|b", "annotator": 4, "annotation_id": 13},
        {"text": "three", "id": 3, "annotator": None, "annotation_id": None},
        {"text": "three", "id": 4, "annotator": None, "annotation_id": None},
    ]
    content = rows if name == "a.json" else "\n".join(map(json.dumps, rows))
    read = Read(written(tmp_path / name, content), MULTI)
    assert read.texts == ["one", "two", "three", "three"]
    assert read.tasks[0].annotations == (
        FileAnnotation(["fast"], "4", "2026-01-02", 10),
        FileAnnotation(["cheap", "fast"], "ana@example.org", None, 11),
        FileAnnotation([], "5", None, 12),
    )
    assert read.labels[1:] == [[["a|b"]], [], []]


def test_entities_are_read_from_the_flat_export(tmp_path: Path) -> None:
    spans = [{"start": 0, "end": 3, "text": "Ana", "labels": ["PER"]}]
    row = {"text": "Ana in Rom", "id": 1, "label": spans, "annotator": 4, "annotation_id": 10}
    assert Read(written(tmp_path / "a.json", [row]), ENTITIES).labels == [[[{"start": 0, "end": 3, "label": "PER"}]]]


def test_a_flat_list_may_hold_labels_as_base_data_does(tmp_path: Path) -> None:
    rows = [{"text": "one", "label": ["fast"]}, {"text": "two", "label": []}, {"text": "three"}]
    assert Read(written(tmp_path / "a.json", rows), MULTI).labels == [[["fast"]], [[]], []]


def test_other_field_names_can_be_given(tmp_path: Path) -> None:
    fields = {"text_field": "review", "label_field": "stars"}
    assert Read(written(tmp_path / "a.csv", "review,stars\nNice,good\n"), **fields).labels == [["good"]]
    assert Read(written(tmp_path / "a.json", [{"data": {"review": "Nice"}}]), **fields).texts == ["Nice"]


# Places.


@pytest.fixture
def many(store_uri: str) -> str:
    """The URI of a directory or prefix with files of every kind."""
    store = open_store(store_uri)
    for key, content in {
        "in/b.csv": "text\nb\n",
        "in/a-1.jsonl": '{"text": "a-1"}',
        "in/a/deep.json": '[{"text": "deep"}]',
        "in/README.md": "nothing",
        "in/.hidden.json": "{",
        "in10/other.csv": "text\nother\n",
        "none/README.md": "nothing",
    }.items():
        store.write(key, content.encode())
    return store_uri


@pytest.mark.parametrize("end", ["", "/"])
def test_all_files_below_a_place_are_read_in_alphabetical_order(many: str, end: str) -> None:
    read = Read(f"{many}/in{end}")
    assert read.texts == ["a-1", "deep", "b"]
    assert read.counts == {"file skipped": 2}
    assert [place.split(":")[-2].rpartition("/")[-1] for place in read.problems["file skipped"]["where"]] == [
        ".hidden.json",
        "README.md",
    ]


def test_one_file_is_read_alone(many: str) -> None:
    (task,) = Read(f"{many}/in/b.csv").tasks
    assert task.text == "b"
    assert task.origin.endswith("/in/b.csv, row 1")


def test_a_place_with_nothing_to_read_is_named(many: str) -> None:
    with pytest.raises(DataError, match=rf"There is no file at {many}/nowhere\."):
        Read(f"{many}/nowhere")
    with pytest.raises(DataError, match=rf"Expected a .csv, .jsonl, .ndjson or .json file at {many}/none, found none"):
        Read(f"{many}/none")
    with pytest.raises(DataError, match=r"Expected a .csv, .jsonl, .ndjson or .json file at .*README\.md, found none"):
        Read(f"{many}/in/README.md")


def test_a_whole_bucket_and_a_folders_own_object_are_no_obstacle(s3: str, tmp_path: Path) -> None:
    client = boto3.client("s3")
    client.create_bucket(Bucket="tasks-alone")
    client.put_object(Bucket="tasks-alone", Key="in/")
    client.put_object(Bucket="tasks-alone", Key="in/odd #1?.csv", Body=b"text\nodd\n")
    for uri in ("s3://tasks-alone", "s3://tasks-alone/", "s3://tasks-alone/in/", "s3://tasks-alone/in/odd #1?.csv"):
        read = Read(uri)
        assert read.texts == ["odd"]
        assert read.problems == {}


def test_a_bucket_that_does_not_exist_is_a_sentence(s3: str) -> None:
    assert s3 == f"s3://{BUCKET}"
    with pytest.raises(ObjectStoreError, match="NoSuchBucket"):
        Read("s3://no-such-bucket/in")


@pytest.mark.parametrize("uri", ["http://example.com/a.csv", "file://host/a.csv"])
def test_an_unsupported_uri_says_which_are_supported(uri: str) -> None:
    with pytest.raises(DataError, match=r"Expected a path, a file:///path or an s3://bucket/key, got"):
        Read(uri)


def test_a_path_with_a_space_is_found_through_its_uri_too(tmp_path: Path) -> None:
    path = written(tmp_path / "my #1 file.csv", "text\none\n")
    assert Read(path.as_uri()).texts == Read(path).texts == ["one"]


# What cannot be used.

BAD_ROWS: list[tuple[TaskType, Any, str]] = [
    (SINGLE, {"text": ""}, "empty text"),
    (SINGLE, {"text": " \n\u2003", "label": "good"}, "empty text"),
    (SINGLE, {"text": None}, "empty text"),
    (SINGLE, {"text": [SECRET]}, "empty text"),
    (SINGLE, {"label": "good"}, "empty text"),
    (SINGLE, exported(None, choice("good")), "empty text"),
    (SINGLE, [SECRET], "not an object"),
    (SINGLE, SECRET, "not an object"),
    (SINGLE, None, "not an object"),
]

BAD_ANNOTATIONS: list[tuple[TaskType, Any, str]] = [
    (SINGLE, {"text": SECRET, "label": SECRET}, "unknown label"),
    (SINGLE, {"text": SECRET, "label": 2}, "unknown label"),
    (SINGLE, {"text": SECRET, "label": True}, "unknown label"),
    (SINGLE, {"text": SECRET, "label": {"text": SECRET}}, "unknown label"),
    (SINGLE, {"text": SECRET, "label": {"choices": ["maybe"]}}, "unknown label"),
    (SINGLE, {"text": SECRET, "label": {"choices": SECRET}}, "unusable region"),
    (SINGLE, {"text": SECRET, "label": {"choices": ["good", "bad"]}}, "unusable annotation"),
    (SINGLE, {"text": SECRET, "id": 1, "annotation_id": 2}, "empty annotation"),
    (MULTI, {"text": SECRET, "label": f"cheap|{SECRET}"}, "unknown label"),
    (MULTI, {"text": SECRET, "label": f'["{SECRET}'}, "unusable label"),
    (MULTI, {"text": SECRET, "label": 1.5}, "unusable label"),
    (ENTITIES, {"text": SECRET, "label": SECRET}, "unusable region"),
    (ENTITIES, {"text": SECRET, "label": [{"start": 0, "end": 99, "label": "PER", "text": SECRET}]}, "unusable region"),
    (ENTITIES, {"text": SECRET, "label": [{"start": 0, "end": 2, "label": "ORG", "text": SECRET}]}, "unknown label"),
    (ENTITIES, {"text": SECRET, "label": [SECRET]}, "unusable region"),
    (SINGLE, exported(SECRET, choice("maybe")), "unknown label"),
    (SINGLE, exported(SECRET, choice("good", "bad")), "unusable annotation"),
    (SINGLE, exported(SECRET, choice("good", was_cancelled=True)), "cancelled annotation"),
    (SINGLE, exported(SECRET, {"result": []}), "empty annotation"),
    (SINGLE, exported(SECRET, {}), "empty annotation"),
    (SINGLE, exported(SECRET, {"result": SECRET}), "empty annotation"),
    (
        MULTI,
        exported(SECRET, {"result": [{"from_name": "other", "value": {"choices": ["cheap"]}}]}),
        "empty annotation",
    ),
    (MULTI, exported(SECRET, {"result": [{"from_name": "label", "value": None}]}), "unusable region"),
    (
        MULTI,
        exported(SECRET, {"result": [{"from_name": "label", "value": {"choices": [[SECRET]]}}]}),
        "unusable region",
    ),
    (ENTITIES, exported(SECRET, {"result": [region(0, 99, "PER")]}), "unusable region"),
    (ENTITIES, exported(SECRET, {"result": [region("0", "2", "PER")]}), "unusable region"),
    (ENTITIES, exported(SECRET, {"result": [region(0, 2, "ORG")]}), "unknown label"),
    (ENTITIES, exported(SECRET, {"result": [{"from_name": "label", "value": {"labels": 5}}]}), "unusable region"),
    (SINGLE, exported(SECRET, SECRET), "not an object"),
    (SINGLE, exported(SECRET, annotations=SECRET), "not an object"),
    (SINGLE, exported(SECRET, predictions=[choice("maybe")]), "unknown label"),
    (SINGLE, exported(SECRET, predictions=[SECRET]), "not an object"),
]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize(("task", "row", "kind"), BAD_ROWS)
def test_a_row_that_cannot_be_used_is_counted_and_the_next_is_read(
    tmp_path: Path, name: str, task: TaskType, row: Any, kind: str
) -> None:
    rows = [{"text": "before"}, row, {"text": "after"}]
    read = Read(written(tmp_path / name, rows if name == "a.json" else "\n".join(map(json.dumps, rows))), task)
    assert read.texts == ["before", "after"]
    assert read.counts == {kind: 1}
    assert SECRET not in str(read.problems)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize(("task", "row", "kind"), BAD_ANNOTATIONS)
def test_a_task_whose_annotation_cannot_be_used_is_still_a_task(
    tmp_path: Path, name: str, task: TaskType, row: Any, kind: str
) -> None:
    rows = [row, {"text": "after"}]
    path = written(tmp_path / name, rows if name == "a.json" else "\n".join(map(json.dumps, rows)))
    read = Read(path, task)
    assert read.texts == [SECRET, "after"]
    assert read.labels == [[], []]
    assert read.tasks[0].predictions == ()
    assert read.counts == {kind: 1}
    (place,) = read.problems[kind]["where"]
    assert place.startswith(f"{path}, ")
    assert SECRET not in place


def test_what_can_be_used_of_an_annotation_is(tmp_path: Path) -> None:
    result = [region(0, 3, "PER"), region(2, 5, "LOC"), region(4, 6, "ORG"), {"from_name": "label"}]
    read = Read(written(tmp_path / "a.json", [exported("Ana in Rom", {"id": 31, "result": result})]), ENTITIES)
    assert read.labels == [[[{"start": 0, "end": 3, "label": "PER"}]]]
    at = f"{tmp_path}/a.json, task 7 annotation 31"
    assert read.problems == {
        "unusable region": {
            "count": 2,
            "where": [f"{at}: not as Label Studio writes it", f"{at}: region 2-5 overlaps another"],
        },
        "unknown label": {"count": 1, "where": [f"{at}: unknown label 'ORG'"]},
    }


def test_csv_rows_that_cannot_be_used_are_counted_and_the_next_is_read(tmp_path: Path) -> None:
    rows = f"text,label\n{SECRET},{SECRET}\n{SECRET},good,more\n,good\nlast\n"
    read = Read(written(tmp_path / "a.csv", rows))
    assert read.texts == [SECRET, "last"]
    assert read.counts == {"unknown label": 1, "row not readable": 1, "empty text": 1}
    assert SECRET not in str(read.problems)


def test_a_csv_number_too_long_for_an_id_is_none(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", f"text,label,id,annotation_id\none,good,1,{'9' * 5000}\n")
    assert Read(path).tasks[0].annotations == (FileAnnotation("good"),)


def test_json_lines_that_cannot_be_read_are_counted_and_the_next_is_read(tmp_path: Path) -> None:
    lines = ['{"text": "one"}', f'{{"text": "{SECRET}', '{"text": "half \\ud83c"}', "[" * 100_000, '{"text": "two"}']
    read = Read(written(tmp_path / "a.jsonl", "\n".join(lines)))
    assert read.texts == ["one", "two"]
    assert read.counts == {"row not readable": 2, "half a character (a lone surrogate)": 1}
    assert SECRET not in str(read.problems)


@pytest.mark.parametrize("half", ["\\ud83c", "\\uD83C and more", "\\udf89", "\\ud83c\\ud83c\\udf89", "\\udf89\\ud83c"])
def test_half_a_character_is_counted_and_the_next_item_is_read(tmp_path: Path, half: str) -> None:
    items = (
        '{"text": "one \\ud83c\\udf89"}',
        f'{{"text": "{half}"}}',
        '{"data": {"text": "two ü🎉"}, "meta": {"a": 0.5}}',
    )
    content = f"[{', '.join(items)}]"
    read = Read(written(tmp_path / "a.json", content))
    assert read.texts == ["one 🎉", "two ü🎉"]
    assert read.tasks[1].meta == {"a": 0.5}
    assert read.counts == {"half a character (a lone surrogate)": 1}


@pytest.mark.parametrize("field", ["meta", "label"])
def test_an_item_nested_too_deeply_is_counted_and_the_next_is_read(tmp_path: Path, field: str) -> None:
    deep = '{"a": ' * 20_000 + "1" + "}" * 20_000
    data = '"data": {"text": "one"}, ' if field == "meta" else '"text": "one", '
    read = Read(written(tmp_path / "a.json", f'[{{{data}"{field}": {deep}}}, {{"text": "two"}}]'))
    assert read.texts == ["two"]
    assert read.counts == {"row not readable": 1}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", f"{SECRET}\nsecond\n", r"a\.csv has no column 'text' in its header"),
        ("a.csv", f"text;label\n{SECRET};good\n", r"a\.csv has no column 'text' in its header"),
        ("a.csv", "", r"a\.csv has no column 'text' in its header"),
        ("a.csv", f"text\none\n{SECRET} ü\n".encode("latin-1"), r"a\.csv, row 2 is not UTF-8 text\. Save the file"),
        ("a.csv", "text,label\none,good\n".encode("utf-16"), r"a\.csv, header is not UTF-8 text\. Save the file"),
        ("a.csv", "text\none\n" + '"' + SECRET * 1_100_000, r"a\.csv is not CSV after row 1: .*Is a quote missing\?"),
        ("a.jsonl", f"{SECRET}\n", r"a\.jsonl, line 1 is not JSON\. Expected one JSON object a line"),
        ("a.jsonl", '\n{"text": "one"}\n"ü"\n'.encode("latin-1"), r"a\.jsonl, line 3 is not UTF-8 text\. Save the"),
        ("a.json", "", r"a\.json is not JSON in UTF-8: expected a list of tasks, or a task\. Export it again"),
        ("a.json", f'"{SECRET}"', r"a\.json is not JSON in UTF-8: expected a list of tasks, or a task"),
        ("a.json", '[{"text": "one"}]'.encode("utf-16"), r"a\.json is not JSON in UTF-8: expected a list"),
        ("a.json", f'[{{"text": "one"}}, {{"text": "{SECRET}"', r"a\.json is not JSON in UTF-8 after item 1\. Export"),
        ("a.json", f'[{{"text": "{SECRET}" x}}]', r"a\.json is not JSON in UTF-8 after item 0\. Export"),
        ("a.json", f'[{{"text": "one"}}] {SECRET}', r"a\.json is not JSON in UTF-8 after item 1\. Export"),
        ("a.json", f'{{"text": "{SECRET}"', r"a\.json is not JSON in UTF-8 after item 0\. Export"),
        ("a.json", f'[{{"text": "{SECRET} ü"}}]'.encode("latin-1"), r"a\.json is not JSON in UTF-8 after item 0"),
        ("a.json", b'["one", "\xed\xa0\x80"]', r"a\.json is not JSON in UTF-8 after item 1\. Export"),
        ("a.json", f'["\\udc00", {{"text": "{SECRET}" x}}]', r"a\.json is not JSON in UTF-8 after item 1\. Export"),
        ("a.json", f'["\\udc00", "{SECRET} ü"]'.encode("latin-1"), r"a\.json is not JSON in UTF-8 after item"),
    ],
)
def test_a_file_that_is_not_of_its_format_says_where_and_what_to_do(
    tmp_path: Path, name: str, content: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message) as raised:
        Read(written(tmp_path / name, content))
    assert SECRET not in str(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


def test_a_file_that_cannot_be_opened_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.csv", "text\none\n")

    def refuse(self: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"a\.csv cannot be read: Permission denied\."):
        Read(path)


def test_tasks_are_given_before_the_file_is_read_to_its_end(tmp_path: Path) -> None:
    tasks = read_tasks(str(written(tmp_path / "a.json", '[{"text": "one"}, ')), SINGLE, Problems())
    assert next(tasks).text == "one"
    with pytest.raises(DataError):
        next(tasks)


# Size.

MANY = 30_000


def lines_of_tasks() -> Iterator[str]:
    """Tasks of about one kilobyte."""
    for number in range(MANY):
        task = exported(f"{number} " + "wörd " * 120, choice("good", id=number), id=number, meta={"draw": 0.5})
        yield json.dumps(task, ensure_ascii=False)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with path.open("w", encoding="utf-8") as file:
        separator = ",\n" if name == "a.json" else "\n"
        file.write("[" if name == "a.json" else "")
        for number, line in enumerate(lines_of_tasks()):
            file.write((separator if number else "") + line)
        file.write("]" if name == "a.json" else "")
    assert path.stat().st_size > 25e6
    tracemalloc.start()
    try:
        count = sum(len(task.annotations) for task in read_tasks(str(path), SINGLE, Problems()))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == MANY
    assert peak < 2e6
