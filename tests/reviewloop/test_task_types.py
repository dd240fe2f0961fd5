"""The task type contract: what reviewers see and answer in a real Label Studio is what was meant."""

import uuid
from xml.etree import ElementTree

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reviewloop.label_studio import LabelStudioServer, ReviewProject
from reviewloop.task_types import TaskType, task_type
from tests.conftest import LabelStudioProcess
from tests.reviewloop.review_items import review_item

AWKWARD_LABELS = (
    "plain",
    'say "no"',
    "it's",
    "<b>&amp;",
    "two words",
    " edges ",
    "grüße 🎉 否定",
    "a,b;c/d",
    "$key",
)
TYPES = ["text-classification"]


@pytest.fixture(params=TYPES)
def task(request: pytest.FixtureRequest) -> TaskType:
    """One of the task types, with labels that something on the way could mangle."""
    return task_type(request.param, AWKWARD_LABELS)


def test_labels_come_back_from_label_studio_as_they_went(task: TaskType, label_studio: LabelStudioProcess) -> None:
    server = LabelStudioServer(label_studio.url, label_studio.api_key)
    title = f"contract {uuid.uuid4().hex[:8]}"
    instructions = 'Is it <good> & "sound"? 🎉'
    server.ensure_project(title, task, instructions, annotations_per_task=1)
    project = ReviewProject(label_studio.url, label_studio.api_key, title, task)
    reviewer = server.ensure_reviewers(["reviewer@example.com"])["reviewer@example.com"]
    items = [review_item(f"text {number}", label) for number, label in enumerate(task.labels)]
    task_ids = project.import_items(items)
    for task_id, label in zip(task_ids, task.labels, strict=True):
        project.annotate(task_id, label, reviewer)

    stored = httpx.get(
        f"{label_studio.url}/api/tasks",
        params={"project": project.id, "fields": "all"},
        headers={"Authorization": f"Token {label_studio.api_key}"},
    ).json()["tasks"]
    shown = {t["id"]: task.annotated_label(t["predictions"][0]["result"]) for t in stored}
    assert [shown[task_id] for task_id in task_ids] == list(task.labels)
    answered = {t.task_id: t.annotations[0].label for t in project.tasks()}
    assert [answered[task_id] for task_id in task_ids] == list(task.labels)


def test_the_labeling_config_says_labels_and_instructions(task: TaskType) -> None:
    config = ElementTree.fromstring(task.labeling_config("Good <or> bad?\nSay so."))
    values = [element.get("value") for element in config.iter()]
    assert [value for value in values if value in task.labels] == list(task.labels)
    assert "Good <or> bad?\nSay so." in values
    assert "Header" not in {element.tag for element in ElementTree.fromstring(task.labeling_config("")).iter()}


def test_a_result_is_read_back_as_the_label_it_was_made_from(task: TaskType) -> None:
    for label in task.labels:
        assert task.annotated_label(task.annotation_result(label)) == label
        assert task.annotated_label(task.pre_annotation(label)) == label


def test_a_result_that_says_none_of_the_labels_says_nothing(task: TaskType) -> None:
    assert task.annotated_label([]) is None
    assert task.annotated_label(task.annotation_result("a label of yesterday")) is None
    assert task.annotated_label([{"from_name": "comment", "type": "textarea", "value": {"text": ["plain"]}}]) is None


@pytest.mark.parametrize(
    ("answers", "label", "tied", "agreement"),
    [
        (["plain"], "plain", False, 1.0),
        (["plain", "it's", "plain"], "plain", False, 2 / 3),
        (["it's", "plain", "plain"], "plain", False, 2 / 3),
        (["it's", "plain"], "it's", True, 0.5),
        (["plain", "it's"], "plain", True, 0.5),
        (["two words", "it's", "plain", "plain", "it's"], "it's", True, 0.4),
    ],
)
def test_the_majority_wins_and_a_tie_goes_to_the_answer_recorded_first(
    task: TaskType, answers: list[str], label: str, tied: bool, agreement: float
) -> None:
    consensus = task.consensus(answers)
    assert (consensus.label, consensus.tied) == (label, tied)
    assert consensus.agreement == pytest.approx(agreement)


def test_no_answer_has_no_consensus(task: TaskType) -> None:
    with pytest.raises(ValueError, match="at least one answer"):
        task.consensus([])


@given(st.lists(st.sampled_from(AWKWARD_LABELS), min_size=1, max_size=9), st.sampled_from(TYPES))
def test_no_label_has_more_answers_than_the_consensus(answers: list[str], name: str) -> None:
    consensus = task_type(name, AWKWARD_LABELS).consensus(answers)
    votes = {label: answers.count(label) for label in answers}
    assert votes[consensus.label] == max(votes.values())
    assert consensus.agreement == votes[consensus.label] / len(answers)
    assert consensus.tied == (list(votes.values()).count(max(votes.values())) > 1)
