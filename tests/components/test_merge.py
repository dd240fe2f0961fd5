"""The data_merge step whole: files, a real Label Studio and a registry in; a dataset and a decision out."""

import json
import re
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from components.data_merge.merge import MergeResult, merge_data
from components.evaluate.report import render_html
from reviewloop import dataset
from reviewloop.errors import DataError, LabelStudioError, LabelStudioUnavailable
from reviewloop.label_studio import LabelStudioServer, ReviewProject
from reviewloop.records import Example, Label, MachineLabel
from reviewloop.registry import Registry
from reviewloop.spec import DataSpec
from reviewloop.task_types import TaskType
from reviewloop.text_keys import content_key, near_duplicate_key
from tests.components.evaluations import evaluate
from tests.components.toy_task import MULTI, SINGLE, TOKENS, toy_examples
from tests.conftest import LabelStudioProcess
from tests.reviewloop.review_items import answer_of, review_item
from tests.tiny_model import LABELS

EMPTY = {"text-classification": "negative"}
"""What is predicted where there must be something."""


@dataclass(frozen=True)
class Reviewers:
    """A Label Studio project, and two people who answer its tasks."""

    project: ReviewProject
    accounts: list[int]

    def answer(self, text: str, *labels: Label, **fields: Any) -> int:
        """Route ``text``, and have it answered with ``labels``, by one reviewer each. Returns the task's id."""
        fields = {"prediction": answer_of(self.project.task, EMPTY.get(self.project.task.name, []), text)} | fields
        (task_id,) = self.project.import_items([review_item(text, **fields)])
        for label, account in zip(labels, self.accounts, strict=False):
            self.project.annotate(task_id, text, label, account)
        return task_id


@pytest.fixture
def make_reviewers(
    label_studio: LabelStudioProcess, monkeypatch: pytest.MonkeyPatch
) -> Callable[[TaskType], Reviewers]:
    """Makes an empty project of a task type. Its API key is in the environment."""
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", label_studio.api_key)

    def make(task: TaskType) -> Reviewers:
        server = LabelStudioServer(label_studio.url, label_studio.api_key)
        title = f"merge {uuid.uuid4().hex[:8]}"
        server.ensure_project(title, task, "", annotations_per_task=2)
        project = ReviewProject(label_studio.url, label_studio.api_key, title, task)
        return Reviewers(project, list(server.ensure_reviewers(["one@example.com", "two@example.com"]).values()))

    return make


@pytest.fixture
def reviewers(make_reviewers: Callable[[TaskType], Reviewers]) -> Reviewers:
    """An empty project."""
    return make_reviewers(SINGLE)


def write_data(tmp_path: Path, task: TaskType) -> DataSpec:
    """120 examples of the toy task, and 30 more as the test set ``other``."""
    for name, examples in (("base", toy_examples(120, task=task)), ("other", toy_examples(30, start=120, task=task))):
        rows = (json.dumps({"text": e.text, "label": e.label}) for e in examples)
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return DataSpec(
        name="toy",
        source=str(tmp_path / "base.jsonl"),
        test_fraction=0.3,
        validation_fraction=0.2,
        test_sets={"other": str(tmp_path / "other.jsonl")},
    )


@pytest.fixture
def base(tmp_path: Path) -> DataSpec:
    """The toy task of text classification as base data."""
    return write_data(tmp_path, SINGLE)


Merge = Callable[..., MergeResult]


@pytest.fixture
def merge(base: DataSpec, tmp_path: Path) -> Merge:
    """The step, without Label Studio and for three new annotations unless told otherwise."""

    def run(reviewers: Reviewers | None = None, **changes: Any) -> MergeResult:
        arguments: dict[str, Any] = {
            "data": base,
            "task_name": "text-classification",
            "labels": LABELS,
            "label_studio_url": reviewers.project._server.url if reviewers else "",
            "project_title": reviewers.project.title if reviewers else "none",
            "registry_uri": (tmp_path / "registry").as_uri(),
            "min_new_annotations": 3,
            "output": tmp_path / "dataset",
        }
        return merge_data(**arguments | changes)

    return run


def register_version(tmp_path: Path, snapshot: str | None = None) -> None:
    """Let a version exist that was trained on this snapshot."""
    registry = Registry((tmp_path / "registry").as_uri())
    (tmp_path / "model").mkdir(exist_ok=True)
    (tmp_path / "report.html").touch()
    lineage = {
        "dataset_hash": "", "annotation_snapshot": snapshot, "annotations": 0, "base_model": "", "parent": None,
        "code_version": "", "image": "", "seed": 7,
    }  # fmt: skip
    evaluation = {"verdict": "refused", "lineage": lineage}
    registry.register(registry.claim_version(), tmp_path / "model", tmp_path / "report.html", evaluation)


def trained_on(tmp_path: Path) -> list[Example]:
    """What the dataset gives to training and calibration."""
    return dataset.read_split(tmp_path / "dataset", "train") + dataset.read_split(tmp_path / "dataset", "validation")


def test_without_label_studio_the_base_data_are_split(merge: Merge, tmp_path: Path) -> None:
    result = merge()
    assert result.message == "No version exists yet: training the first one."
    assert result.train
    assert dataset.test_set_names(tmp_path / "dataset") == ["other", "toy"]
    assert len(dataset.read_test_set(tmp_path / "dataset", "other")) == 30
    assert len(trained_on(tmp_path)) + len(dataset.read_test_set(tmp_path / "dataset", "toy")) == 120
    assert {e.source for e in trained_on(tmp_path)} == {"toy"}
    assert dataset.read_reviewed_traffic(tmp_path / "dataset") == []
    assert result.summary["annotation_snapshot"] is None


def test_the_summary_counts_what_was_written(merge: Merge, tmp_path: Path) -> None:
    summary = merge().summary
    assert dataset.read_summary(tmp_path / "dataset") == summary
    assert summary["dataset_hash"] == dataset.dataset_hash(tmp_path / "dataset")
    assert set(summary["splits"]) == {"train", "validation", "test toy", "test other"}
    assert sum(summary["splits"]["train"].values()) == len(dataset.read_split(tmp_path / "dataset", "train"))
    assert sum(summary["splits"]["test other"].values()) == 30
    assert summary["sizes"] == {split: sum(counts.values()) for split, counts in summary["splits"].items()}
    assert summary["problems"] == {}


@pytest.mark.parametrize("task", [MULTI, TOKENS], ids=lambda task: task.name)
def test_base_data_and_reviews_of_every_task_type_are_merged(
    merge: Merge, make_reviewers: Callable[[TaskType], Reviewers], tmp_path: Path, task: TaskType
) -> None:
    reviewers = make_reviewers(task)
    label = ["negative", "positive"]
    if task is TOKENS:
        label = [{"start": 0, "end": 2, "label": "negative"}, {"start": 3, "end": 8, "label": "positive"}]
    reviewers.answer("we works", label, label)
    reviewers.answer("nothing there", [])
    reviewers.answer("a tie", label[:1], [])
    result = merge(reviewers, data=write_data(tmp_path, task), task_name=task.name)
    learned = {e.text: e.label for e in trained_on(tmp_path) if e.source == "reviews"}
    assert learned == {"we works": label, "nothing there": [], "a tie": label[:1]}
    summary = result.summary
    assert (summary["reviews"]["answered"], summary["reviews"]["ties"], summary["problems"]) == (3, 1, {})
    for split, size in summary["sizes"].items():
        examples = dataset.read_split(tmp_path / "dataset", split.replace("test ", "test-"))
        assert len(examples) == size
        counts = Counter(name for example in examples for name in task.names(example.label))
        assert summary["splits"][split] == dict(counts)
    traffic = [(row.predicted, row.label) for row in dataset.read_reviewed_traffic(tmp_path / "dataset")]
    assert sorted(traffic, key=repr) == sorted([([], label), ([], []), ([], label[:1])], key=repr)


@pytest.mark.parametrize("task", [MULTI, TOKENS], ids=lambda task: task.name)
def test_a_label_that_no_text_has_among_several_is_named(merge: Merge, tmp_path: Path, task: TaskType) -> None:
    with pytest.raises(DataError, match=r"no example of mixed\. Add some"):
        merge(data=write_data(tmp_path, task), task_name=task.name, labels=(*LABELS, "mixed"))


def test_what_cannot_be_used_is_in_the_summary_and_in_the_report(
    merge: Merge, reviewers: Reviewers, base: DataSpec, toy_model: Path, tmp_path: Path
) -> None:
    unknown = reviewers.answer("we love it", "a label of yesterday", "positive")
    kept = reviewers.answer("you hate it", "negative", "negative")
    double = reviewers.answer("You  hate it", "neutral")
    with (tmp_path / "base.jsonl").open("a", encoding="utf-8") as rows:
        rows.write('\n{"text": " ", "label": "negative"}')
    summary = merge(reviewers).summary
    annotation = re.escape(f"task {unknown} annotation ") + r"\d+: unknown label 'a label of yesterday'"
    assert re.fullmatch(annotation, summary["problems"]["unusable answer"]["where"][0])
    assert summary["problems"] == {
        "unusable answer": {"count": 1, "where": summary["problems"]["unusable answer"]["where"]},
        "same text, another label": {"count": 1, "where": [f"task {double}: task {kept} counts"]},
        "empty text": {"count": 1, "where": [f"{base.source}, row 121"]},
    }
    assert summary["reviews"]["annotations"] == 3
    assert dataset.read_summary(tmp_path / "dataset") == summary

    html = render_html(evaluate(tmp_path / "dataset", toy_model, (tmp_path / "registry").as_uri()).document)
    for kind, found in summary["problems"].items():
        assert f"<td>{kind}</td><td>{found['count']}</td>" in html
        assert all(where in unescape(html) for where in found["where"])


def test_machine_labels_are_trained_on_where_the_loop_says_so(merge: Merge, base: DataSpec, tmp_path: Path) -> None:
    known = toy_examples(1)[0].text
    labels = [
        MachineLabel(content_key(text), text, "positive", 0.999, "v0001", "2026-01-01T00:00:00+00:00")
        for text in ("machines love it", known)
    ]
    Registry((tmp_path / "registry").as_uri()).add_machine_labels(labels)
    summary = merge().summary
    assert summary["machine_labels"] == {"accepted": 2, "trained_on": 0, "checked": 0, "errors": 0}
    assert "machines love it" not in {e.text for e in trained_on(tmp_path)}
    summary = merge(data=base.model_copy(update={"machine_labels": True})).summary
    assert summary["machine_labels"]["trained_on"] == 1
    assert Example("machines love it", "positive", "machine") in dataset.read_split(tmp_path / "dataset", "train")


def test_the_same_data_give_the_same_dataset(merge: Merge, tmp_path: Path) -> None:
    assert merge().summary["dataset_hash"] == merge(output=tmp_path / "again").summary["dataset_hash"]


def test_reviews_join_training_by_consensus(merge: Merge, reviewers: Reviewers, tmp_path: Path) -> None:
    reviewers.answer("we love it", "positive", "positive")
    reviewers.answer("you hate it", "neutral", "negative")
    reviewers.answer("nobody knows")
    reviews = merge(reviewers).summary["reviews"]
    learned = {e.text: e.label for e in trained_on(tmp_path) if e.source == "reviews"}
    assert learned == {"we love it": "positive", "you hate it": "neutral"}
    assert (reviews["tasks"], reviews["answered"], reviews["annotations"], reviews["ties"]) == (3, 2, 4, 1)
    assert {row.label for row in dataset.read_reviewed_traffic(tmp_path / "dataset")} == {"positive", "neutral"}


def test_nothing_reviewed_brings_a_test_text_or_its_near_duplicate_into_training(
    merge: Merge, reviewers: Reviewers, tmp_path: Path
) -> None:
    merge()
    own = dataset.read_test_set(tmp_path / "dataset", "toy")[0]
    other = dataset.read_test_set(tmp_path / "dataset", "other")[0]
    reviewers.answer(f"  {own.text.upper()}!!", "neutral", "neutral")
    reviewers.answer(", ".join(other.text.split()), "neutral", "neutral")
    summary = merge(reviewers).summary
    tested = {
        near_duplicate_key(e.text)
        for name in dataset.test_set_names(tmp_path / "dataset")
        for e in dataset.read_test_set(tmp_path / "dataset", name)
    }
    assert not tested & {near_duplicate_key(e.text) for e in trained_on(tmp_path)}
    assert summary["kept_from_training"] == 2
    assert own in dataset.read_test_set(tmp_path / "dataset", "toy")
    # As evidence of live accuracy they still count.
    assert len(dataset.read_reviewed_traffic(tmp_path / "dataset")) == 2


def test_audited_texts_are_not_trained_on(merge: Merge, reviewers: Reviewers, tmp_path: Path) -> None:
    reviewers.answer("we love it", "positive", reason="audit", propensity=0.05)
    merge(reviewers)
    assert {e.source for e in trained_on(tmp_path)} == {"toy"}
    (row,) = dataset.read_reviewed_traffic(tmp_path / "dataset")
    assert (row.reason, row.weight) == ("audit", pytest.approx(20.0))


def test_training_waits_until_enough_annotations_are_new(merge: Merge, reviewers: Reviewers, tmp_path: Path) -> None:
    reviewers.answer("we love it", "positive", "positive")
    register_version(tmp_path, merge(reviewers).summary["annotation_snapshot"])
    reviewers.answer("you hate it", "negative", "negative")
    waiting = merge(reviewers)
    assert not waiting.train
    assert waiting.message == (
        "Training is skipped: 2 annotations are new since v0001, and retrain.min_new_annotations is 3."
    )
    assert waiting.summary["reviews"]["new_annotations"] == 2
    reviewers.answer("this works", "positive")
    enough = merge(reviewers)
    assert enough.train
    assert enough.message == "3 annotations are new since v0001: training."


def test_what_a_refused_version_was_trained_on_is_not_new_again(
    merge: Merge, reviewers: Reviewers, tmp_path: Path
) -> None:
    register_version(tmp_path)
    reviewers.answer("we love it", "positive", "positive")
    register_version(tmp_path, merge(reviewers).summary["annotation_snapshot"])
    assert merge(reviewers).summary["reviews"]["new_annotations"] == 0


def test_without_a_threshold_every_run_trains(merge: Merge, tmp_path: Path) -> None:
    register_version(tmp_path)
    assert merge(min_new_annotations=0).train
    assert not merge(min_new_annotations=1).train


def test_reviews_alone_can_be_trained_on(merge: Merge, reviewers: Reviewers, base: DataSpec, tmp_path: Path) -> None:
    for text, label in (
        ("i love it", "positive"),
        ("we hate it", "negative"),
        ("it broke", "neutral"),
        ("ok", "neutral"),
    ):
        reviewers.answer(text, label)
    result = merge(reviewers, data=base.model_copy(update={"source": None, "validation_fraction": 0.4}))
    assert result.summary["sources"] == {"reviews": 4}
    assert dataset.test_set_names(tmp_path / "dataset") == ["other"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"source": None}, r"training data have no example of negative, neutral, positive\. Add some"),
        ({"validation_fraction": 0.0001}, r"No example is left to calibrate with: raise data\.validation_fraction"),
        ({"test_fraction": 0.0001}, r"Test set toy is empty: raise data\.test_fraction or add data"),
        ({"source": "gone.csv"}, r"There is no data file at gone\.csv"),
    ],
)
def test_data_that_cannot_be_trained_on_are_a_sentence(
    merge: Merge, base: DataSpec, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence):
        merge(data=base.model_copy(update=changes))


def test_a_label_without_examples_is_named(merge: Merge) -> None:
    with pytest.raises(DataError, match=r"no example of mixed\. Add some to data\.source, .* task\.labels\."):
        merge(labels=(*LABELS, "mixed"))


def test_a_missing_project_and_a_missing_server_are_sentences(
    merge: Merge, label_studio: LabelStudioProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", label_studio.api_key)
    with pytest.raises(LabelStudioError, match="has no project named 'nowhere'"):
        merge(label_studio_url=label_studio.url, project_title="nowhere")
    with pytest.raises(LabelStudioUnavailable, match="Is it running"):
        merge(label_studio_url="http://127.0.0.1:1")
    monkeypatch.delenv("LABEL_STUDIO_API_KEY")
    with pytest.raises(LabelStudioError, match="LABEL_STUDIO_API_KEY is not set"):
        merge(label_studio_url=label_studio.url)
