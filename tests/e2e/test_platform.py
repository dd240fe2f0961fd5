"""The platform under bad luck: killed parts, interrupts, commands out of order. A tiny model, but real parts."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from local.platform import Platform, PlatformState
from reviewloop.problems import Problems
from reviewloop.spec import LoopSpec, load_spec
from tests.e2e.conftest import processes_of
from tests.tiny_model import write_tiny_encoder

LABELS = ("negative", "neutral", "positive")
SENTENCES = {
    "negative": ("awful {} , i hate it", "the {} broke , never again"),
    "neutral": ("it is a {}", "the {} is okay"),
    "positive": ("great {} , i love it", "the {} works very good"),
}


@pytest.fixture(scope="module")
def loop(checkout: Path) -> Path:
    """A loop on a tiny encoder that reviews nearly everything."""
    write_tiny_encoder(checkout / "tiny-encoder")
    rows = [
        json.dumps({"text": f"{sentence.format(noun)} {number}", "label": label})
        for label, sentences in SENTENCES.items()
        for sentence in sentences
        for noun in ("film", "phone", "battery", "story")
        for number in range(5)
    ]
    (checkout / "base.jsonl").write_text("\n".join(rows) + "\n")
    spec = {
        "name": "tiny",
        "task": {"labels": list(LABELS), "instructions": "How does it sound?"},
        "base_model": "tiny-encoder",
        "data": {"name": "tiny", "source": "base.jsonl", "test_fraction": 0.3, "validation_fraction": 0.2},
        "review": {"threshold": 1.0, "audit_rate": 0.1},
        "training": {"epochs": 1, "batch_size": 8, "max_length": 32},
        "retrain": {"min_new_annotations": 10},
        "probes": ["the phone works"],
    }
    path = checkout / "loop.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path


def reviewloop(
    checkout: Path, environment: dict[str, str], *arguments: str, succeeds: bool = True
) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        ["reviewloop", *arguments],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert (result.returncode == 0) is succeeds, result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    return result


def platform_of(checkout: Path, loop: Path) -> Platform:
    return Platform(load_spec(loop), checkout / "build" / "loops" / "tiny")


def part(checkout: Path, name: str) -> psutil.Process:
    state = PlatformState.load(checkout / "build" / "loops" / "tiny" / "platform.json")
    assert state
    return psutil.Process(next(p.pid for p in state.parts if p.name == name))


@pytest.mark.timeout(600)
def test_a_platform_survives_killed_parts_and_restarts(checkout: Path, loop: Path, environment: dict[str, str]) -> None:
    up = reviewloop(checkout, environment, "up", "--loop", "loop.yaml")
    curl = re.search(r"^curl .*$", up.stdout, flags=re.MULTILINE)
    assert curl, up.stdout
    answer = subprocess.run(["bash", "-c", curl[0]], capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout)["predictions"][0]["model_version"] == "v0001"

    # Texts keep coming while the dispatcher is killed again and again.
    texts = [f"the film number {n} is okay" for n in range(300)]
    (checkout / "texts.txt").write_text("\n".join(texts))
    for start in range(0, 300, 100):
        (checkout / "some.txt").write_text("\n".join(texts[start : start + 100]))
        reviewloop(checkout, environment, "traffic", "--loop", "loop.yaml", "--file", "some.txt")
        time.sleep(random.uniform(0.0, 0.6))
        part(checkout, "dispatcher").send_signal(signal.SIGKILL)
        again = reviewloop(checkout, environment, "up", "--loop", "loop.yaml")
        assert "Starting dispatcher\n" in again.stdout

    # All of them are there, exactly once, with what must travel along.
    platform = platform_of(checkout, loop)
    project = platform.project
    deadline = time.monotonic() + 60
    while project.counts().tasks < 301 and time.monotonic() < deadline:
        time.sleep(0.5)
    tasks = list(project.tasks(Problems()))
    assert sorted(task.text for task in tasks) == sorted([*texts, "It works, I suppose."])
    assert {task.item["reason"] for task in tasks} == {"low_confidence"}
    assert all(task.item["model_version"] == "v0001" and task.item["propensity"] == 1.0 for task in tasks)

    # A killed predictor: 503 at once, and everything as before after the next `up`.
    part(checkout, "predictor").send_signal(signal.SIGKILL)
    response = httpx.post(f"{platform.endpoint}/v1/models/tiny:predict", json={"instances": ["a film"]}, timeout=5.0)
    assert response.status_code == 503
    assert "retry-after" in response.headers
    reviewloop(checkout, environment, "up", "--loop", "loop.yaml")

    # People answer; training runs; the status tells.
    for task_id, text in list(project.open_tasks())[:40]:
        project.annotate(task_id, text, "positive" if "1" in text else "negative", reviewer=1)
    trained = reviewloop(checkout, environment, "train", "--loop", "loop.yaml")
    assert "40 annotations are new since v0001" in trained.stdout
    status = reviewloop(checkout, environment, "status", "--loop", "loop.yaml").stdout
    assert re.search(r"last verdict\s+v0002 (promoted|refused)", status)
    assert re.search(r"tasks waiting\s+261 of 301", status)
    assert re.search(r"annotations since the last training\s+0", status)
    skipped = reviewloop(checkout, environment, "train", "--loop", "loop.yaml")
    assert "Training is skipped: 0 annotations are new since v0002" in skipped.stdout

    reviewloop(checkout, environment, "down", "--loop", "loop.yaml")
    assert processes_of(checkout) == []
    assert "nothing" in reviewloop(checkout, environment, "status", "--loop", "loop.yaml").stdout


@pytest.mark.timeout(120)
@pytest.mark.parametrize("interrupt", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing_behind(
    checkout: Path, environment: dict[str, str], interrupt: signal.Signals
) -> None:
    command = subprocess.Popen(
        ["reviewloop", "demo", "--state", "build/interrupted"],
        cwd=checkout,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert command.stdout
    seen = ""
    for line in command.stdout:
        seen += line
        if "Fine-tuning on" in line:
            break
    os.killpg(command.pid, interrupt) if interrupt == signal.SIGINT else command.send_signal(interrupt)
    rest, _ = command.communicate(timeout=60)
    assert command.returncode == 130, seen + rest
    assert "Traceback" not in seen + rest
    assert processes_of(checkout) == []


def test_a_broken_loop_names_the_field(checkout: Path, environment: dict[str, str]) -> None:
    (checkout / "broken.yaml").write_text("name: tiny\ntask: {labels: [one]}\nbase_model: x\ndata: {}\nextra: 1\n")
    result = reviewloop(checkout, environment, "up", "--loop", "broken.yaml", succeeds=False)
    assert "task.labels" in result.stderr
    assert "extra: there is no such field" in result.stderr
    assert result.returncode == 1


def test_commands_before_up_say_what_to_do(checkout: Path, environment: dict[str, str]) -> None:
    for command in ("traffic", "review", "train", "report"):
        result = reviewloop(checkout, environment, command, "--state", "build/never", succeeds=False)
        assert "reviewloop up" in result.stderr, command


def test_every_spec_example_is_valid(checkout: Path) -> None:
    files = [path for path in (checkout / "examples").glob("*.yaml") if path.stem != "kustomization"]
    specs = [load_spec(path) for path in files]
    assert all(isinstance(spec, LoopSpec) for spec in specs)
    assert len(specs) >= 2


def test_an_interrupt_that_a_library_swallows_ends_the_command_all_the_same() -> None:
    script = (
        "import local.cli, signal, time\n"
        "local.cli.INTERRUPT_TIMEOUT_S = 0.5\n"
        "signal.signal(signal.SIGINT, local.cli._interrupt)\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    try:\n"
        "        time.sleep(60)\n"
        "    except KeyboardInterrupt:\n"
        "        pass\n"
    )
    command = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert command.stdout
    command.stdout.readline()
    command.send_signal(signal.SIGINT)
    _, errors = command.communicate(timeout=30)
    assert command.returncode == 130
    assert "Interrupted" in errors
