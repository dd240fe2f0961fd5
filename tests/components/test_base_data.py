"""Every way in for base data, and what a person reads when a file is not as it should be."""

import json
from pathlib import Path
from typing import Any

import pytest

from components.data_merge.base_data import read_examples
from reviewloop.errors import DataError
from reviewloop.records import Example
from reviewloop.task_types import task_type

TASK = task_type("text-classification", ("bad", "good"))


def read(path: Path, **fields: str) -> list[Example]:
    """What the file holds."""
    return read_examples(str(path), "movies", TASK, **fields)


def written(path: Path, content: str | bytes) -> Path:
    """``path``, holding ``content``."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def exported_task(text: str, *answers: str | None, **annotation: Any) -> dict[str, Any]:
    """A task as Label Studio exports it; an answer of None is an empty annotation."""
    results = [TASK.annotation_result(answer) if answer else [] for answer in answers]
    return {"id": 1, "data": {"text": text}, "annotations": [{"result": result, **annotation} for result in results]}


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
    assert read_examples(str(path), "movies", stars) == [Example("Awful", "1", "movies")]


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


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.csv", "text,label\nNice,good\n,bad\n", r"a\.csv, row 2: expected a text in field 'text', got ''"),
        ("a.csv", "text,label\nNice,good\n \t,bad\n", r"a\.csv, row 2: expected a text in field 'text', got ' \\t'"),
        ("a.csv", "body,label\nNice,good\n", r"a\.csv, row 1: expected a text in field 'text', got None"),
        ("a.csv", "text,label\nNice,great\n", r"row 1: expected one of bad, good in field 'label', got 'great'"),
        ("a.csv", "text,label\nNice\n", r"row 1: expected one of bad, good in field 'label', got None"),
        ("a.csv", "text,label\nNice,2\n", r"row 1: expected one of bad, good in field 'label', got '2'"),
        ("a.csv", "text,label\nNice,-1\n", r"row 1: expected one of bad, good in field 'label', got '-1'"),
        ("a.csv", "text,label\nTrès bien,good\n".encode("latin-1"), r"a\.csv is not UTF-8 text .* Save it as UTF-8"),
        ("a.csv", "text,label\n" + "x" * 200_000 + ",good\n", r"a\.csv cannot be read as CSV: field larger"),
        ("a.jsonl", '{"text": "Nice", "label": "good"}\n{"text": \n', r"a\.jsonl, line 2 is not JSON"),
        ("a.jsonl", '["Nice", "good"]\n', r"a\.jsonl, line 1: expected a JSON object, got \[\"Nice\", \"good\"\]"),
        ("a.jsonl", '{"text": 7, "label": "good"}', r"row 1: expected a text in field 'text', got 7"),
        ("a.jsonl", '{"text": "Nice", "label": ["good"]}', r"row 1: expected one of bad, good .* got \['good'\]"),
        ("a.jsonl", '{"text": "Nice", "label": true}', r"row 1: expected one of bad, good .* got True"),
        ("a.jsonl", '{"text": "half \\ud83d", "label": "good"}', r"row 1: the text holds half of a character"),
        ("a.json", "[{]", r"a\.json is not a Label Studio export"),
        ("a.json", '{"text": "Nice", "label": "good"}', r"a\.json is not a Label Studio export"),
        ("a.json", '[{"text": "Nice", "label": "good"}]', r"a\.json is not a Label Studio export"),
        ("a.json", json.dumps([exported_task("", "good")]), r"a\.json, row 1: expected a text in field 'text', got ''"),
        ("a.parquet", "", r"Expected a \.csv, \.jsonl or \.json file or hub:NAME, got '.*a\.parquet'"),
    ],
)
def test_a_file_that_cannot_be_used_says_where_and_why(
    tmp_path: Path, name: str, content: str | bytes, sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence):
        read(written(tmp_path / name, content))


def test_a_missing_file_says_which_settings_to_check(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no data file at .*gone\.csv\. Check data\.source and data\.test_sets"):
        read(tmp_path / "gone.csv")


def test_a_hub_that_cannot_be_reached_names_the_way_round_it() -> None:
    with pytest.raises(DataError, match=r"'owner/reviews' cannot be loaded from the Hugging Face Hub .*\.csv or"):
        read_examples("hub:owner/reviews:test", "movies", TASK)
