"""loop.yaml: what is accepted, and what a person reads when it is not."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from reviewloop.errors import SpecError
from reviewloop.spec import load_spec, parse_spec
from reviewloop.task_types import TASK_TYPES

EXAMPLE = Path(__file__).parents[2] / "examples" / "sentiment.yaml"

MINIMAL: dict[str, Any] = {
    "name": "sentiment",
    "task": {"labels": ["bad", "good"]},
    "base_model": "some/model",
    "data": {"source": "reviews.csv"},
}


def with_field(where: str, value: Any) -> dict[str, Any]:
    """The minimal document with one field, named by its dotted path, set to ``value``."""
    document: dict[str, Any] = yaml.safe_load(yaml.safe_dump(MINIMAL))
    *sections, field = where.split(".")
    place = document
    for section in sections:
        place = place.setdefault(section, {})
    place[field] = value
    return document


def leaves(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The fields below ``content`` by dotted path."""
    found = {}
    for key, value in content.items():
        is_section = isinstance(value, dict) and key != "test_sets"
        found |= leaves(value, f"{prefix}{key}.") if is_section else {prefix + key: value}
    return found


def test_every_field_of_the_example_arrives_as_it_is_written() -> None:
    written = leaves(yaml.safe_load(EXAMPLE.read_text(encoding="utf-8")))
    parsed = leaves(load_spec(EXAMPLE).model_dump(mode="json"))
    assert {field: parsed[field] for field in written} == written


def test_a_minimal_spec_gets_the_documented_defaults() -> None:
    spec = parse_spec(MINIMAL)
    assert spec.task.type == "text-classification"
    assert (spec.data.name, spec.data.test_fraction) == ("base", 0.2)
    assert spec.review.threshold is None
    assert spec.review.annotations_per_task == 1
    assert spec.retrain.min_new_annotations == 100
    assert spec.promotion.test_set is None


@pytest.mark.parametrize("section", ["", "task", "data", "review", "training", "retrain", "promotion"])
def test_a_spec_cannot_be_changed(section: str) -> None:
    spec = parse_spec(MINIMAL)
    model = getattr(spec, section) if section else spec
    with pytest.raises(ValidationError, match="frozen"):
        setattr(model, next(iter(type(model).model_fields)), "other")


@pytest.mark.parametrize(
    ("where", "value", "expected", "came"),
    [
        ("name", "Sentiment!", "string should match pattern", "'Sentiment!'"),
        ("name", "a", "string should match pattern", "'a'"),
        ("base_model", "", "at least 1 character", "''"),
        ("base_model", 7, "valid string", "7"),
        ("probes", [], "at least 1 item", "[]"),
        ("task.type", "regression", "one of text-classification, multi-label-classification, token", "'regression'"),
        ("task.type", None, "valid string", "None"),
        ("task.labels", ["only"], "must be at least two, to tell one from another", "only"),
        ("task.labels", [], "at least 1 item", "[]"),
        ("task.labels", ["good", ""], "at least 1 character", "''"),
        ("task.labels", "good", "valid tuple", "'good'"),
        ("task.labels", ["good", "bad", "good"], "must differ from each other", "good, bad, good"),
        ("task.labels", {"good": "bad"}, "valid tuple", "{'good': 'bad'}"),
        ("data.test_fraction", 0.95, "less than 0.9", "0.95"),
        ("data.test_fraction", 0.0, "greater than 0", "0.0"),
        ("data.validation_fraction", 0.5, "less than 0.5", "0.5"),
        ("data.name", "My data", "string should match pattern", "'My data'"),
        ("data.test_sets", {"Amazon": "x.csv"}, "string should match pattern", "'Amazon'"),
        ("data.test_sets", {"base": "x.csv"}, "must not repeat the data's own name", "'base'"),
        ("review.threshold", 1.5, "less than or equal to 1", "1.5"),
        ("review.threshold", "high", "valid number", "'high'"),
        ("review.target_accuracy", 1.0, "less than 1", "1.0"),
        ("review.audit_rate", 0, "greater than 0", "0"),
        ("review.annotations_per_task", 0, "greater than or equal to 1", "0"),
        ("review.annotations_per_task", 2.5, "valid integer", "2.5"),
        ("training.epochs", float("nan"), "finite number", "nan"),
        ("training.learning_rate", "fast", "valid number", "'fast'"),
        ("training.batch_size", 0, "greater than or equal to 1", "0"),
        ("training.max_length", 4, "greater than or equal to 8", "4"),
        ("training.seed", -1, "greater than or equal to 0", "-1"),
        ("retrain.min_new_annotations", -1, "greater than or equal to 0", "-1"),
        ("promotion.confidence", 95, "less than 1", "95"),
        ("promotion.min_gain", 2, "less than or equal to 1", "2"),
        ("promotion.max_drop", -0.1, "greater than or equal to 0", "-0.1"),
        ("promotion.max_class_drop", None, "valid number", "None"),
        ("promotion.test_set", "amazon", "must be one of base", "'amazon'"),
        ("data.machine_labels", "some", "valid boolean", "'some'"),
        ("data", {"test_sets": {"amazon": "x.csv"}}, "promotion.test_set must be one of amazon", "None"),
        ("review", 3, "valid dictionary", "3"),
    ],
)
def test_a_bad_value_is_answered_with_field_expectation_and_value(
    where: str, value: Any, expected: str, came: str
) -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec(with_field(where, value), "loop.yaml")
    first, sentence = str(caught.value).splitlines()
    assert first == "loop.yaml is not valid:"
    field, _, explanation = sentence.strip().partition(": ")
    # A rule between fields is reported by the section that holds both.
    assert where.startswith(field) or field.startswith(where) or field == "loop"
    assert expected in explanation
    assert came in explanation


@pytest.mark.parametrize("field", ["name", "task", "task.labels", "base_model", "data"])
def test_a_missing_field_is_named(field: str) -> None:
    document = with_field("name", "sentiment")
    *sections, last = field.split(".")
    place = document
    for section in sections:
        place = place[section]
    del place[last]
    with pytest.raises(SpecError, match=f"{field}: expected a value, but the field is missing"):
        parse_spec(document)


@pytest.mark.parametrize("field", ["lables", "task.lables", "review.tresholds", "promotion.min_gian"])
def test_a_misspelt_field_is_named(field: str) -> None:
    with pytest.raises(SpecError, match=f"{field}: there is no such field"):
        parse_spec(with_field(field, 1))


def test_every_problem_is_reported_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec(with_field("training", {"epochs": 0, "batch_size": 0, "speed": 1}))
    assert {line.split(":")[0].strip() for line in str(caught.value).splitlines()[1:]} == {
        "training.epochs",
        "training.batch_size",
        "training.speed",
    }


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"labels: [a, b", "is not valid YAML"),
        (b"\xff\xfe\x00broken", "is not valid YAML"),
        (b"", "must be a mapping of fields, got NoneType"),
        (b"- a\n- b\n", "must be a mapping of fields, got list"),
        (b"just a sentence", "must be a mapping of fields, got str"),
    ],
)
def test_a_file_that_is_no_spec_says_what_it_is(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "loop.yaml"
    path.write_bytes(content)
    with pytest.raises(SpecError, match=sentence) as caught:
        load_spec(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kind", TASK_TYPES)
def test_every_task_type_can_be_named(kind: str) -> None:
    assert parse_spec(with_field("task.type", kind)).task.type == kind


@pytest.mark.parametrize("kind", ["multi-label-classification", "token-classification"])
def test_one_label_is_enough_where_it_may_be_absent(kind: str) -> None:
    document = with_field("task", {"type": kind, "labels": ["only"]})
    assert parse_spec(document).task.labels == ("only",)


def test_a_loop_may_begin_with_reviews_alone() -> None:
    spec = parse_spec(with_field("data", {}))
    assert (spec.data.source, spec.data.test_sets, spec.data.machine_labels) == (None, {}, False)
    with pytest.raises(SpecError, match=r"promotion\.test_set must be one of base, got 'amazon'"):
        parse_spec(with_field("data", {}) | {"promotion": {"test_set": "amazon"}})


def test_a_missing_file_says_where_a_start_is(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"There is no loop spec at .*loop.yaml.*examples/sentiment.yaml"):
        load_spec(tmp_path / "loop.yaml")


def test_a_directory_instead_of_a_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be read: Is a directory"):
        load_spec(tmp_path)


def test_labels_that_yaml_reads_as_booleans_are_refused() -> None:
    document = yaml.safe_load("name: yes-or-no\ntask: {labels: [yes, no]}\nbase_model: m\ndata: {source: a.csv}\n")
    with pytest.raises(SpecError, match=r"task.labels.0: input should be a valid string, got True"):
        parse_spec(document)
