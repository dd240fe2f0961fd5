"""The Label Studio client against a real server: what goes in, what comes out, and what is said when it fails."""

import uuid
from datetime import UTC, datetime

import pytest

from local.processes import free_port
from reviewloop.errors import LabelStudioError, LabelStudioUnavailable
from reviewloop.label_studio import LabelStudioServer, ReviewProject, api_key_from_environment
from reviewloop.problems import Problems
from reviewloop.records import ReviewTask
from reviewloop.task_types import Reading, TaskType, task_type
from tests.conftest import LabelStudioProcess
from tests.reviewloop.conftest import RestApi
from tests.reviewloop.review_items import review_item

TASK = task_type("text-classification", ("bad", "good"))


@pytest.fixture
def project(server: LabelStudioServer, label_studio: LabelStudioProcess) -> ReviewProject:
    """An empty project whose tasks want two annotations each."""
    title = f"reviews {uuid.uuid4().hex[:8]}"
    server.ensure_project(title, TASK, "How is it?", annotations_per_task=2)
    return ReviewProject(label_studio.url, label_studio.api_key, title, TASK)


def read(project: ReviewProject) -> list[ReviewTask]:
    """All tasks of a project in which there is nothing to complain about."""
    problems = Problems()
    tasks = list(project.tasks(problems))
    assert problems.summary() == {}
    return tasks


def test_a_project_is_made_once_and_brought_up_to_date(server: LabelStudioServer, api: RestApi) -> None:
    title = f"reviews {uuid.uuid4().hex[:8]}"
    first = server.ensure_project(title, TASK, "How is it?", annotations_per_task=1)
    other_task: TaskType = task_type("text-classification", ("bad", "fine", "good"))
    assert server.ensure_project(title, other_task, "How is it now?", annotations_per_task=3) == first
    assert len([p for p in api.get("/api/projects", page_size=1000)["results"] if p["title"] == title]) == 1
    stored = api.get(f"/api/projects/{first}")
    assert stored["maximum_annotations"] == 3
    assert stored["expert_instruction"] == "How is it now?"
    assert stored["label_config"] == other_task.labeling_config("How is it now?")
    assert stored["show_collab_predictions"] is True


def test_a_project_is_found_by_its_whole_title(server: LabelStudioServer) -> None:
    title = f"reviews {uuid.uuid4().hex[:8]}"
    longer = server.ensure_project(f"{title} and more", TASK, "", annotations_per_task=1)
    assert server.find_project(title) is None
    assert server.find_project(f"{title} and more") == longer


def test_reviewers_are_made_once(server: LabelStudioServer, api: RestApi) -> None:
    emails = [f"{uuid.uuid4().hex[:8]}@example.com" for _ in range(2)]
    accounts = server.ensure_reviewers(emails)
    assert server.ensure_reviewers(emails) == accounts
    stored = {user["email"]: user["id"] for user in api.get("/api/users")}
    assert {email: stored[email] for email in emails} == accounts


def test_imported_items_become_tasks_in_order(project: ReviewProject, api: RestApi) -> None:
    items = [
        review_item("first", "good", confidence=0.55),
        review_item("second", "bad", reason="audit", propensity=0.03),
        review_item('third "quoted" <b> 🎉'),
    ]
    task_ids = project.import_items(items)
    stored = {task_id: api.get(f"/api/tasks/{task_id}") for task_id in task_ids}
    assert [stored[task_id]["data"] for task_id in task_ids] == [{"text": i.text, "key": i.key} for i in items]
    assert [stored[task_id]["meta"] for task_id in task_ids] == [i.metadata() for i in items]
    tasks = read(project)
    assert [(t.task_id, t.text, t.item) for t in tasks] == [
        (task_id, i.text, i.metadata()) for task_id, i in zip(task_ids, items, strict=True)
    ]


def test_only_a_low_confidence_item_shows_what_the_model_said(project: ReviewProject, api: RestApi) -> None:
    shown, blind = project.import_items(
        [review_item("shown", "good", confidence=0.55), review_item("blind", "good", reason="audit")]
    )
    prediction = api.get(f"/api/tasks/{shown}")["predictions"][0]
    assert TASK.read_annotation(prediction["result"], "shown") == Reading("good")
    assert (prediction["score"], prediction["model_version"]) == (0.55, "v0001")
    assert api.get(f"/api/tasks/{blind}")["predictions"] == []


def test_tasks_are_found_by_their_keys(project: ReviewProject) -> None:
    items = [review_item(f"text {number}") for number in range(130)]
    task_ids = project.import_items(items)
    again = project.import_items(items[:1])
    found = project.find_tasks([item.key for item in items] + ["f" * 32, "0"])
    assert found == {
        items[0].key: [task_ids[0], *again],
        **{item.key: [task_id] for item, task_id in zip(items[1:], task_ids[1:], strict=True)},
    }
    assert project.find_tasks([]) == {}


def test_a_task_is_open_until_it_has_all_its_annotations(project: ReviewProject, reviewers: list[int]) -> None:
    first, second = project.import_items([review_item("first"), review_item("second")])
    assert list(project.open_tasks()) == [(first, "first"), (second, "second")]
    project.annotate(first, "first", "good", reviewers[0])
    assert list(project.open_tasks()) == [(first, "first"), (second, "second")]
    assert (project.counts().finished, project.counts().annotations) == (0, 1)
    project.annotate(first, "first", "bad", reviewers[1])
    assert list(project.open_tasks()) == [(second, "second")]
    counts = project.counts()
    assert (counts.tasks, counts.finished, counts.annotations) == (2, 1, 2)


def test_when_the_last_task_was_finished_is_known(project: ReviewProject, reviewers: list[int]) -> None:
    tasks = project.import_items([review_item(text) for text in ("first", "second", "open")])
    assert project.last_finished_at() is None
    for task, text in reversed(list(zip(tasks, ("first", "second"), strict=False))):
        before = datetime.now(UTC)
        for reviewer in reviewers:
            project.annotate(task, text, "good", reviewer)
        finished = project.last_finished_at()
        assert finished is not None and before < finished < datetime.now(UTC)


def test_answers_come_back_with_their_reviewers_in_the_order_they_were_recorded(
    project: ReviewProject, reviewers: list[int]
) -> None:
    (task_id,) = project.import_items([review_item("text")])
    project.annotate(task_id, "text", "good", reviewers[1])
    project.annotate(task_id, "text", "bad", reviewers[0])
    (task,) = read(project)
    assert [(a.label, a.reviewer) for a in task.annotations] == [("good", reviewers[1]), ("bad", reviewers[0])]
    assert task.annotations[0].id < task.annotations[1].id
    assert task.annotations[0].updated_at < task.annotations[1].updated_at


def test_a_task_that_the_loop_did_not_make_has_no_item(project: ReviewProject, api: RestApi) -> None:
    api.post(f"/api/projects/{project.id}/import", [{"text": "uploaded by hand"}])
    (task,) = read(project)
    assert (task.text, task.item, task.annotations) == ("uploaded by hand", {}, ())


def test_nothing_to_import_makes_nothing(project: ReviewProject) -> None:
    assert read(project) == []
    assert list(project.open_tasks()) == []
    assert project.counts().tasks == 0


def test_a_wrong_key_names_the_variable_to_check(label_studio: LabelStudioProcess) -> None:
    project = ReviewProject(label_studio.url, "0" * 40, "any", TASK)
    with pytest.raises(LabelStudioError, match=r"refused the API key\. Check LABEL_STUDIO_API_KEY") as caught:
        list(project.tasks(Problems()))
    assert not isinstance(caught.value, LabelStudioUnavailable)


def test_a_missing_key_says_where_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LABEL_STUDIO_API_KEY", raising=False)
    with pytest.raises(LabelStudioError, match=r"LABEL_STUDIO_API_KEY is not set\. Copy an access token"):
        api_key_from_environment()
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "secret")
    assert api_key_from_environment() == "secret"


def test_a_missing_project_says_who_makes_it(label_studio: LabelStudioProcess) -> None:
    project = ReviewProject(label_studio.url, label_studio.api_key, "nowhere", TASK)
    with pytest.raises(LabelStudioError, match=r"has no project named 'nowhere'\. `reviewloop up` makes it"):
        project.import_items([review_item("text")])


def test_a_refused_request_says_what_was_answered(project: ReviewProject, reviewers: list[int]) -> None:
    with pytest.raises(LabelStudioError, match=r"answered 404: .*No Task matches") as caught:
        project.annotate(999_999_999, "text", "good", reviewers[0])
    assert not isinstance(caught.value, LabelStudioUnavailable)


def test_a_server_that_is_not_there_is_unavailable() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    project = ReviewProject(url, "key", "any", TASK)
    with pytest.raises(LabelStudioUnavailable, match=rf"{url} did not answer \(ConnectError\)\. Is it running\?"):
        project.import_items([review_item("text")])


def test_a_server_that_comes_back_has_everything(
    project: ReviewProject, reviewers: list[int], label_studio: LabelStudioProcess
) -> None:
    (task_id,) = project.import_items([review_item("text")])
    label_studio.stop()
    try:
        with pytest.raises(LabelStudioUnavailable, match="did not answer"):
            project.annotate(task_id, "text", "good", reviewers[0])
    finally:
        label_studio.start()
    project.annotate(task_id, "text", "good", reviewers[0])
    (task,) = read(project)
    assert [a.label for a in task.annotations] == ["good"]
