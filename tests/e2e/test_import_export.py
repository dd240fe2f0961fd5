"""Tasks in from files and reviews out to files: a real Label Studio, real files, a real predictor, the real command."""

import csv
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.data_merge.base_data import read_examples
from components.data_merge.merge import merge_data
from components.data_merge.reviews import collect_reviews
from local.cli import main
from local.console import Console
from local.label_studio_server import Credentials
from local.platform import Platform, PlatformState
from local.task_export import export_reviews
from local.task_import import CHECK_SALT, Champion, ImportResult, TaskImport
from reviewloop import dataset
from reviewloop.errors import PlatformError
from reviewloop.label_studio import LabelStudioServer, ReviewProject
from reviewloop.object_store import open_store
from reviewloop.problems import Problems
from reviewloop.records import Label, ReviewTask
from reviewloop.registry import Registry
from reviewloop.spec import DataSpec, load_spec
from reviewloop.task_files import read_tasks
from reviewloop.task_types import TaskType, task_type
from reviewloop.text_keys import content_key, uniform_draw
from serving.protocol import MAX_TEXT_CHARACTERS
from tests.conftest import LabelStudioProcess
from tests.e2e.conftest import ROOT
from tests.reviewloop.conftest import RestApi
from tests.reviewloop.review_items import answer_of, review_item
from tests.serving.processes import Server, free_port, running
from tests.tiny_model import LABELS, WORDS, write_tiny_model

TASK = task_type("text-classification", LABELS)
SERVED = "import-served"
ANNOTATORS = ["anna@example.com", "berta@example.com", "carl@example.com"]


@dataclass(frozen=True)
class Place:
    """An empty project with a registry beside it, to import into and export from."""

    server: LabelStudioServer
    project: ReviewProject
    registry: Registry
    api: RestApi

    def load(self, uri: str | Path, champion: Champion | None = None) -> ImportResult:
        """Import what is at ``uri``."""
        result = ImportResult()
        tasks = read_tasks(str(uri), self.project.task, result.problems)
        TaskImport(self.server, self.project, self.registry).run(tasks, result, champion)
        return result

    def tasks(self) -> list[ReviewTask]:
        """All tasks, in which there is nothing to complain about."""
        problems = Problems()
        tasks = list(self.project.tasks(problems))
        assert problems.summary() == {}
        return tasks

    def answers(self) -> dict[str, list[tuple[Label, str]]]:
        """The label and the reviewer's email of each answer, in the order they were recorded, by text."""
        emails = self.server.emails()
        return {t.text: [(a.label, emails[a.reviewer]) for a in t.annotations] for t in self.tasks()}

    def raw(self) -> list[dict[str, Any]]:
        """The tasks as Label Studio's API gives them, in the order that it hands them out in."""
        answer = self.api.get("/api/tasks", project=self.project.id, fields="all", page_size=1_000)
        tasks: list[dict[str, Any]] = sorted(answer["tasks"], key=lambda task: task["id"])
        return tasks


@pytest.fixture
def new_place(label_studio: LabelStudioProcess, tmp_path: Path) -> Callable[..., Place]:
    """Makes projects."""
    server = LabelStudioServer(label_studio.url, label_studio.api_key)

    def new(task: TaskType = TASK, title: str | None = None, reviewers: int = 1) -> Place:
        title = title or f"import-{uuid.uuid4().hex[:8]}"
        server.ensure_project(title, task, "", reviewers)
        registry = Registry((tmp_path / "registries" / title).as_uri())
        project = ReviewProject(label_studio.url, label_studio.api_key, title, task)
        return Place(server, project, registry, RestApi(label_studio))

    return new


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def sentences(count: int) -> list[str]:
    """Different texts of words that the tiny model knows."""
    return [f"the {WORDS[n % 30]} {WORDS[n * 7 % 40]} was {WORDS[n * 13 % 31]} number {n}" for n in range(count)]


# Files in.


def choices(label: str) -> list[dict[str, Any]]:
    return TASK.annotation_result(label, "")


def write_csv_file(path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["text", "label"], ["an answered one", "positive"], ["an open one", ""]])


def write_json_lines(path: Path) -> None:
    write_lines(path, [{"text": "an answered one", "label": "positive"}, {"text": "an open one"}])


def write_json(path: Path) -> None:
    answer = {"id": 5, "completed_by": {"email": ANNOTATORS[0]}, "result": choices("positive")}
    guess = {"model_version": "elsewhere", "score": 0.25, "result": choices("neutral")}
    tasks = [
        {"id": 1, "data": {"text": "an answered one"}, "annotations": [answer], "meta": {"customer": 7}},
        {"id": 2, "data": {"text": "an open one"}, "predictions": [guess]},
    ]
    path.write_text(json.dumps(tasks), encoding="utf-8")


def write_json_min(path: Path) -> None:
    rows = [
        {"id": 1, "text": "an answered one", "label": "positive", "annotator": 3, "annotation_id": 11},
        {"id": 2, "text": "an open one"},
    ]
    path.write_text(json.dumps(rows), encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "write", "annotator"),
    [
        ("tasks.csv", write_csv_file, "imported-1@example.com"),
        ("tasks.jsonl", write_json_lines, "imported-1@example.com"),
        ("tasks.json", write_json, ANNOTATORS[0]),
        ("tasks-min.json", write_json_min, "imported-3@example.com"),
    ],
)
def test_a_file_of_each_format_becomes_tasks_with_its_answers(
    name: str, write: Callable[[Path], None], annotator: str, new_place: Callable[..., Place], tmp_path: Path
) -> None:
    write(tmp_path / name)
    place = new_place()
    result = place.load(tmp_path / name)
    assert (result.read, result.imported, result.known, result.problems.summary()) == (2, 2, 0, {})
    assert place.answers() == {"an answered one": [("positive", annotator)], "an open one": []}
    assert {task.item["reason"] for task in place.tasks()} == {"import"}
    assert [text for _, text in place.project.open_tasks()] == ["an open one"]
    if name == "tasks.json":
        answered, still_open = place.raw()
        assert answered["meta"]["customer"] == 7
        (guess,) = still_open["predictions"]
        assert (guess["score"], guess["model_version"]) == (0.25, "elsewhere")


def test_what_is_imported_again_is_known_by_its_text(new_place: Callable[..., Place], tmp_path: Path) -> None:
    place = new_place()
    texts = sentences(30)
    first = write_lines(tmp_path / "first.jsonl", [{"text": text} for text in [*texts[:20], texts[0]]])
    result = place.load(first)
    assert (result.read, result.imported, result.known) == (21, 20, 1)
    result = place.load(first)
    assert (result.read, result.imported, result.known) == (21, 0, 21)
    again = write_lines(tmp_path / "again.jsonl", [{"text": f"  {text.upper()} "} for text in texts[10:]])
    result = place.load(again)
    assert (result.read, result.imported, result.known) == (20, 10, 10)
    assert len(place.tasks()) == 30


def test_a_task_that_traffic_or_a_person_made_is_known(new_place: Callable[..., Place], tmp_path: Path) -> None:
    place = new_place()
    place.project.import_items([review_item("from traffic", "positive")])
    place.project.import_tasks([{"data": {"text": "Uploaded by hand"}}])
    rows = [{"text": "From traffic"}, {"text": "uploaded by  hand"}, {"text": "new"}]
    result = place.load(write_lines(tmp_path / "tasks.jsonl", rows))
    assert (result.imported, result.known) == (1, 2)


@pytest.mark.parametrize("annotator", ["Anna Berg", "Anna@Example.COM", "@anna", "müller", "a" * 300])
def test_whoever_a_file_names_as_annotator_gets_an_account(
    annotator: str, new_place: Callable[..., Place], tmp_path: Path
) -> None:
    place = new_place()
    for number in range(2):  # The second time, the account is there.
        row = {"text": f"text {number}", "label": "positive", "annotator": annotator}
        assert place.load(write_lines(tmp_path / f"{number}.jsonl", [row])).imported == 1
    answers = place.answers()
    assert answers["text 0"] == answers["text 1"]
    assert len(answers["text 0"]) == 1


# The command.


class Loop:
    """A loop's state as `reviewloop up` leaves it, around servers that run already."""

    def __init__(
        self, directory: Path, label_studio: LabelStudioProcess, name: str, predictor_port: int = 1, **data: str
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.file = directory / "loop.yaml"
        document = {
            "name": name,
            "task": {"labels": list(LABELS)},
            "base_model": "any",
            "data": {"name": "base"} | data,
        }
        self.file.write_text(yaml.safe_dump(document), encoding="utf-8")
        self.state = directory / "state"
        port = int(label_studio.url.rsplit(":", 1)[1])
        ports = {"label_studio": port, "predictor": predictor_port, "transformer": free_port()}
        PlatformState(ports, []).save(self.state / "platform.json")
        credentials = self.state / "label-studio" / "credentials.json"
        credentials.parent.mkdir()
        credentials.write_text(json.dumps(asdict(Credentials("admin@example.com", "any", label_studio.api_key))))

    @property
    def registry(self) -> Registry:
        """The loop's registry."""
        return Platform(load_spec(self.file), self.state).registry

    def arguments(self, command: str, *arguments: str) -> list[str]:
        """A command line."""
        return ["reviewloop", command, *arguments, "--loop", str(self.file), "--state", str(self.state)]


@dataclass(frozen=True)
class Outcome:
    """What a command came to."""

    status: int
    output: str
    error: str


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[list[str]], Outcome]:
    """Runs a command line, in this process; any exception but its exit is a stack trace for the user."""

    def run(arguments: list[str]) -> Outcome:
        monkeypatch.setattr(sys, "argv", arguments)
        monkeypatch.setattr("local.cli.console", Console())
        previous = signal.getsignal(signal.SIGTERM)
        try:
            with pytest.raises(SystemExit) as leaving:
                main()
        finally:
            signal.signal(signal.SIGTERM, previous)
        written = capsys.readouterr()
        return Outcome(int(leaving.value.code or 0), written.out, written.err)

    return run


def test_two_thousand_tasks_are_there_once_each_though_the_first_import_was_killed(
    new_place: Callable[..., Place],
    label_studio: LabelStudioProcess,
    tmp_path: Path,
    command: Callable[[list[str]], Outcome],
) -> None:
    place = new_place()
    loop = Loop(tmp_path / "loop", label_studio, place.project.title)
    texts = sentences(2_000)
    tasks = write_lines(tmp_path / "tasks.jsonl", [{"text": text} for text in texts])
    arguments = loop.arguments("import", str(tasks))
    script = [sys.executable, "-c", "from local.cli import main; main()", *arguments[1:]]
    with subprocess.Popen(script, cwd=ROOT, env=os.environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert "tasks read: 250" in process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.stdout.read()
    there = -1
    while (now := place.project.counts().tasks) != there:  # The server goes on with what it had received.
        there = now
        time.sleep(1.0)
    assert 250 <= there < 2_000

    outcome = command(arguments)
    assert (outcome.status, outcome.error) == (0, "")
    assert f"{2_000 - there} of 2000 tasks imported; {there} were known already." in outcome.output
    assert sorted(task.text for task in place.tasks()) == sorted(texts)
    assert "0 of 2000 tasks imported; 2000 were known already." in command(arguments).output


def test_what_cannot_be_imported_is_said_in_a_sentence(
    new_place: Callable[..., Place],
    label_studio: LabelStudioProcess,
    tmp_path: Path,
    s3: str,
    command: Callable[[list[str]], Outcome],
) -> None:
    place = new_place()
    loop = Loop(tmp_path / "loop", label_studio, place.project.title)
    tasks = str(write_lines(tmp_path / "tasks.jsonl", [{"text": "a text"}]))
    (tmp_path / "empty").mkdir()
    (tmp_path / "note.txt").write_text("a note")
    (tmp_path / "broken.json").write_text('[{"data": {"te')
    known = ".csv, .jsonl, .ndjson or .json file"
    for arguments, sentence in (
        (["--accept-above", "0.9", tasks], "--accept-above needs --prelabel: only a prediction can be accepted."),
        (["--prelabel", tasks], "--prelabel needs a model that serves, and there is none yet. Train one first."),
        ([f"{tmp_path}/nothing"], f"There is no file at {tmp_path}/nothing."),
        ([f"{tmp_path}/empty"], f"There is no file at {tmp_path}/empty."),
        ([f"{tmp_path}/note.txt"], f"Expected a {known} at {tmp_path}/note.txt, found none."),
        ([f"{tmp_path}/broken.json"], f"{tmp_path}/broken.json is not JSON in UTF-8 after item 0. Export it again."),
        ([f"{s3}/nothing/"], f"There is no file at {s3}/nothing/."),
        (["s3://no-such-bucket/"], "NoSuchBucket"),
        (
            ["ftp://host/tasks.csv"],
            "Expected a path, a file:///path or an s3://bucket/key, got 'ftp://host/tasks.csv'.",
        ),
    ):
        outcome = command(loop.arguments("import", *arguments))
        assert outcome.status == 1, arguments
        assert outcome.error.startswith("error: ")
        assert sentence in outcome.error
        assert outcome.error.count("\n") == 1
        assert "Traceback" not in outcome.output + outcome.error
    outcome = command(loop.arguments("export", f"{tmp_path}/note.txt"))
    assert (outcome.status, outcome.error.count("\n"), outcome.error[:7]) == (1, 1, "error: ")
    assert place.tasks() == []


def test_what_a_loop_with_fields_of_its_own_exported_it_can_import(
    new_place: Callable[..., Place],
    label_studio: LabelStudioProcess,
    tmp_path: Path,
    command: Callable[[list[str]], Outcome],
) -> None:
    fields = {"text_field": "review", "label_field": "rating"}
    loops = [
        Loop(tmp_path / str(n), label_studio, new_place().project.title, **fields)  # type: ignore[arg-type]
        for n in range(2)
    ]
    (tmp_path / "reviews.csv").write_text("review,rating\nIt broke,negative\nI have it,neutral\n")
    assert "2 of 2 tasks imported" in command(loops[0].arguments("import", f"{tmp_path}/reviews.csv")).output
    exported = command(loops[0].arguments("export", f"{tmp_path}/export"))
    assert f"2 reviewed tasks and 2 training examples are in {tmp_path}/export" in exported.output
    imported = command(loops[1].arguments("import", f"{tmp_path}/export/tasks.json"))
    assert "2 of 2 tasks imported; 0 were known already." in imported.output
    assert "Left out" not in imported.output


def test_an_import_where_no_predictor_answers_names_it(
    new_place: Callable[..., Place], label_studio: LabelStudioProcess, tmp_path: Path
) -> None:
    place = new_place()
    url = f"http://127.0.0.1:{free_port()}"
    tasks = write_lines(tmp_path / "tasks.jsonl", [{"text": "a text"}])
    with pytest.raises(PlatformError, match=rf"The predictor at {url}/.* does not answer \(ConnectError\)"):
        place.load(tasks, Champion(url, SERVED))
    assert place.tasks() == []


# The way there and back.

ROUND_TRIPS: dict[str, tuple[Label, Label, Label]] = {
    "text-classification": ("negative", "positive", "neutral"),
    "multi-label-classification": (["negative", "positive"], [], ["neutral"]),
    "token-classification": (
        [{"start": 0, "end": 5, "label": "negative"}, {"start": 7, "end": 9, "label": "positive"}],
        [],
        [{"start": 7, "end": 8, "label": "neutral"}],
    ),
}


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_what_was_reviewed_is_the_same_after_export_and_import_into_another_project(
    name: str, new_place: Callable[..., Place], tmp_path: Path, s3: str
) -> None:
    task = task_type(name, LABELS)
    one, other, third = ROUND_TRIPS[name]
    here = new_place(task, reviewers=3)
    accounts = list(here.server.ensure_reviewers(ANNOTATORS).values())
    texts = ["Émile 🎉 agreed", "Émile 🎉 did not", "Émile 🎉 tied", "Émile 🎉 audited", "Émile 🎉 not answered"]
    reasons = ["low_confidence", "low_confidence", "low_confidence", "audit", "audit"]
    given = {texts[0]: [one, one], texts[1]: [other, one, one], texts[2]: [third, one], texts[3]: [other]}
    ids = here.project.import_items(
        [
            review_item(text, reason=reason, prediction=answer_of(task, third, text))
            for text, reason in zip(texts, reasons, strict=True)
        ]
    )
    for task_id, text in zip(ids, texts, strict=True):
        # Not in the order of the accounts: a tie goes to the answer that was recorded first.
        for label, account in zip(given.get(text, []), reversed(accounts), strict=False):
            here.project.annotate(task_id, text, label, account)

    uri = f"{s3}/exports/{uuid.uuid4().hex}" if name == "token-classification" else str(tmp_path / "export")
    for _ in range(2):  # The second time it is there.
        result = export_reviews(here.server, here.project, uri)
        assert (result.tasks, result.examples, result.problems.summary()) == (4, 3, {})

    there = new_place(task, reviewers=3)
    if not uri.startswith("s3://"):
        examples = read_examples(f"{uri}/training.jsonl", "reviews", task, Problems())
        assert examples == collect_reviews(here.tasks(), task, Problems()).training
    loaded = there.load(f"{uri}/tasks.json")
    assert (loaded.imported, loaded.problems.summary()) == (4, {})
    assert there.answers() == {text: answers for text, answers in here.answers().items() if answers}
    items = {t.text: t.item for t in here.tasks()}
    for task_there in there.tasks():
        item = items[task_there.text]
        assert {field: task_there.item[field] for field in item} == item
    before, after = (collect_reviews(place.tasks(), task, Problems()) for place in (here, there))
    assert after.training == before.training
    assert (after.ties, after.agreement, after.audited) == (before.ties, before.agreement, before.audited)
    assert [(t.label, t.predicted, t.reason) for t in after.traffic] == [
        (t.label, t.predicted, t.reason) for t in before.traffic
    ]


@pytest.mark.parametrize("reason", ["low_confidence", "audit", "machine_check"])
def test_a_reason_of_which_the_file_does_not_say_the_rest_is_not_taken_for_the_loops_own(
    reason: str, new_place: Callable[..., Place], tmp_path: Path
) -> None:
    routed = review_item("routed", reason=reason).metadata()
    metas: list[dict[str, Any]] = [
        {"reason": reason},
        routed | {"prediction": {"entities": []}},
        routed | {"propensity": 0.0},
        routed | {"model_version": None},
        {"reason": "of their own"},
        routed,
    ]
    answer = {"result": choices("positive")}
    tasks = [{"data": {"text": f"text {n}"}, "meta": m, "annotations": [answer]} for n, m in enumerate(metas)]
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    place = new_place()
    assert place.load(tmp_path / "tasks.json").imported == 6
    reviews = collect_reviews(place.project.tasks(Problems()), TASK, Problems())
    assert reviews.by_reason.pop("of their own") == reviews.by_reason.pop(reason) == 1
    assert sum(reviews.by_reason.values()) == 4
    assert reviews.answered == 6


# Pre-labelling.


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real predictor that serves a tiny model as the champion."""
    directory = tmp_path_factory.mktemp("prelabel")
    model = write_tiny_model(directory / "v0001", temperature=2.0)
    arguments = ("--model_dir", model, "--model_name", SERVED)
    server = Server("serving.predictor", *arguments, log=directory / "predictor.log")
    with running(server):
        server.wait_until()
        yield server


def test_the_least_certain_come_first_and_the_answered_ones_as_they_were(
    new_place: Callable[..., Place], predictor: Server, tmp_path: Path
) -> None:
    place = new_place()
    texts = sentences(300)
    too_long = "the film was good " * (MAX_TEXT_CHARACTERS // 18 + 1)
    rows: list[dict[str, Any]] = [{"text": text} for text in [*texts[:290], too_long]]
    rows += [{"text": text, "label": "neutral"} for text in texts[290:]]
    result = place.load(write_lines(tmp_path / "tasks.jsonl", rows), Champion(predictor.url, SERVED))
    assert (result.imported, result.accepted, result.checked) == (301, 0, 0)
    tasks = place.raw()
    assert place.api.get(f"/api/projects/{place.project.id}/next")["id"] == tasks[0]["id"]
    assert tasks[0]["data"]["text"].startswith("the film was good the film")
    assert tasks[0]["predictions"] == []
    guesses = [guess for task in tasks[1:291] for guess in task["predictions"]]
    assert len(guesses) == 290
    scores = [guess["score"] for guess in guesses]
    assert scores == sorted(scores)
    assert scores[0] < scores[-1]
    assert {guess["model_version"] for guess in guesses} == {"v0001"}
    for task, guess in zip(tasks[1:291], guesses, strict=True):
        assert TASK.read_annotation(guess["result"], task["data"]["text"]).label in LABELS
    assert {task["data"]["text"] for task in tasks[291:]} == set(texts[290:])
    assert all(task["predictions"] == [] and len(task["annotations"]) == 1 for task in tasks[291:])


def test_many_long_texts_are_asked_about_in_several_requests(
    new_place: Callable[..., Place], predictor: Server, tmp_path: Path
) -> None:
    place = new_place()
    # More than the predictor takes in a body, once each character is encoded.
    rows = [{"text": f"{number} " + "\U0001f389" * (MAX_TEXT_CHARACTERS - 4)} for number in range(45)]
    result = place.load(write_lines(tmp_path / "tasks.jsonl", rows), Champion(predictor.url, SERVED))
    assert result.imported == 45
    assert all(len(task["predictions"]) == 1 for task in place.raw())


def in_a_gap(scores: list[float]) -> float:
    """A limit with many scores on either side, and none so near that rounding would take it across."""
    middle = sorted(scores)[len(scores) // 3 : 2 * len(scores) // 3]
    width, low = max((after - before, before) for before, after in itertools.pairwise(middle))
    return low + width / 2


def merged(place: Place, label_studio: LabelStudioProcess, directory: Path, **data: Any) -> dict[str, Any]:
    """The summary of what data-merge makes in ``directory`` of the reviews alone."""
    result = merge_data(
        data=DataSpec(validation_fraction=0.2, **data),
        task_name=TASK.name,
        labels=LABELS,
        label_studio_url=label_studio.url,
        project_title=place.project.title,
        registry_uri=place.registry.uri,
        min_new_annotations=0,
        output=directory,
    )
    return result.summary


def test_sure_predictions_become_machine_labels_that_train_only_where_asked_for_and_where_no_person_spoke(
    new_place: Callable[..., Place],
    predictor: Server,
    label_studio: LabelStudioProcess,
    tmp_path: Path,
    command: Callable[[list[str]], Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = Loop(tmp_path / "loop", label_studio, SERVED, predictor.port)
    registry = loop.registry
    place = replace(new_place(title=SERVED), registry=registry)
    open_store(registry.uri).write("champion.json", b'{"version": "v0001"}')
    texts = sentences(240)
    response = predictor.post(f"/v1/models/{SERVED}:predict", {"instances": texts}).json()["predictions"]
    predicted = {text: (answer["label"], answer["score"]) for text, answer in zip(texts, response, strict=True)}
    above = in_a_gap([score for _, score in predicted.values()])
    sure = {text for text, (_, score) in predicted.items() if score >= above}
    checks = {text for text in sure if uniform_draw(content_key(text), CHECK_SALT) < 0.2}
    assert checks
    guess = {"model_version": "elsewhere", "score": 0.5, "result": choices("neutral")}
    given = [{"data": {"text": text}, "predictions": [guess], "meta": {"customer": 7}} for text in texts]
    source = tmp_path / "tasks.json"
    source.write_text(json.dumps(given))
    arguments = ["--prelabel", "--accept-above", str(above), "--check-share", "0.2", str(source)]

    outcome = command(loop.arguments("import", *arguments))
    assert (outcome.status, outcome.error) == (0, "")
    assert (
        f"{len(sure - checks)} predictions accepted as machine labels; {len(checks)} more go to people as a check."
        in outcome.output
    )
    assert f"{240 - len(sure - checks)} of 240 tasks imported; 0 were known already." in outcome.output

    # What is accepted is in the registry and not a task; what checks it is a task that says nothing of the model.
    accepted = {label.text: label for label in registry.machine_labels()}
    assert accepted.keys() == sure - checks
    assert all(label.label == predicted[text][0] and label.score >= above for text, label in accepted.items())
    tasks = place.raw()
    by_text = {task["data"]["text"]: task for task in tasks}
    assert by_text.keys() == set(texts) - accepted.keys()
    for text, task in by_text.items():
        assert task["meta"]["reason"] == ("machine_check" if text in checks else "import")
        assert [p["model_version"] for p in task["predictions"]] == ([] if text in checks else ["v0001"])
        assert task["meta"]["customer"] == 7
    order = [task["data"]["text"] in checks for task in tasks]
    assert not all(order[-len(checks) :])
    again = command(loop.arguments("import", *arguments))
    assert "0 of 240 tasks imported; 240 were known already." in again.output
    assert "0 predictions accepted as machine labels; 0 more go to people as a check." in again.output

    # People answer: every third check otherwise than the model.
    account = place.server.ensure_reviewers(ANNOTATORS[:1])[ANNOTATORS[0]]
    errors = 0
    for number, (task_id, text) in enumerate(list(place.project.open_tasks())):
        label = LABELS[number % 3]
        if text in checks:
            label = predicted[text][0] if number % 3 else next(name for name in LABELS if name != predicted[text][0])
            errors += label != predicted[text][0]
        place.project.annotate(task_id, text, label, account)
    assert 0 < errors < len(checks)
    # And they come to know some of the accepted texts: one as it is, one but for its punctuation.
    same, alike, *_ = accepted
    contrary = {text: next(name for name in LABELS if name != accepted[text].label) for text in (same, alike)}
    rows = [{"text": same, "label": contrary[same]}, {"text": f"{alike}!", "label": contrary[alike]}]
    assert place.load(write_lines(tmp_path / "more.jsonl", rows)).imported == 2

    monkeypatch.setenv("LABEL_STUDIO_API_KEY", label_studio.api_key)
    without = merged(place, label_studio, tmp_path / "without")
    figures = {"accepted": len(accepted), "trained_on": 0, "checked": len(checks), "errors": errors}
    assert without["machine_labels"] == figures
    assert "machine" not in without["sources"]
    asked_for = merged(place, label_studio, tmp_path / "with", machine_labels=True)
    assert asked_for["machine_labels"] == figures | {"trained_on": len(accepted) - 2}
    splits = {name: dataset.read_split(tmp_path / "with", name) for name in ("train", "validation", "test-base")}
    assert {e.text for e in splits["train"] if e.source == "machine"} == accepted.keys() - {same, alike}
    assert all(e.source != "machine" for name in ("validation", "test-base") for e in splits[name])
    for text, known_as in ((same, same), (alike, f"{alike}!")):
        found = [e for examples in splits.values() for e in examples if e.text in (text, known_as)]
        assert [(e.text, e.label) for e in found] == [(known_as, contrary[text])]
    for name in ("validation", "test-base"):
        assert dataset.read_split(tmp_path / "without", name) == splits[name]
