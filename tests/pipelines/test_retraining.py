"""The retrain trigger: when it starts a run, when it does not, and that no death of it starts one twice."""

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client import REGISTRY

from pipelines.compilation import compile_training_pipeline
from pipelines.connection import Connection, PipelinesUnavailable
from pipelines.images import Images
from pipelines.kubeflow import TrainingPipeline
from pipelines.retrain_trigger import watch
from pipelines.retraining import Retraining
from pipelines.webhook import MAX_BODY, SECRET_HEADER, listening
from reviewloop.errors import LabelStudioUnavailable
from reviewloop.label_studio import ReviewProject
from reviewloop.registry import Lineage, Registry, VersionManifest
from reviewloop.spec import LoopSpec, load_spec
from reviewloop.task_types import task_type
from tests.fakes.kubeflow_pipelines_api import FakePipelinesApi
from tests.fakes.label_studio_counts import FakeReviewCounts, fake_review_counts
from tests.pipelines.conftest import BUCKET
from tests.serving.processes import Process, free_port, running, wait_until

SECRET = "a-shared-secret"


@pytest.fixture
def reviews(loop: LoopSpec) -> Iterator[FakeReviewCounts]:
    """The loop's Label Studio project."""
    with fake_review_counts(loop.name) as fake:
        yield fake


@pytest.fixture
def pipeline(loop: LoopSpec, pipelines_api: FakePipelinesApi, tmp_path: Path) -> TrainingPipeline:
    """The loop's pipeline, uploaded."""
    compile_training_pipeline(loop, tmp_path / "pipeline.yaml", Images("components", "serving"))
    uploaded = TrainingPipeline(loop, Connection())
    uploaded.upload(tmp_path / "pipeline.yaml", "v1", "")
    return uploaded


def manifest(version: str, annotations: int) -> VersionManifest:
    """A version trained on so many annotations."""
    return VersionManifest(
        version=version,
        registered_at="2026-01-01T00:00:00+00:00",
        verdict="refused",
        evaluation={},
        lineage=Lineage(
            dataset_hash="",
            annotation_snapshot=None,
            annotations=annotations,
            base_model="",
            parent=None,
            code_version="",
            image="",
            seed=1,
        ),
    )


class Trigger:
    """One under test, with a clock that the test sets."""

    def __init__(self, loop: LoopSpec, reviews: FakeReviewCounts, pipeline: TrainingPipeline, directory: Path) -> None:
        self.time = datetime.now(UTC)
        self.registry_directory = directory / "registry"
        task = task_type(loop.task.type, loop.task.labels)
        self._parts = (
            loop.retrain,
            ReviewProject(reviews.url, "key", loop.name, task),
            Registry(self.registry_directory.as_uri()),
            pipeline,
        )
        self.restart()

    def restart(self) -> None:
        """As after the death of the process: nothing that was in memory is left."""
        self._retraining = Retraining(*self._parts, now=lambda: self.time)

    def look(self, after_s: float = 0.0) -> float:
        """Look, so much later."""
        self.time += timedelta(seconds=after_s)
        return self._retraining.look()

    def register(self, version: str, annotations: int) -> None:
        """What a run of the pipeline leaves."""
        path = self.registry_directory / "versions" / version / "manifest.json"
        path.parent.mkdir(parents=True)
        path.write_text(manifest(version, annotations).model_dump_json(), encoding="utf-8")


@pytest.fixture
def trigger(loop: LoopSpec, reviews: FakeReviewCounts, pipeline: TrainingPipeline, tmp_path: Path) -> Trigger:
    """A trigger that wants 10 annotations, and a minute without another."""
    return Trigger(loop, reviews, pipeline, tmp_path)


def metric(name: str) -> float | None:
    """What /metrics says."""
    return REGISTRY.get_sample_value(name)


def test_it_starts_a_run_when_enough_is_new_and_no_more_comes(
    trigger: Trigger, reviews: FakeReviewCounts, pipelines_api: FakePipelinesApi
) -> None:
    trigger.look()
    reviews.annotations, reviews.finished = 9, 9
    trigger.look(300)
    trigger.look(300)
    assert pipelines_api.runs == {}
    reviews.annotations = 10
    assert trigger.look(300) == 60
    assert trigger.look(50) == 10
    reviews.annotations = 11
    assert trigger.look(9) == 60
    assert pipelines_api.runs == {}
    trigger.look(61)
    (run,) = pipelines_api.runs.values()
    assert run["description"] == "Started by the retrain trigger at 11 annotations."
    assert run["service_account"] == "reviewloop-pipeline"
    assert metric("reviewloop_annotations_new") == 11
    assert metric("reviewloop_review_tasks_open") == 91
    assert metric("reviewloop_label_studio_up") == 1
    assert metric("reviewloop_last_annotation_timestamp_seconds") == pytest.approx(
        (trigger.time - timedelta(seconds=61)).timestamp()
    )


def test_only_one_run_at_a_time_and_none_for_what_was_trained_on(
    trigger: Trigger, reviews: FakeReviewCounts, pipelines_api: FakePipelinesApi
) -> None:
    reviews.annotations = 30
    trigger.look()
    trigger.look(61)
    assert len(pipelines_api.runs) == 1
    reviews.annotations = 60
    trigger.look(61)
    trigger.look(61)
    assert len(pipelines_api.runs) == 1
    trigger.register("v0001", 60)
    pipelines_api.end_runs("SUCCEEDED")
    trigger.look(61)
    assert len(pipelines_api.runs) == 1
    assert metric("reviewloop_annotations_new") == 0
    reviews.annotations = 70
    trigger.look(61)
    trigger.look(61)
    assert len(pipelines_api.runs) == 2


def test_a_restart_starts_nothing_twice(
    trigger: Trigger, reviews: FakeReviewCounts, pipelines_api: FakePipelinesApi
) -> None:
    reviews.annotations, reviews.last_finished_at = 30, datetime.now(UTC) - timedelta(hours=1)
    pipelines_api.lose_answers = 1
    with pytest.raises(PipelinesUnavailable, match="answered 500"):
        trigger.look()  # The last annotation is an hour old, so there is nothing to wait for.
    trigger.restart()
    trigger.look()
    trigger.look(300)
    assert len(pipelines_api.runs) == 1
    # Too few of them were usable: the run trained nothing, and there is nothing new to try again with.
    pipelines_api.end_runs("SUCCEEDED")
    trigger.restart()
    trigger.look(300)
    assert len(pipelines_api.runs) == 1
    assert metric("reviewloop_annotations_new") == 0


def test_a_failed_run_is_repeated_later_and_later(
    trigger: Trigger, reviews: FakeReviewCounts, pipelines_api: FakePipelinesApi
) -> None:
    reviews.annotations, reviews.last_finished_at = 30, datetime.now(UTC) - timedelta(hours=1)
    trigger.look()
    for number, minutes in enumerate((15, 30, 60), start=1):
        pipelines_api.clock_offset = trigger.time - datetime.now(UTC)
        pipelines_api.end_runs("FAILED")
        trigger.restart()
        assert trigger.look(1) == pytest.approx(minutes * 60, abs=30)
        trigger.look(minutes * 60 - 60)
        assert len(pipelines_api.runs) == number
        trigger.look(90)
        assert len(pipelines_api.runs) == number + 1
    pipelines_api.end_runs("SUCCEEDED")
    reviews.annotations = 60
    trigger.look(61)
    trigger.look(61)
    assert len(pipelines_api.runs) == 5


def test_a_run_of_somebody_else_counts_too(
    trigger: Trigger, reviews: FakeReviewCounts, pipeline: TrainingPipeline, pipelines_api: FakePipelinesApi
) -> None:
    reviews.annotations, reviews.last_finished_at = 30, datetime.now(UTC) - timedelta(hours=1)
    earlier = pipelines_api.add_run(pipeline.id, "RUNNING", datetime.now(UTC) - timedelta(hours=3))
    for _ in range(120):  # Of other pipelines; more than a page.
        pipelines_api.add_run("another", "RUNNING", datetime.now(UTC))
    trigger.look()
    assert len(pipelines_api.runs) == 121
    earlier["state"] = "SUCCEEDED"
    trigger.look()
    assert len(pipelines_api.runs) == 122


def test_of_two_runs_started_in_one_moment_the_first_stays(
    trigger: Trigger, reviews: FakeReviewCounts, pipelines_api: FakePipelinesApi
) -> None:
    reviews.annotations, reviews.last_finished_at = 30, datetime.now(UTC) - timedelta(hours=1)
    pipelines_api.concurrent_run = True
    trigger.look()
    assert len(pipelines_api.runs) == 2
    (left,) = pipelines_api.active_runs
    assert left["display_name"] == "earlier"


def test_an_unreachable_label_studio_is_told_to_the_metrics(trigger: Trigger, reviews: FakeReviewCounts) -> None:
    trigger.look()
    reviews.down = True
    with pytest.raises(LabelStudioUnavailable):
        trigger.look()
    assert metric("reviewloop_label_studio_up") == 0


def test_trouble_is_logged_once_and_looked_through_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pipelines")
    looks: list[float] = []
    stopping = threading.Event()

    def look() -> float:
        looks.append(time.monotonic())
        if len(looks) == 5:
            stopping.set()
        if 1 < len(looks) < 4:
            raise LabelStudioUnavailable("Label Studio is away.")
        return 0.0

    watch(look, 0.01, threading.Event(), stopping, shortest_wait_s=0.001)
    assert [record.getMessage() for record in caplog.records] == [
        "Label Studio is away. Looking again later.",
        "Everything answers again.",
    ]


def test_a_hint_makes_it_look_sooner_but_not_at_once_again() -> None:
    hint, stopping = threading.Event(), threading.Event()
    looks: list[float] = []

    def look() -> float:
        looks.append(time.monotonic())
        return 60.0

    thread = threading.Thread(target=watch, args=(look, 60.0, hint, stopping, 0.1))
    thread.start()
    for _ in range(5):
        time.sleep(0.05)
        hint.set()
    time.sleep(0.15)
    stopping.set()
    hint.set()
    thread.join()
    assert 3 <= len(looks) <= 5
    assert min(later - earlier for earlier, later in pairwise(looks)) >= 0.09


def test_the_webhook_wants_the_secret(caplog: pytest.LogCaptureFixture) -> None:
    hints: list[int] = []
    with listening("127.0.0.1", 0, SECRET, lambda: hints.append(1)) as port:
        url = f"http://127.0.0.1:{port}"

        def post(
            path: str = "/webhook", secret: str | bytes | None = SECRET, content: bytes = b'{"action": "x"}'
        ) -> int:
            headers = {SECRET_HEADER: secret} if secret is not None else {}
            return httpx.post(url + path, headers=headers, content=content).status_code

        assert post() == 204
        assert hints == [1]
        assert post(secret=None) == 401
        assert [post(secret=wrong) for wrong in ("", "a-shared", SECRET + "x", b"\xc3\xa4")] == [403] * 4
        assert post(path="/") == 404
        assert post(content=b" " * (MAX_BODY + 1)) == 413
        assert hints == [1]
        assert httpx.get(f"{url}/healthz").status_code == 200
        assert "reviewloop_review_tasks_open" in httpx.get(f"{url}/metrics").text
        assert httpx.get(f"{url}/webhook").status_code == 404
    with listening("127.0.0.1", 0, "", lambda: hints.append(1)) as port:
        assert httpx.post(f"http://127.0.0.1:{port}/webhook", headers={SECRET_HEADER: ""}).status_code == 403
    assert hints == [1]
    assert SECRET not in caplog.text


def start(loop_file: Path, log: Path, port: int) -> Process:
    """The trigger's process."""
    arguments = ("--loop", loop_file, "--host", "127.0.0.1", "--port", port)
    return Process(
        "pipelines.retrain_trigger", *arguments, log=log, LABEL_STUDIO_API_KEY="key", RETRAIN_WEBHOOK_SECRET=SECRET
    )


def test_the_process_survives_its_death_and_ends_on_sigterm(
    loop_file: Path,
    reviews: FakeReviewCounts,
    pipeline: TrainingPipeline,
    pipelines_api: FakePipelinesApi,
    s3: Any,
    tmp_path: Path,
) -> None:
    document = yaml.safe_load(loop_file.read_text(encoding="utf-8"))
    document["cluster"] = {"label_studio_url": reviews.url, "registry_uri": f"s3://{BUCKET}/toy"}
    document["retrain"] |= {"poll_s": 3600}
    loop_file.write_text(yaml.safe_dump(document), encoding="utf-8")
    assert load_spec(loop_file).cluster_label_studio_url == reviews.url
    s3.put_object(
        Bucket=BUCKET,
        Key="toy/versions/v0001/manifest.json",
        Body=json.dumps(manifest("v0001", 100).model_dump()).encode(),
    )
    reviews.annotations, reviews.last_finished_at = 200, datetime.now(UTC) - timedelta(hours=1)
    first = start(loop_file, tmp_path / "first", free_port())
    # Killed by the API itself, before it has the answer to its start of a run.
    original = pipelines_api.create_run

    def kill(body: dict[str, Any]) -> dict[str, Any]:
        made = original(body)
        os.kill(first.popen.pid, signal.SIGKILL)
        return made

    pipelines_api.create_run = kill  # type: ignore[method-assign]
    with running(first):
        assert first.wait() == -signal.SIGKILL
    pipelines_api.create_run = original  # type: ignore[method-assign]
    assert len(pipelines_api.runs) == 1
    port = free_port()
    second = start(loop_file, tmp_path / "second", port)
    with running(second):
        wait_until(lambda: "a run is under way already" in second.log, f"the second look; its log: {second.log}", 30)
        second.stop()
        assert second.wait() == 0
    assert len(pipelines_api.runs) == 1
    assert "Traceback" not in first.log + second.log
    assert SECRET not in second.log


def test_without_an_api_key_the_process_says_so(loop_file: Path, tmp_path: Path) -> None:
    process = Process("pipelines.retrain_trigger", "--loop", loop_file, log=tmp_path / "log", LABEL_STUDIO_API_KEY="")
    assert process.wait() == 2
    assert "LABEL_STUDIO_API_KEY is not set" in process.log
