"""``reviewloop pipeline``: every command against a Kubeflow Pipelines API."""

import io
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from local import pipeline_commands
from local.cli import app
from pipelines import progress
from pipelines.connection import PipelinesError, PipelinesUnavailable
from reviewloop.errors import ReviewLoopError, SpecError
from tests.fakes.kubeflow_pipelines_api import FakePipelinesApi, Frame

Command = Callable[..., str]

MERGED = {"data-merge": "SUCCEEDED"}
REGISTERED = MERGED | {"finetune": "SUCCEEDED", "evaluate": "SUCCEEDED", "register": "SUCCEEDED"}
PROMOTED = [
    Frame("PENDING"),
    Frame("RUNNING", {"data-merge": "RUNNING"}),
    Frame("RUNNING", MERGED | {"finetune": "RUNNING"}),
    Frame("RUNNING", REGISTERED | {"deploy": "RUNNING"}),
    Frame("SUCCEEDED", REGISTERED | {"deploy": "SUCCEEDED"}),
]
REFUSED = [Frame("SUCCEEDED", REGISTERED)]
SKIPPED = [Frame("SUCCEEDED", MERGED | {"finetune": "SKIPPED"})]
FAILED = [Frame("RUNNING", MERGED), Frame("FAILED", MERGED | {"finetune": "FAILED:OOMKilled (exit code 137)"})]


class Failed(Exception):
    """A command that ended with another status than 0."""


@pytest.fixture
def command(loop_file: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run one of the commands on the loop; what it printed. A refusal is raised, as `main` gets it."""
    monkeypatch.setattr(progress, "POLL_S", 0.01)

    def run(name: str, *arguments: str) -> str:
        monkeypatch.setattr(pipeline_commands.console.rich, "file", printed := io.StringIO())
        status = app(["pipeline", name, "--loop", str(loop_file), *arguments], standalone_mode=False)
        if status:
            raise Failed(printed.getvalue())
        return printed.getvalue()

    return run


@pytest.fixture
def uploaded(command: Command, s3: Any, pipelines_api: FakePipelinesApi) -> FakePipelinesApi:
    """A server that has the pipeline."""
    command("upload")
    return pipelines_api


def test_an_upload_makes_the_pipeline_and_then_versions_of_it(
    command: Command, uploaded: FakePipelinesApi, loop_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pipeline,) = uploaded.pipelines.values()
    assert pipeline["display_name"] == "toy-training"
    (first,) = uploaded.versions
    parameters = uploaded.package(first)["root"]["inputDefinitions"]["parameters"]
    assert all("defaultValue" in p or p.get("isOptional") for p in parameters.values())
    defaults = {name: parameter.get("defaultValue") for name, parameter in parameters.items()}
    assert defaults["registry_uri"] == "s3://reviewloop/toy"
    assert defaults["base_model"].startswith("s3://reviewloop/toy/inputs/")
    assert defaults["data"]["source"].startswith("s3://reviewloop/toy/inputs/")
    assert defaults["data"]["test_sets"]["other"].startswith("s3://reviewloop/toy/inputs/")
    monkeypatch.setattr(pipeline_commands, "code_version", lambda: "abc1234")
    said = command("upload")
    assert "Added to the pipeline toy-training" in said and "abc1234" in said and "Copying" not in said
    assert len(uploaded.pipelines) == 1
    assert len({version["name"] for version in uploaded.versions.values()}) == 2


def test_two_uploads_in_one_second_are_told_apart(
    command: Command, uploaded: FakePipelinesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime(2026, 1, 2, 3, 4, 5, tzinfo=tz)

    monkeypatch.setattr(pipeline_commands, "datetime", Stopped)
    command("upload")
    with pytest.raises(PipelinesError, match=r"has a version 2026-01-02-030405-\w+ already"):
        command("upload")


def test_images_come_from_the_manifests_file(
    command: Command, s3: Any, pipelines_api: FakePipelinesApi, tmp_path: Path
) -> None:
    images = tmp_path / "kustomization.yaml"
    digest = "sha256:" + "a" * 64
    images.write_text(
        "images:\n"
        f"- {{name: ghcr.io/reviewloop/components, newName: registry.example.com/c, digest: {digest}}}\n"
        "- {name: ghcr.io/reviewloop/serving, newName: registry.example.com/s, newTag: v1}\n"
    )
    assert "is a tag" in command("upload", "--images", str(images))
    (version,) = pipelines_api.versions
    executors = pipelines_api.package(version)["deploymentSpec"]["executors"]
    assert {e["container"]["image"] for e in executors.values()} == {f"registry.example.com/c@{digest}"}
    images.write_text("images: [{newName: x}]")
    with pytest.raises(SpecError, match="`make push` writes it"):
        command("upload", "--images", str(images))


def test_a_run_shows_its_steps_and_ends_with_the_link_and_the_verdict(
    command: Command, uploaded: FakePipelinesApi
) -> None:
    uploaded.next_frames = list(PROMOTED)
    said = command("run")
    (run,) = uploaded.runs.values()
    assert run["service_account"] == "reviewloop-pipeline"
    assert run["pipeline_version_reference"]["pipeline_version_id"] in uploaded.versions
    lines = [" ".join(line.split()) for line in said.splitlines()]
    assert lines.index("data-merge started") < lines.index("finetune started") < lines.index("deploy started")
    assert any(line.startswith("finetune succeeded in ") for line in lines)
    assert lines[-2] == "promoted: The new version was better, and serves."
    assert lines[-1] == f"{uploaded.url}/#/runs/details/{run['run_id']}"
    assert "root-driver" not in said


@pytest.mark.parametrize(("frames", "verdict"), [(REFUSED, "refused"), (SKIPPED, "skipped")])
def test_a_run_that_promotes_nothing_has_done_its_work(
    command: Command, uploaded: FakePipelinesApi, frames: list[Frame], verdict: str
) -> None:
    uploaded.next_frames = list(frames)
    assert f"{verdict}: " in command("run")


def test_a_failed_run_names_the_step_and_fails_the_command(command: Command, uploaded: FakePipelinesApi) -> None:
    uploaded.next_frames = list(FAILED)
    with pytest.raises(Failed, match=r"failed: Step finetune failed: OOMKilled \(exit code 137\)\.\n"):
        command("run")


def test_a_terminated_run_fails_the_command(command: Command, uploaded: FakePipelinesApi) -> None:
    uploaded.next_frames = [Frame("RUNNING"), Frame("CANCELED", MERGED)]
    with pytest.raises(Failed, match="canceled: Somebody terminated the run"):
        command("run")


def test_a_server_that_is_away_for_a_moment_is_waited_for(command: Command, uploaded: FakePipelinesApi) -> None:
    uploaded.next_frames = list(PROMOTED)
    _once_a_run_is_there(uploaded, lambda: (setattr(uploaded, "down", True), time.sleep(0.2)))
    said = command("run")
    assert said.count("Waiting for it; the run goes on") <= 1
    assert "promoted: " in said


def _once_a_run_is_there(api: FakePipelinesApi, act: Callable[[], Any]) -> None:
    def wait() -> None:
        while not api.runs:
            time.sleep(0.005)
        act()
        api.down = False

    threading.Thread(target=wait, daemon=True).start()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, as under `main`, also where the shell that started the tests had it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_stops_the_waiting_and_not_the_run(command: Command, uploaded: FakePipelinesApi) -> None:
    _once_a_run_is_there(uploaded, lambda: (time.sleep(0.1), os.kill(os.getpid(), signal.SIGINT)))
    with pytest.raises(Failed, match="No longer waiting; the run goes on"):
        command("run")
    assert len(uploaded.active_runs) == 1


def test_no_wait_starts_only(command: Command, uploaded: FakePipelinesApi) -> None:
    assert "/#/runs/details/" in command("run", "--no-wait")
    assert len(uploaded.active_runs) == 1


def test_a_run_wants_a_pipeline(command: Command, pipelines_api: FakePipelinesApi) -> None:
    with pytest.raises(PipelinesError, match="no pipeline toy-training yet: `reviewloop pipeline upload`"):
        command("run")


def test_a_schedule_replaces_the_one_before(command: Command, uploaded: FakePipelinesApi) -> None:
    said = command("schedule", "--cron", "0 0 2 * * *")
    assert said.count("02:00:00 UTC") == 3
    assert "replaced the schedule" in command("schedule", "--cron", "0 30 3 * * *")
    (recurring,) = uploaded.recurring_runs.values()
    assert recurring["trigger"]["cron_schedule"]["cron"] == "0 30 3 * * *"
    assert (recurring["no_catchup"], recurring["max_concurrency"], recurring["mode"]) == (True, "1", "ENABLE")
    assert recurring["service_account"] == "reviewloop-pipeline"
    assert not recurring["pipeline_version_reference"].get("pipeline_version_id")  # The newest at that time.
    # The new one was there before the old one went.
    changes = [r for r in uploaded.requests if r.startswith(("POST", "DELETE")) and "recurringruns" in r]
    assert [r.split()[0] for r in changes] == ["POST", "POST", "DELETE"]


def test_a_schedule_that_could_not_be_tidied_up_is_by_the_next(command: Command, uploaded: FakePipelinesApi) -> None:
    command("schedule", "--cron", "@daily")
    uploaded.refuse_deletes = True
    with pytest.raises(PipelinesUnavailable, match="answered 500"):
        command("schedule", "--cron", "@weekly")
    assert len(uploaded.recurring_runs) == 2
    uploaded.refuse_deletes = False
    assert "replaced 2 schedules" in command("schedule", "--cron", "@weekly")
    assert len(uploaded.recurring_runs) == 1


def test_a_five_field_line_is_refused_before_anything_is_asked(command: Command, uploaded: FakePipelinesApi) -> None:
    asked = len(uploaded.requests)
    with pytest.raises(ReviewLoopError, match='--cron "0 0 2 \\* \\* \\*"'):
        command("schedule", "--cron", "0 2 * * *")
    assert len(uploaded.requests) == asked


def test_unscheduling_leaves_the_schedules_of_others(command: Command, uploaded: FakePipelinesApi) -> None:
    command("schedule", "--cron", "@daily")
    (ours,) = uploaded.recurring_runs.values()
    other = ours | {"recurring_run_id": "other", "pipeline_version_reference": {"pipeline_id": "another"}}
    uploaded.recurring_runs["other"] = other
    assert "Removed the schedule of toy-training" in command("unschedule")
    assert set(uploaded.recurring_runs) == {"other"}
    assert "has no schedule" in command("unschedule")


def test_the_status_shows_what_is_there(command: Command, uploaded: FakePipelinesApi) -> None:
    said = command("status")
    assert "No run yet." in said and "none" in said
    assert "unknown: The environment variable LABEL_STUDIO_API_KEY is not set" in said
    for frames in (PROMOTED[-1:], FAILED[-1:]):
        uploaded.next_frames = list(frames)
        if frames[0].state == "FAILED":
            with pytest.raises(Failed):
                command("run")
        else:
            command("run")
    command("run", "--no-wait")
    command("schedule", "--cron", "0 0 2 * * *")
    said = command("status")
    (version,) = uploaded.versions.values()
    assert version["display_name"] in said
    assert "0 0 2 * * *, next at " in said
    outcomes = [line.split()[-1] for line in said.splitlines() if line.strip().startswith("toy 20")]
    assert outcomes == ["pending", "failed", "promoted"]


def test_a_multi_user_server_gets_the_profile_namespace(
    command: Command, s3: Any, pipelines_api: FakePipelinesApi, loop_file: Path
) -> None:
    pipelines_api.multi_user = True
    with pytest.raises(PipelinesError, match=r"set cluster\.pipeline_namespace"):
        command("upload")
    document = loop_file.read_text(encoding="utf-8")
    loop_file.write_text(document + "cluster: {pipeline_namespace: team}\n", encoding="utf-8")
    command("upload")
    pipelines_api.next_frames = list(PROMOTED)
    command("run")
    command("schedule", "--cron", "@daily")
    assert {r["namespace"] for r in (*pipelines_api.runs.values(), *pipelines_api.recurring_runs.values())} == {"team"}
    assert "promoted" in command("status")
    loop_file.write_text(document + "cluster: {pipeline_namespace: other}\n", encoding="utf-8")
    with pytest.raises(PipelinesError, match=r"forbids that .* not authorized in namespace other"):
        command("run")


def test_a_single_user_server_gets_no_namespace(
    command: Command, s3: Any, pipelines_api: FakePipelinesApi, loop_file: Path
) -> None:
    with loop_file.open("a", encoding="utf-8") as file:
        file.write("cluster: {pipeline_namespace: team}\n")
    command("upload")
    assert {p["namespace"] for p in pipelines_api.pipelines.values()} == {""}


def test_who_asks_is_taken_from_the_environment_or_the_pod(
    command: Command, uploaded: FakePipelinesApi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    uploaded.token = "right"
    with pytest.raises(PipelinesError, match=r"\(401\)\. Put a token into REVIEWLOOP_KFP_TOKEN or a session cookie"):
        command("status")
    monkeypatch.setenv("REVIEWLOOP_KFP_TOKEN", "wrong")
    with pytest.raises(PipelinesError, match=r"\(401\)") as caught:
        command("status")
    assert "wrong" not in str(caught.value)
    monkeypatch.setenv("REVIEWLOOP_KFP_TOKEN", "right")
    command("status")
    monkeypatch.delenv("REVIEWLOOP_KFP_TOKEN")
    (tmp_path / "token").write_text("right\n")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    command("status")
    monkeypatch.delenv("KF_PIPELINES_SA_TOKEN_PATH")
    uploaded.token, uploaded.cookie = None, "authservice_session=abc"
    monkeypatch.setenv("REVIEWLOOP_KFP_COOKIE", "authservice_session=abc")
    command("status")


def test_a_server_that_is_not_there_or_not_one_is_a_sentence(
    command: Command, pipelines_api: FakePipelinesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PipelinesUnavailable, match="does not answer"):
        command("status", "--endpoint", "http://127.0.0.1:1")
    with pytest.raises(PipelinesError, match=r"\(404\).*Check that --endpoint is its root"):
        command("status", "--endpoint", f"{pipelines_api.url}/wrong")
    pipelines_api.down = True
    with pytest.raises(PipelinesUnavailable, match="answered 503"):
        command("status")
    pipelines_api.down, pipelines_api.login_page = False, True
    with pytest.raises(PipelinesError, match="perhaps it is a login page"):
        command("status")
    for address in ("", "localhost:8888"):
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", address)
        with pytest.raises(PipelinesError, match=r"Expected the http:// or https:// address.*port-forward"):
            command("status")


def test_the_home_directory_is_left_alone(
    command: Command, uploaded: FakePipelinesApi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    command("run", "--no-wait")
    assert list(home.iterdir()) == []
