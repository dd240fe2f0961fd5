"""From Label Studio tasks to examples, a snapshot, and evidence on live accuracy."""

import json
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.data_merge.reviews import Reviews, annotation_ids, collect_reviews
from reviewloop.problems import Problems
from reviewloop.records import Annotation, Example, Label, ReviewTask
from reviewloop.task_types import TaskType, task_type
from tests.reviewloop.review_items import answer_of, review_item

LABELS = ("bad", "good")
TASK = task_type("text-classification", LABELS)
MULTI = task_type("multi-label-classification", LABELS)
TOKENS = task_type("token-classification", LABELS)
IDS = count(1)


def collect(tasks: list[ReviewTask], task_type: TaskType = TASK) -> Reviews:
    """What the reviewers said, in which there is nothing to complain about."""
    problems = Problems()
    reviews = collect_reviews(tasks, task_type, problems)
    assert problems.summary() == {}
    return reviews


def learned(reviews: Reviews) -> dict[str, Label]:
    """What is trained on, by text; the order is nobody's business."""
    by_text = {e.text: e.label for e in reviews.training}
    assert len(by_text) == len(reviews.training)
    return by_text


def task(text: str, *answers: Label, routed: bool = True, **fields: Any) -> ReviewTask:
    """A task the loop made (unless not ``routed``), with these answers."""
    annotations = tuple(Annotation(next(IDS), 1, answer, "2026-01-01T00:00:00Z") for answer in answers)
    item = review_item(text, "bad", **fields).metadata() if routed else {}
    return ReviewTask(next(IDS), text, annotations, item)


def test_the_majority_of_each_task_is_learned_from() -> None:
    reviews = collect([task("one", "bad", "good", "good"), task("two", "bad")])
    assert learned(reviews) == {"one": "good", "two": "bad"}
    assert {e.source for e in reviews.training} == {"reviews"}
    assert (reviews.tasks, reviews.answered) == (2, 2)


def test_ties_are_counted_and_go_to_the_first_answer() -> None:
    reviews = collect([task("one", "good", "bad"), task("two", "bad", "bad")])
    assert learned(reviews) == {"one": "good", "two": "bad"}
    assert reviews.ties == 1
    assert reviews.agreement == 0.75


def test_an_unanswered_task_counts_as_a_task_only() -> None:
    reviews = collect([task("one", "good"), task("two")])
    assert (reviews.tasks, reviews.answered, len(reviews.training), len(reviews.traffic)) == (2, 1, 1, 1)


def test_audited_texts_are_evidence_but_never_trained_on() -> None:
    reviews = collect([task("one", "good", reason="audit", propensity=0.05), task("two", "good")])
    assert [e.text for e in reviews.training] == ["two"]
    assert {row.reason for row in reviews.traffic} == {"audit", "low_confidence"}
    assert reviews.audited == 1
    assert reviews.by_reason == {"audit": 1, "low_confidence": 1}


def test_a_text_uploaded_by_hand_is_trained_on_but_no_evidence() -> None:
    reviews = collect([task("by hand", "good", routed=False)])
    assert reviews.training == [Example("by hand", "good", "reviews")]
    assert reviews.traffic == []
    assert reviews.by_reason == {"other": 1}


def test_tasks_with_the_same_content_key_count_once_by_the_one_with_most_answers() -> None:
    tasks = [task("It works", "good"), task("  it WORKS ", "good", "good", "bad"), task("It works!", "good")]
    reviews = collect(tasks)
    assert learned(reviews) == {"  it WORKS ": "good", "It works!": "good"}
    assert (reviews.tasks, reviews.answered) == (2, 2)
    assert reviews.annotation_ids == {a.id for t in tasks[1:] for a in t.annotations}


def test_tasks_of_the_same_text_that_came_to_different_labels_are_told() -> None:
    most, same, other, open_yet = (
        task("It works", "good", "good"),
        task("it works", "good"),
        task(" IT works", "bad"),
        task("It Works"),
    )
    another, its_double = task("It fails", "bad"), task("it fails", "good")
    for tasks in (
        [most, same, other, open_yet, another, its_double],
        [other, most, open_yet, same, another, its_double],
    ):
        problems = Problems()
        reviews = collect_reviews(tasks, TASK, problems)
        assert learned(reviews) == {"It works": "good", "It fails": "bad"}
        assert problems.summary() == {
            "same text, another label": {
                "count": 2,
                "where": [
                    f"task {other.task_id}: task {most.task_id} counts",
                    f"task {its_double.task_id}: task {another.task_id} counts",
                ],
            }
        }


@pytest.mark.parametrize(
    ("kind", "answers", "agreed", "predicted"),
    [
        (MULTI, [["bad", "good"], ["good"], ["good"]], ["good"], ["bad", "good"]),
        (MULTI, [[]], [], ["bad"]),
        (TOKENS, [[{"start": 0, "end": 3, "label": "good"}]], [{"start": 0, "end": 3, "label": "good"}], []),
        (TOKENS, [[]], [], [{"start": 0, "end": 3, "label": "good"}]),
    ],
)
def test_reviews_of_every_task_type_are_learned_from_and_evidence(
    kind: TaskType, answers: list[Label], agreed: Label, predicted: Label
) -> None:
    asked = task("one two", *answers, prediction=answer_of(kind, predicted, "one two"))
    reviews = collect([asked], kind)
    assert reviews.training == [Example("one two", agreed, "reviews")]
    (row,) = reviews.traffic
    assert (row.label, row.predicted) == (agreed, predicted)
    assert [json.loads(line)["label"] for line in reviews.snapshot.splitlines()] == answers
    assert (reviews.answered, reviews.ties) == (1, 0)


def test_tasks_that_check_machine_labels_tell_how_often_these_err_and_are_no_evidence_of_live_accuracy() -> None:
    tasks = [
        task(f"check {number}", *answers, reason="machine_check")
        for number, answers in enumerate((["bad"], ["good"], ["bad"], []))
    ]
    reviews = collect([*tasks, task("routed", "good")])
    assert (reviews.checked, reviews.machine_errors) == (3, 1)
    assert [row.reason for row in reviews.traffic] == ["low_confidence"]
    assert learned(reviews) == {"check 0": "bad", "check 1": "good", "check 2": "bad", "routed": "good"}
    assert reviews.by_reason == {"machine_check": 4, "low_confidence": 1}


def test_the_evidence_says_what_was_predicted_and_what_is_right() -> None:
    (row,) = collect([task("one", "good", model_version="v0003")]).traffic
    assert (row.predicted, row.label, row.model_version, row.weight) == ("bad", "good", "v0003", 1.0)


def test_weights_stand_for_the_traffic_also_where_tasks_wait_for_answers() -> None:
    audited = [task(f"a{n}", *(["good"] if n < 2 else []), reason="audit", propensity=0.1) for n in range(4)]
    unsure = [task(f"u{n}", *(["bad"] if n < 3 else [])) for n in range(6)]
    traffic = collect([*audited, *unsure]).traffic
    assert [row.weight for row in traffic if row.reason == "audit"] == pytest.approx([20.0] * 2)
    assert [row.weight for row in traffic if row.reason == "low_confidence"] == pytest.approx([2.0] * 3)


def test_each_version_has_its_own_share_of_answers() -> None:
    done = [task(f"d{n}", "good", model_version="v0001") for n in range(4)]
    begun = [task(f"b{n}", *(["good"] if n < 1 else []), model_version="v0002") for n in range(4)]
    weights = {(row.model_version, row.weight) for row in collect([*done, *begun]).traffic}
    assert weights == {("v0001", 1.0), ("v0002", 4.0)}


def test_a_snapshot_holds_every_answer_and_gives_back_their_ids() -> None:
    tasks = [task('"quoted"\nü \u2028', "good", "bad"), task("two", "bad"), task("open")]
    reviews = collect(tasks)
    rows = [json.loads(line) for line in reviews.snapshot.split(b"\n") if line]
    by_text = {text: [row["label"] for row in rows if row["text"] == text] for text in (tasks[0].text, "two", "open")}
    assert by_text == {'"quoted"\nü \u2028': ["good", "bad"], "two": ["bad"], "open": []}
    assert annotation_ids(reviews.snapshot) == reviews.annotation_ids == {a.id for t in tasks for a in t.annotations}


def test_the_snapshot_hash_is_of_its_content() -> None:
    tasks = [task("one", "good"), task("two", "bad")]
    assert collect(tasks).snapshot_hash == collect(tasks).snapshot_hash
    assert collect(tasks).snapshot_hash != collect(tasks[:1]).snapshot_hash


@given(st.permutations(range(6)))
def test_the_same_answers_make_the_same_data_in_whatever_order_their_tasks_come(order: list[int]) -> None:
    tasks = [task(f"text {number}", *["good", "bad"][: 1 + number % 2]) for number in range(6)]
    assert collect([tasks[number] for number in order]) == collect(tasks)


def test_without_any_answer_there_is_no_snapshot() -> None:
    reviews = collect([task("open")])
    assert reviews.snapshot_hash is None
    assert annotation_ids(reviews.snapshot) == frozenset()
    assert reviews.agreement == 1.0
