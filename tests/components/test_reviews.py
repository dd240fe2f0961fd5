"""From Label Studio tasks to examples, a snapshot, and evidence on live accuracy."""

import json
from itertools import count
from typing import Any

import pytest

from components.data_merge.reviews import annotation_ids, collect_reviews
from reviewloop.records import Annotation, Example, ReviewTask
from reviewloop.task_types import task_type
from tests.reviewloop.review_items import review_item

TASK = task_type("text-classification", ("bad", "good"))
IDS = count(1)


def task(text: str, *answers: str, routed: bool = True, **fields: Any) -> ReviewTask:
    """A task the loop made (unless not ``routed``), with these answers."""
    annotations = tuple(Annotation(next(IDS), 1, answer, "2026-01-01T00:00:00Z") for answer in answers)
    item = review_item(text, "bad", **fields).metadata() if routed else {}
    return ReviewTask(next(IDS), text, annotations, item)


def test_the_majority_of_each_task_is_learned_from() -> None:
    reviews = collect_reviews([task("one", "bad", "good", "good"), task("two", "bad")], TASK)
    assert reviews.training == [Example("one", "good", "reviews"), Example("two", "bad", "reviews")]
    assert (reviews.tasks, reviews.answered) == (2, 2)


def test_ties_are_counted_and_go_to_the_first_answer() -> None:
    reviews = collect_reviews([task("one", "good", "bad"), task("two", "bad", "bad")], TASK)
    assert [e.label for e in reviews.training] == ["good", "bad"]
    assert reviews.ties == 1
    assert reviews.agreement == 0.75


def test_an_unanswered_task_counts_as_a_task_only() -> None:
    reviews = collect_reviews([task("one", "good"), task("two")], TASK)
    assert (reviews.tasks, reviews.answered, len(reviews.training), len(reviews.traffic)) == (2, 1, 1, 1)


def test_audited_texts_are_evidence_but_never_trained_on() -> None:
    reviews = collect_reviews([task("one", "good", reason="audit", propensity=0.05), task("two", "good")], TASK)
    assert [e.text for e in reviews.training] == ["two"]
    assert {row.reason for row in reviews.traffic} == {"audit", "low_confidence"}
    assert reviews.audited == 1
    assert reviews.by_reason == {"audit": 1, "low_confidence": 1}


def test_a_text_uploaded_by_hand_is_trained_on_but_no_evidence() -> None:
    reviews = collect_reviews([task("by hand", "good", routed=False)], TASK)
    assert reviews.training == [Example("by hand", "good", "reviews")]
    assert reviews.traffic == []
    assert reviews.by_reason == {"other": 1}


def test_tasks_with_the_same_content_key_count_once_by_the_one_with_most_answers() -> None:
    tasks = [task("It works", "bad"), task("  it WORKS ", "good", "good", "bad"), task("It works!", "good")]
    reviews = collect_reviews(tasks, TASK)
    assert [(e.text, e.label) for e in reviews.training] == [("  it WORKS ", "good"), ("It works!", "good")]
    assert (reviews.tasks, reviews.answered) == (2, 2)
    assert reviews.annotation_ids == {a.id for t in tasks[1:] for a in t.annotations}


def test_the_evidence_says_what_was_predicted_and_what_is_right() -> None:
    (row,) = collect_reviews([task("one", "good", model_version="v0003")], TASK).traffic
    assert (row.predicted, row.label, row.model_version, row.weight) == ("bad", "good", "v0003", 1.0)


def test_weights_stand_for_the_traffic_also_where_tasks_wait_for_answers() -> None:
    audited = [task(f"a{n}", *(["good"] if n < 2 else []), reason="audit", propensity=0.1) for n in range(4)]
    unsure = [task(f"u{n}", *(["bad"] if n < 3 else [])) for n in range(6)]
    traffic = collect_reviews([*audited, *unsure], TASK).traffic
    assert [row.weight for row in traffic if row.reason == "audit"] == pytest.approx([20.0] * 2)
    assert [row.weight for row in traffic if row.reason == "low_confidence"] == pytest.approx([2.0] * 3)


def test_each_version_has_its_own_share_of_answers() -> None:
    done = [task(f"d{n}", "good", model_version="v0001") for n in range(4)]
    begun = [task(f"b{n}", *(["good"] if n < 1 else []), model_version="v0002") for n in range(4)]
    weights = {(row.model_version, row.weight) for row in collect_reviews([*done, *begun], TASK).traffic}
    assert weights == {("v0001", 1.0), ("v0002", 4.0)}


def test_a_snapshot_holds_every_answer_and_gives_back_their_ids() -> None:
    tasks = [task('"quoted"\nü \u2028', "good", "bad"), task("two", "bad"), task("open")]
    reviews = collect_reviews(tasks, TASK)
    rows = [json.loads(line) for line in reviews.snapshot.split(b"\n") if line]
    assert [(row["text"], row["label"]) for row in rows] == [
        ('"quoted"\nü \u2028', "good"),
        ('"quoted"\nü \u2028', "bad"),
        ("two", "bad"),
    ]
    assert annotation_ids(reviews.snapshot) == reviews.annotation_ids == {a.id for t in tasks for a in t.annotations}


def test_the_snapshot_hash_is_of_its_content() -> None:
    tasks = [task("one", "good"), task("two", "bad")]
    assert collect_reviews(tasks, TASK).snapshot_hash == collect_reviews(tasks, TASK).snapshot_hash
    assert collect_reviews(tasks, TASK).snapshot_hash != collect_reviews(tasks[:1], TASK).snapshot_hash


def test_without_any_answer_there_is_no_snapshot() -> None:
    reviews = collect_reviews([task("open")], TASK)
    assert reviews.snapshot_hash is None
    assert annotation_ids(reviews.snapshot) == frozenset()
    assert reviews.agreement == 1.0
