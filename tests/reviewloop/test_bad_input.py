"""What people do to a real Label Studio project that the loop did not ask for: left out, counted, and said where."""

import uuid
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import pytest

from reviewloop import label_studio as client
from reviewloop.label_studio import LabelStudioServer, ReviewProject
from reviewloop.problems import MAX_PLACES, Problems
from reviewloop.records import Label, ReviewTask
from reviewloop.task_types import TASK_TYPES, task_type
from tests.conftest import LabelStudioProcess
from tests.reviewloop.conftest import RestApi
from tests.reviewloop.review_items import answer_of, review_item

SINGLE, MULTI, TOKENS = TASK_TYPES
TEXT = "0123456789"
LABELS = ("bad", "good")

USUAL: dict[str, Label] = {SINGLE: "good", MULTI: ["good"], TOKENS: [{"start": 0, "end": 2, "label": "good"}]}
"""An answer that is as it should be."""

MakeProject = Callable[[str], "Project"]


class Project:
    """A project, and what people did to it."""

    def __init__(self, reviews: ReviewProject, api: RestApi) -> None:
        self.reviews = reviews
        self.api = api

    def task(self, text: str = TEXT) -> int:
        """A new task, blind."""
        task = self.reviews.task
        answer = answer_of(task, USUAL[task.name], text)
        return self.reviews.import_items([review_item(text, reason="audit", prediction=answer)])[0]

    def annotate(self, task_id: int, result: list[dict[str, Any]], reviewer: int = 0, **fields: Any) -> int:
        """The id of a new annotation of the administrator's, or of ``reviewer``."""
        body = {"result": result, "was_cancelled": False} | fields | ({"completed_by": reviewer} if reviewer else {})
        return int(self.api.post(f"/api/tasks/{task_id}/annotations", body)["id"])

    def usual(self, task_id: int, reviewer: int) -> None:
        """Let the reviewer answer as is usual."""
        self.reviews.annotate(task_id, TEXT, USUAL[self.reviews.task.name], reviewer)

    def read(self) -> tuple[list[ReviewTask], dict[str, Any]]:
        """The tasks as the loop reads them, and what it has to say about them."""
        problems = Problems()
        tasks = list(self.reviews.tasks(problems))
        return tasks, problems.summary()

    def answers(self) -> tuple[list[Label], dict[str, Any]]:
        """The same of a project of one task, of which only the labels matter."""
        (task,), problems = self.read()
        return [annotation.label for annotation in task.annotations], problems


@pytest.fixture
def make_project(server: LabelStudioServer, label_studio: LabelStudioProcess, api: RestApi) -> MakeProject:
    """Makes an empty project of a task type."""

    def make(kind: str) -> Project:
        title = f"bad input {uuid.uuid4().hex[:8]}"
        task = task_type(kind, LABELS)
        server.ensure_project(title, task, "", annotations_per_task=2)
        return Project(ReviewProject(label_studio.url, label_studio.api_key, title, task), api)

    return make


def choices(*names: str) -> dict[str, Any]:
    """A region with these choices."""
    return {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": list(names)}}


def region(start: Any, end: Any, *names: str) -> dict[str, Any]:
    """A region with these labels."""
    value = {"start": start, "end": end, "text": "any", "labels": list(names)}
    return {"from_name": "label", "to_name": "text", "type": "labels", "value": value}


def once(*where: str) -> dict[str, Any]:
    """A problem that came up at each of these places once."""
    return {"count": len(where), "where": list(where)}


UNUSABLE: dict[str, tuple[str, list[dict[str, Any]], list[Label], list[str]]] = {
    "a label of yesterday": (SINGLE, [choices("gone")], [], ["unknown label 'gone'"]),
    "two labels where one is allowed": (SINGLE, [choices("bad", "good")], [], ["2 labels where one is allowed"]),
    "one label of several": (MULTI, [choices("gone", "good")], [["good"]], ["unknown label 'gone'"]),
    "all of several labels": (MULTI, [choices("gone")], [], ["unknown label 'gone'"]),
    "the label of an entity": (
        TOKENS,
        [region(0, 2, "gone"), region(4, 6, "bad")],
        [[{"start": 4, "end": 6, "label": "bad"}]],
        ["unknown label 'gone'"],
    ),
    "an entity beyond the end": (
        TOKENS,
        [region(4, 6, "bad"), region(8, 11, "good")],
        [[{"start": 4, "end": 6, "label": "bad"}]],
        ["region 8-11 lies outside the text of 10 characters"],
    ),
    "entities that overlap": (
        TOKENS,
        [region(4, 6, "bad"), region(5, 8, "good"), region(8, 9, "good")],
        [[{"start": 4, "end": 6, "label": "bad"}, {"start": 8, "end": 9, "label": "good"}]],
        ["region 5-8 overlaps another"],
    ),
    "nothing but bad entities": (
        TOKENS,
        [region(-1, 2, "bad"), region(3, 3, "bad"), region("0", "2", "bad"), region(0, 2, "bad", "good")],
        [],
        [
            "region -1-2 lies outside the text of 10 characters",
            "region 3-3 lies outside the text of 10 characters",
            "region '0'-'2' has no whole numbers for its ends",
            "unknown label ['bad', 'good']",
        ],
    ),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_what_of_an_annotation_cannot_be_used_is_skipped_and_the_rest_is_used(
    make_project: MakeProject, reviewers: list[int], case: str
) -> None:
    kind, result, usable, sentences = UNUSABLE[case]
    project = make_project(kind)
    task_id = project.task()
    annotation = project.annotate(task_id, result)
    project.usual(task_id, reviewers[0])
    labels, problems = project.answers()
    assert labels == [*usable, USUAL[kind]]
    where = [f"task {task_id} annotation {annotation}: {sentence}" for sentence in sentences]
    assert problems == {"unusable answer": once(*where)}


@pytest.mark.parametrize("kind", TASK_TYPES)
def test_a_cancelled_annotation_does_not_count(make_project: MakeProject, reviewers: list[int], kind: str) -> None:
    project = make_project(kind)
    task_id = project.task()
    result = project.reviews.task.annotation_result(USUAL[kind], TEXT)
    cancelled = project.annotate(task_id, result, was_cancelled=True)
    project.usual(task_id, reviewers[0])
    labels, problems = project.answers()
    assert labels == [USUAL[kind]]
    assert problems == {"cancelled annotation": once(f"task {task_id} annotation {cancelled}")}


def test_an_empty_annotation_says_nothing_where_there_must_be_a_label(make_project: MakeProject) -> None:
    project = make_project(SINGLE)
    task_id = project.task()
    annotation = project.annotate(task_id, [])
    assert project.answers() == ([], {"empty annotation": once(f"task {task_id} annotation {annotation}")})


@pytest.mark.parametrize("kind", [MULTI, TOKENS])
def test_an_empty_annotation_says_that_there_is_none_where_there_may_be_none(
    make_project: MakeProject, kind: str
) -> None:
    project = make_project(kind)
    project.annotate(project.task(), [])
    assert project.answers() == ([[]], {})


@pytest.mark.parametrize("kind", TASK_TYPES)
def test_the_last_of_a_reviewers_annotations_counts(make_project: MakeProject, reviewers: list[int], kind: str) -> None:
    project = make_project(kind)
    task = project.reviews.task
    other: Label = {SINGLE: "bad", MULTI: ["bad"], TOKENS: []}[kind]
    task_id = project.task()
    first = project.annotate(task_id, task.annotation_result(other, TEXT), reviewers[0])
    colleague = project.annotate(task_id, task.annotation_result(other, TEXT), reviewers[1])
    second = project.annotate(task_id, task.annotation_result(USUAL[kind], TEXT), reviewers[0])
    (read,), problems = project.read()
    assert [(a.id, a.label) for a in read.annotations] == [(colleague, other), (second, USUAL[kind])]
    kind_of_problem = "second annotation by the same reviewer"
    assert problems == {kind_of_problem: once(f"task {task_id} annotation {first}")}

    # The last is the one that was changed last.
    project.api.patch(f"/api/annotations/{first}", {"result": task.annotation_result(other, TEXT)})
    (read,), problems = project.read()
    assert [(a.id, a.label) for a in read.annotations] == [(first, other), (colleague, other)]
    assert problems == {kind_of_problem: once(f"task {task_id} annotation {second}")}


def test_an_unusable_last_annotation_leaves_the_one_before(make_project: MakeProject, reviewers: list[int]) -> None:
    project = make_project(SINGLE)
    task_id = project.task()
    project.usual(task_id, reviewers[0])
    last = project.annotate(task_id, [choices("gone")], reviewers[0])
    labels, problems = project.answers()
    assert labels == ["good"]
    assert problems == {"unusable answer": once(f"task {task_id} annotation {last}: unknown label 'gone'")}


@pytest.mark.parametrize("data", [{"text": ""}, {"text": " \n\t\u00a0"}, {"text": None}, {"text": 7}, {"other": "a"}])
def test_a_task_without_a_text_is_left_out(make_project: MakeProject, api: RestApi, data: dict[str, Any]) -> None:
    project = make_project(SINGLE)
    task_id, usable = project.task(), project.task("another")
    # As somebody may leave it who edits the data of a task.
    api.patch(f"/api/tasks/{task_id}", {"data": data})
    tasks, problems = project.read()
    assert [task.task_id for task in tasks] == [usable]
    assert problems == {"empty text": once(f"task {task_id}")}
    assert list(project.reviews.open_tasks()) == [(usable, "another")]


@pytest.mark.parametrize("prediction", [{"bad": 0.4, "good": 0.6}, {"labels": ["good"]}, {"entities": []}, {}])
def test_a_text_routed_for_another_task_type_is_read_as_if_the_loop_had_not_made_it(
    make_project: MakeProject, reviewers: list[int], prediction: dict[str, Any]
) -> None:
    project = make_project(SINGLE)
    # Blind, because a pre-annotation would have to be one of today's.
    (task_id,) = project.reviews.import_items([review_item(TEXT, reason="audit", prediction=prediction)])
    project.usual(task_id, reviewers[0])
    (task,), problems = project.read()
    assert (task.item, [annotation.label for annotation in task.annotations]) == ({}, ["good"])
    assert problems == {"routing not readable": once(f"task {task_id}")}


@pytest.mark.parametrize("kind", TASK_TYPES)
def test_a_labeling_config_that_asks_for_other_labels_is_noticed_until_it_is_repaired(
    make_project: MakeProject, server: LabelStudioServer, reviewers: list[int], kind: str
) -> None:
    project = make_project(kind)
    task, title = project.reviews.task, project.reviews.title
    project.usual(project.task(), reviewers[0])
    config = ElementTree.fromstring(task.labeling_config(""))
    (control,) = (element for element in config.iter() if element.get("name") == "label")
    ElementTree.SubElement(control, control[0].tag, value="great")
    path = f"/api/projects/{project.reviews.id}"
    project.api.patch(path, {"label_config": ElementTree.tostring(config, encoding="unicode")})
    labels, problems = project.answers()
    assert labels == [USUAL[kind]]
    where = f"project {project.reviews.id}: it offers bad, good, great in the control 'label'"
    assert problems == {"labeling config edited by hand": once(where)}

    server.ensure_project(title, task, "", annotations_per_task=2)
    assert project.answers() == ([USUAL[kind]], {})


def test_a_labeling_config_without_our_control_is_noticed(make_project: MakeProject) -> None:
    project = make_project(SINGLE)
    config = project.reviews.task.labeling_config("").replace('name="label"', 'name="sentiment"')
    project.api.patch(f"/api/projects/{project.reviews.id}", {"label_config": config})
    project.task()
    where = f"project {project.reviews.id}: it offers nothing in the control 'label'"
    assert project.answers() == ([], {"labeling config edited by hand": once(where)})


def test_other_looks_of_the_labeling_config_are_nobodys_business(make_project: MakeProject) -> None:
    project = make_project(TOKENS)
    config = project.reviews.task.labeling_config("").replace('hotkey="1"', 'hotkey="x"').replace("1.3em", "2em")
    project.api.patch(f"/api/projects/{project.reviews.id}", {"label_config": config})
    assert project.read() == ([], {})


def test_tasks_deleted_while_they_are_read_take_no_other_with_them(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PAGE_SIZE", 2)
    project = make_project(SINGLE)
    task_ids = project.reviews.import_items([review_item(f"text {number}") for number in range(8)])
    problems = Problems()
    reading = project.reviews.tasks(problems)
    read = [next(reading).task_id]
    # One that was read, the one that the next page would begin after, and one that was not.
    for deleted in (task_ids[0], task_ids[1], task_ids[4]):
        project.api.delete(f"/api/tasks/{deleted}")
    read += [task.task_id for task in reading]
    assert [task_id for task_id in read if task_id != task_ids[1]] == [
        task_id for number, task_id in enumerate(task_ids) if number not in (1, 4)
    ]
    assert problems.summary() == {}


def test_every_page_is_read_once_whatever_its_size(make_project: MakeProject, monkeypatch: pytest.MonkeyPatch) -> None:
    project = make_project(SINGLE)
    task_ids = project.reviews.import_items([review_item(f"text {number}") for number in range(6)])
    for size in (1, 2, 3, 5, 6, 7):
        monkeypatch.setattr(client, "PAGE_SIZE", size)
        assert [task.task_id for task in project.read()[0]] == task_ids


def test_problems_are_counted_over_all_tasks_and_name_the_first_of_many(make_project: MakeProject) -> None:
    project = make_project(SINGLE)
    task_ids = project.reviews.import_items([review_item(f"text {number}") for number in range(MAX_PLACES + 3)])
    ids = [project.annotate(task_id, [], was_cancelled=True) for task_id in task_ids]
    tasks, problems = project.read()
    assert [task.annotations for task in tasks] == [()] * len(task_ids)
    where = [f"task {t} annotation {a}" for t, a in zip(task_ids, ids, strict=True)]
    assert problems == {"cancelled annotation": {"count": len(task_ids), "where": where[:MAX_PLACES]}}
