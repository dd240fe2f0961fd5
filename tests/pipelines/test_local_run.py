"""The training pipeline run for real: KFP's local runner, a real Label Studio, a real predictor, a tiny model."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.local_run import PipelineFailed, run_training_pipeline
from reviewloop.label_studio import LabelStudioServer, ReviewProject
from reviewloop.registry import Registry
from reviewloop.spec import LoopSpec, parse_spec
from reviewloop.task_types import task_type
from tests.components.toy_task import toy_examples
from tests.conftest import LabelStudioProcess
from tests.reviewloop.review_items import review_item
from tests.serving.processes import MODEL, Server, predictor, running
from tests.tiny_model import LABELS

TASK = task_type("text-classification", LABELS)


@pytest.fixture
def spec(tiny_encoder: Path, tmp_path: Path) -> LoopSpec:
    """A loop whose base data are a small CSV file."""
    with (tmp_path / "toy.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        rows.writerows([e.text, e.label] for e in toy_examples(250))
    return parse_spec(
        {
            "name": MODEL,
            "task": {"labels": list(LABELS)},
            "base_model": str(tiny_encoder),
            "data": {"source": str(tmp_path / "toy.csv"), "test_fraction": 0.3, "validation_fraction": 0.2},
            "training": {"epochs": 0.01, "learning_rate": 2e-3, "batch_size": 8, "max_length": 32},
            "retrain": {"min_new_annotations": 3},
            "probes": ["the film was good"],
        }
    )


class Loop:
    """The pipeline of one loop, and everything it said."""

    def __init__(self, spec: LoopSpec, directory: Path, **arguments: Any) -> None:
        self.spec = spec
        self._directory = directory
        self._arguments = {"registry_uri": (directory / "registry").as_uri(), "label_studio_url": ""} | arguments
        self.registry = Registry(self._arguments["registry_uri"])
        self.log = directory / "logs" / "training.log"
        self.progress: list[tuple[str, str]] = []

    def run(self, **arguments: Any) -> None:
        """Run it once."""
        self.progress.clear()
        run_training_pipeline(
            self.spec,
            self._arguments | arguments,
            pipeline_root=self._directory / "pipeline",
            log=self.log,
            report_progress=lambda step, line: self.progress.append((step, line)),
        )

    def metadata(self, step: str, output: str) -> dict[str, Any]:
        """What the dashboard draws of an output of the last run."""
        written = max((self._directory / "pipeline").glob(f"*/{step}/executor_output.json"))
        (artifact,) = json.loads(written.read_text(encoding="utf-8"))["artifacts"][output]["artifacts"]
        return dict(artifact["metadata"])

    @property
    def steps(self) -> list[str]:
        """The steps that ran last, in order."""
        return list(dict.fromkeys(step for step, _ in self.progress))

    @property
    def lines(self) -> list[str]:
        """What their own code printed."""
        return [line for _, line in self.progress if line]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A predictor without a model yet."""
    (tmp_path / "serving").mkdir()
    process = predictor(tmp_path / "serving" / "current", tmp_path / "predictor.log")
    with running(process):
        yield process


@pytest.fixture
def project(label_studio: LabelStudioProcess, monkeypatch: pytest.MonkeyPatch) -> ReviewProject:
    """The loop's Label Studio project, empty, with the API key where the steps look for it."""
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", label_studio.api_key)
    LabelStudioServer(label_studio.url, label_studio.api_key).ensure_project(MODEL, TASK, "", annotations_per_task=1)
    return ReviewProject(label_studio.url, label_studio.api_key, MODEL, TASK)


def test_the_loop_goes_round_training_skipping_and_training_again(
    spec: LoopSpec, server: Server, project: ReviewProject, label_studio: LabelStudioProcess, tmp_path: Path
) -> None:
    loop = Loop(
        spec,
        tmp_path,
        label_studio_url=label_studio.url,
        predictor_url=server.url,
        serving_dir=str(tmp_path / "serving"),
    )

    loop.run()
    assert loop.steps == ["data-merge", "finetune", "evaluate", "register", "deploy"]
    assert "No version exists yet: training the first one." in loop.lines
    assert "Registered v0001 (promoted)" in loop.lines
    assert loop.registry.champion() == "v0001"
    assert server.predict("the film was good")[0]["model_version"] == "v0001"

    loop.run()
    assert loop.steps == ["data-merge"]
    assert loop.lines == [
        "Training is skipped: 0 annotations are new since v0001, and retrain.min_new_annotations is 3."
    ]
    assert loop.registry.versions() == ["v0001"]

    reviewed = toy_examples(3, start=250)
    task_ids = project.import_items([review_item(e.text, e.label) for e in reviewed])
    reviewer = LabelStudioServer(label_studio.url, label_studio.api_key).ensure_reviewers(["one@example.com"])
    for task_id, example in zip(task_ids, reviewed, strict=True):
        project.annotate(task_id, example.text, example.label, reviewer["one@example.com"])
    # A parameter of the run stands above the loop's setting: this time the model is given time to learn.
    loop.run(epochs=40.0)
    assert "3 annotations are new since v0001: training." in loop.lines
    assert "Registered v0002 (promoted)" in loop.lines
    assert loop.registry.champion() == "v0002"
    manifest = loop.registry.manifest("v0002")
    measured = manifest.evaluation["test_sets"]["base"]["challenger"]
    drawn = loop.metadata("evaluate", "classification")
    assert [row["row"] for row in drawn["confusionMatrix"]["rows"]] == measured["confusion"]["counts"]
    assert drawn["confidenceMetrics"][-1]["recall"] == 1.0
    assert loop.metadata("evaluate", "metrics")["base_score"] == pytest.approx(measured["score"])
    assert loop.metadata("data-merge", "summary")["reviews_new_annotations"] == 3
    assert loop.metadata("finetune", "metrics")["review_threshold"] == manifest.evaluation["threshold"]
    assert (manifest.lineage.parent, manifest.lineage.annotations) == ("v0001", 3)
    assert manifest.evaluation["test_sets"]["base"]["difference"]["low"] > 0
    answer = server.predict("the film was good")[0]
    assert (answer["label"], answer["model_version"]) == ("positive", "v0002")
    assert loop.registry.report("v0002").lstrip().lower().startswith(b"<!doctype html>")
    assert "Traceback" not in loop.log.read_text(encoding="utf-8")


def failure(loop: Loop, **arguments: Any) -> str:
    """What a person reads of a run that fails; never a stack trace, also not as progress."""
    with pytest.raises(PipelineFailed) as caught:
        loop.run(**arguments)
    assert loop.steps == ["data-merge"]
    assert loop.lines == []
    assert "Traceback" in loop.log.read_text(encoding="utf-8")
    sentence = str(caught.value)
    assert "Traceback" not in sentence
    assert "\n" not in sentence
    assert sentence.startswith("Step data-merge failed: ")
    assert sentence.endswith(f" The whole output is in {loop.log}.")
    return sentence.removeprefix("Step data-merge failed: ").removesuffix(f" The whole output is in {loop.log}.")


def test_a_step_that_fails_is_named_with_what_it_said(spec: LoopSpec, tmp_path: Path) -> None:
    (tmp_path / "toy.csv").write_text("text,label\nNice,great\n", encoding="utf-8")
    assert failure(Loop(spec, tmp_path)) == (
        f"{tmp_path / 'toy.csv'}, row 1, field 'label': expected one of negative, neutral, positive, got 'great'."
    )


def test_the_last_of_several_stack_traces_says_what_failed(
    spec: LoopSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "any")
    assert failure(Loop(spec, tmp_path), label_studio_url="http://127.0.0.1:1") == (
        "Label Studio at http://127.0.0.1:1 did not answer (ConnectError). Is it running?"
    )


def test_an_error_of_another_library_keeps_its_name(spec: LoopSpec, tmp_path: Path) -> None:
    loop = Loop(spec, tmp_path)
    manifest = tmp_path / "registry" / "versions" / "v0001" / "manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}", encoding="utf-8")
    assert "ValidationError: 5 validation errors for VersionManifest" in failure(loop)


def test_progress_may_be_printed(spec: LoopSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = {"registry_uri": (tmp_path / "registry").as_uri(), "label_studio_url": ""}
    (tmp_path / "toy.csv").write_text("text,label\n", encoding="utf-8")
    with pytest.raises(PipelineFailed, match="The training data have no example of negative"):
        run_training_pipeline(spec, arguments, tmp_path / "pipeline", tmp_path / "log", print)
    assert capsys.readouterr().out == "data-merge \n"
