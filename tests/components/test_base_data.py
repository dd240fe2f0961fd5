"""Every way in for base data, and what a person reads when a file is not as it should be."""

import json
from pathlib import Path
from typing import Any

import pytest

from components.data_merge.base_data import read_examples
from reviewloop.errors import DataError
from reviewloop.problems import Problems
from reviewloop.records import Example
from reviewloop.task_types import TaskType, task_type

LABELS = ("bad", "good")
TASK = task_type("text-classification", LABELS)
MULTI = task_type("multi-label-classification", LABELS)
TOKENS = task_type("token-classification", LABELS)


def read(path: Path, task: TaskType = TASK, **fields: str) -> list[Example]:
    """What the file holds, all of which can be used."""
    examples, problems = read_with_problems(path, task, **fields)
    assert problems == {}
    return examples


def read_with_problems(path: Path, task: TaskType = TASK, **fields: str) -> tuple[list[Example], dict[str, Any]]:
    """What can be used of the file, and what cannot."""
    problems = Problems()
    return read_examples(str(path), "movies", task, problems, **fields), problems.summary()


def written(path: Path, content: str | bytes) -> Path:
    """``path``, holding ``content``."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def exported_task(text: str, *answers: str | None, **annotation: Any) -> dict[str, Any]:
    """A task as Label Studio exports it; an answer of None is an empty annotation."""
    results = [TASK.annotation_result(answer, text) if answer else [] for answer in answers]
    return {"id": 7, "data": {"text": text}, "annotations": [{"result": result, **annotation} for result in results]}


def test_a_csv_file_from_a_spreadsheet_is_read(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.csv", '\ufefftext,label\r\n"Good, and ""quoted""\nover lines",good\r\nSchlecht ü,bad\r\n'
    )
    assert read(path) == [
        Example('Good, and "quoted"\nover lines', "good", "movies"),
        Example("Schlecht ü", "bad", "movies"),
    ]


def test_json_lines_are_read(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", '\ufeff{"text": "Good 🎉", "label": "good"}\n{"text": "Bad", "label": "bad"}')
    assert read(path) == [Example("Good 🎉", "good", "movies"), Example("Bad", "bad", "movies")]


def test_other_field_names_can_be_given(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "review,stars,text\nNice,good,ignored\n")
    assert read(path, text_field="review", label_field="stars") == [Example("Nice", "good", "movies")]


@pytest.mark.parametrize("row", ['{"text": "Nice", "label": 1}', '{"text": "Nice", "label": "1"}'])
def test_a_label_may_be_its_index(tmp_path: Path, row: str) -> None:
    assert read(written(tmp_path / "a.jsonl", row)) == [Example("Nice", "good", "movies")]


def test_a_label_named_by_a_number_is_meant_by_its_name(tmp_path: Path) -> None:
    stars = task_type("text-classification", ("1", "2", "3"))
    path = written(tmp_path / "a.csv", "text,label\nAwful,1\n")
    assert read(path, stars) == [Example("Awful", "1", "movies")]


def test_several_labels_are_read_from_lists_and_cells(tmp_path: Path) -> None:
    both, none = Example("Mixed", ["bad", "good"], "movies"), Example("Neither", [], "movies")
    lines = written(tmp_path / "a.jsonl", '{"text": "Mixed", "label": ["good", 0]}\n{"text": "Neither", "label": []}')
    assert read(lines, MULTI) == [both, none]
    cells = written(tmp_path / "a.csv", "text,label\nMixed,good|bad\nNeither,\n")
    assert read(cells, MULTI) == [both, none]


def test_entities_are_read_from_lists_and_cells(tmp_path: Path) -> None:
    entities = [{"start": 0, "end": 4, "label": "good"}]
    lines = written(tmp_path / "a.jsonl", json.dumps({"text": "Nice film", "label": entities}))
    assert read(lines, TOKENS) == [Example("Nice film", entities, "movies")]
    cell = json.dumps(entities).replace('"', '""')
    cells = written(tmp_path / "a.csv", f'text,label\nNice film,"{cell}"\nA film,\n')
    assert read(cells, TOKENS) == [Example("Nice film", entities, "movies"), Example("A film", [], "movies")]


def test_a_label_studio_export_is_read_by_consensus(tmp_path: Path) -> None:
    tasks = [
        exported_task("Majority", "bad", "good", "good"),
        exported_task("Tie", "bad", "good"),
        exported_task("Unanswered"),
        exported_task("Empty", None),
        exported_task("Skipped", "good", was_cancelled=True),
    ]
    path = written(tmp_path / "export.json", json.dumps(tasks))
    assert read(path) == [Example("Majority", "good", "movies"), Example("Tie", "bad", "movies")]


def test_what_an_export_holds_that_says_nothing_is_told_and_the_rest_is_used(tmp_path: Path) -> None:
    def region(start: int, end: int) -> dict[str, Any]:
        return {"from_name": "label", "type": "labels", "value": {"start": start, "end": end, "labels": ["good"]}}

    tasks = [
        {"id": 3, "data": {"text": "Nice"}, "annotations": [{"result": [region(0, 4), region(2, 9)]}]},
        {"id": 4, "data": {"audio": "a.mp3"}, "annotations": [{"result": [region(0, 4)]}]},
        {"id": 5, "data": {"text": " "}, "annotations": [{"result": []}]},
    ]
    path = written(tmp_path / "export.json", json.dumps(tasks))
    examples, problems = read_with_problems(path, TOKENS)
    assert examples == [Example("Nice", [{"start": 0, "end": 4, "label": "good"}], "movies")]
    sentence = f"{path}, task 3: region 2-9 lies outside the text of 4 characters"
    assert problems == {
        "unusable answer": {"count": 1, "where": [sentence]},
        "empty text": {"count": 2, "where": [f"{path}, task 4", f"{path}, row 2"]},
    }


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "text,label\nNice,good\n,bad\nFine,good\n"),
        ("a.csv", "text,label\nNice,good\n \t\u00a0,bad\nFine,good\n"),
        ("a.csv", "text,label\nNice,good\n,nobody reads this label\nFine,good\n"),
        ("a.jsonl", '{"text": "Nice", "label": 1}\n{"text": null, "label": 0}\n{"text": "Fine", "label": 1}\n'),
        ("a.jsonl", '{"text": "Nice", "label": 1}\n{"text": 7, "label": 0}\n{"text": "Fine", "label": 1}\n'),
        ("a.json", json.dumps([exported_task(text, "good") for text in ("Nice", "\n", "Fine")])),
    ],
)
def test_a_row_without_a_text_is_left_out_and_said_where(tmp_path: Path, name: str, content: str) -> None:
    path = written(tmp_path / name, content)
    examples, problems = read_with_problems(path)
    assert examples == [Example("Nice", "good", "movies"), Example("Fine", "good", "movies")]
    assert problems == {"empty text": {"count": 1, "where": [f"{path}, row 2"]}}


def test_a_text_that_no_tokenizer_can_read_is_left_out_and_said_where(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", '{"text": "half \\ud83d", "label": "good"}\n{"text": "Nice", "label": "good"}')
    examples, problems = read_with_problems(path)
    assert examples == [Example("Nice", "good", "movies")]
    assert problems == {"half a character (a lone surrogate)": {"count": 1, "where": [f"{path}, row 1"]}}


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.csv", "body,label\nNice,good\n", r"a\.csv, row 1: expected a text in field 'text', got body, label\."),
        ("a.csv", "text,stars\nNice,good\n", r"a\.csv, row 1: expected a label in field 'label', got text, stars\."),
        ("a.csv", "text,label\nNice,great\n", r"row 1, field 'label': expected one of bad, good, got 'great'\."),
        ("a.csv", "text,label\nNice\n", r"row 1, field 'label': expected one of bad, good, got None\."),
        ("a.csv", "text,label\nNice,2\n", r"row 1, field 'label': expected one of bad, good, got '2'\."),
        ("a.csv", "text,label\nNice,-1\n", r"row 1, field 'label': expected one of bad, good, got '-1'\."),
        ("a.csv", "text,label\nTrès bien,good\n".encode("latin-1"), r"a\.csv is not UTF-8 text .* Save it as UTF-8"),
        ("a.csv", "text,label\n" + "x" * 200_000 + ",good\n", r"a\.csv cannot be read as CSV: field larger"),
        ("a.jsonl", '{"text": "Nice", "label": "good"}\n{"text": \n', r"a\.jsonl, line 2 is not JSON"),
        ("a.jsonl", '["Nice", "good"]\n', r"a\.jsonl, line 1: expected a JSON object, got \[\"Nice\", \"good\"\]"),
        ("a.jsonl", '{"text": "Nice", "label": ["good"]}', r"row 1, field 'label': .* good, got \['good'\]\."),
        ("a.jsonl", '{"text": "Nice", "label": true}', r"row 1, field 'label': expected one of bad, good, got True\."),
        ("a.jsonl", '{"text": "Nice", "label": "good"}\n{"text": "Nice"}', r"row 2: expected a label in field 'label'"),
        ("a.json", "[{]", r"a\.json is not a Label Studio export"),
        ("a.json", '{"text": "Nice", "label": "good"}', r"a\.json is not a Label Studio export"),
        ("a.json", '[{"text": "Nice", "label": "good"}]', r"a\.json is not a Label Studio export"),
        ("a.parquet", "", r"Expected a \.csv, \.jsonl or \.json file or hub:NAME, got '.*a\.parquet'"),
    ],
)
def test_a_file_that_cannot_be_used_says_where_and_why(
    tmp_path: Path, name: str, content: str | bytes, sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence):
        read(written(tmp_path / name, content))


@pytest.mark.parametrize(
    ("task", "label", "sentence"),
    [
        (MULTI, '["good", "great"]', r"field 'label': expected one of bad, good, got 'great'\."),
        (MULTI, "3", r"field 'label': expected a list of labels, got 3\."),
        (TOKENS, '"good"', r"field 'label': expected a JSON list of entities, got 'good'\."),
        (TOKENS, '[{"start": 0, "end": 5, "label": "good"}]', r"region 0-5 lies outside the text of 4 characters\."),
    ],
)
def test_a_label_of_another_task_type_says_where_and_why(
    tmp_path: Path, task: TaskType, label: str, sentence: str
) -> None:
    path = written(tmp_path / "a.jsonl", f'{{"text": "Nice", "label": {label}}}')
    with pytest.raises(DataError, match=rf"a\.jsonl, row 1, .*{sentence}"):
        read(path, task)


@pytest.mark.parametrize("task", [MULTI, TOKENS])
def test_a_misspelt_label_field_is_not_taken_for_texts_without_labels(tmp_path: Path, task: TaskType) -> None:
    with pytest.raises(DataError, match=r"row 1: expected a label in field 'labels', got text, label\."):
        read(written(tmp_path / "a.jsonl", '{"text": "Nice", "label": []}'), task, label_field="labels")


def test_a_missing_file_says_which_settings_to_check(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no data file at .*gone\.csv\. Check data\.source and data\.test_sets"):
        read(tmp_path / "gone.csv")


def test_a_hub_that_cannot_be_reached_names_the_way_round_it() -> None:
    with pytest.raises(DataError, match=r"'owner/reviews' cannot be loaded from the Hugging Face Hub .*\.csv or"):
        read_examples("hub:owner/reviews:test", "movies", TASK, Problems())
