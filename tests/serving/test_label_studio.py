"""Delivery into a real Label Studio: down for a whole run, and with a dispatcher that is killed again and again."""

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from reviewloop.label_studio import LabelStudioServer, ReviewProject
from reviewloop.problems import Problems
from reviewloop.records import ReviewItem
from reviewloop.task_types import task_type
from serving.review.outbox import Outbox
from tests.conftest import LabelStudioProcess
from tests.serving.conftest import Serving
from tests.serving.processes import Process, running, transformer, wait_until
from tests.serving.test_outbox import item

LABELS = ("negative", "neutral", "positive")
DELIVERY_TIMEOUT_S = 90.0


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    outbox = Outbox(f"sqlite:///{tmp_path / 'outbox.db'}")
    yield outbox
    outbox.close()


def make_project(label_studio: LabelStudioProcess, title: str) -> ReviewProject:
    task = task_type("text-classification", LABELS)
    server = LabelStudioServer(label_studio.url, label_studio.api_key)
    server.ensure_project(title, task, "", annotations_per_task=1)
    return ReviewProject(label_studio.url, label_studio.api_key, title, task)


def start_dispatcher(
    label_studio: LabelStudioProcess, outbox: Outbox, title: str, log: Path, *arguments: str
) -> Process:
    return Process(
        "serving.review.dispatcher",
        *("--outbox_url", str(outbox.engine.url), "--label_studio_url", label_studio.url, "--project", title),
        *arguments,
        log=log,
        LABEL_STUDIO_API_KEY=label_studio.api_key,
    )


def all_delivered(outbox: Outbox, count: int) -> None:
    wait_until(
        lambda: outbox.counts().delivered == count, f"{count} deliveries, at {outbox.counts()}", DELIVERY_TIMEOUT_S
    )


def test_an_outage_of_label_studio_loses_and_doubles_nothing(
    label_studio: LabelStudioProcess, serving: Serving, outbox: Outbox, tmp_path: Path
) -> None:
    project = make_project(label_studio, "outage")
    label_studio.stop()
    front = transformer(
        serving.predictor.url,
        tmp_path / "front.log",
        *("--outbox_url", str(outbox.engine.url), "--audit_rate", "0.2"),
    )
    dispatcher = start_dispatcher(label_studio, outbox, "outage", tmp_path / "log", "--settle_s", "2")
    try:
        with running(front, dispatcher):
            front.wait_until()
            texts = [f"the movie was {word} {n}" for word in ("great", "awful", "okay") for n in range(100)]
            with ThreadPoolExecutor(8) as clients:
                answers = list(clients.map(lambda text: front.predict(text)[0], texts * 2))
            routed = {a["review"]["key"]: a for a in answers if a["review"]["routed"]}
            assert len(answers) == 600
            assert {a["review"]["reason"] for a in answers} == {"low_confidence", "audit", None}
            assert outbox.counts().depth == len(routed)
            wait_until(lambda: "did not answer" in dispatcher.log, "the dispatcher to notice")
            label_studio.start()
            all_delivered(outbox, len(routed))
            assert "Items are delivered again" in dispatcher.log
    finally:
        label_studio.start()
    problems = Problems()
    tasks = list(project.tasks(problems))
    assert problems.summary() == {}
    assert sorted(task.item["key"] for task in tasks) == sorted(routed)
    for task in tasks:
        answer = routed[task.item["key"]]
        assert task.item["reason"] == answer["review"]["reason"]
        assert task.item["confidence"] == answer["score"]
        assert task.item["model_version"] == "v0001"
        assert task.text in texts
    assert "Traceback" not in dispatcher.log + front.log


def test_a_dispatcher_that_is_killed_again_and_again_delivers_exactly_once(
    label_studio: LabelStudioProcess, outbox: Outbox, tmp_path: Path
) -> None:
    project = make_project(label_studio, "killed")
    chance = random.Random(7)
    fed: list[ReviewItem] = []
    done = threading.Event()

    def feed() -> None:
        while not done.wait(chance.uniform(0.02, 0.2)):
            more = [item(len(fed) + number) for number in range(chance.randint(1, 20))]
            outbox.add(more)
            fed.extend(more)

    feeder = threading.Thread(target=feed)
    feeder.start()
    arguments = ("--settle_s", "3", "--batch_size", "25", "--max_backoff_s", "1")
    killed_in_flight = 0
    try:
        for number in range(5):
            log = tmp_path / f"dispatcher-{number}.log"
            dispatcher = start_dispatcher(label_studio, outbox, "killed", log, *arguments)
            wait_until(lambda d=dispatcher: "Delivering" in d.log, "the dispatcher")
            if number % 2 == 0:
                # Aim at imports under way: the rows of the last one are in flight when the next is claimed.
                seen = outbox.counts().delivered
                wait_until(lambda s=seen: outbox.counts().delivered > s and outbox.in_flight(), "an import", 30)
                time.sleep(chance.uniform(0.0, 0.02))
            else:
                time.sleep(chance.uniform(0.0, 4.0))
            dispatcher.popen.kill()
            dispatcher.wait()
            killed_in_flight += bool(outbox.in_flight())
    finally:
        done.set()
        feeder.join()
    with running(start_dispatcher(label_studio, outbox, "killed", tmp_path / "last.log", *arguments)):
        all_delivered(outbox, len(fed))
    keys = [task.item["key"] for task in project.tasks(Problems())]
    assert len(keys) == len(set(keys))
    assert sorted(keys) == sorted(i.key for i in fed)
    assert killed_in_flight > 0


def test_a_loop_file_is_all_that_a_dispatcher_needs(
    label_studio: LabelStudioProcess, outbox: Outbox, tmp_path: Path
) -> None:
    loop = tmp_path / "loop.yaml"
    loop.write_text(
        "name: from-a-file\n"
        "task: {type: multi-label-classification, labels: [delivery, price], instructions: Choose all that apply}\n"
        f"base_model: any\ndata: {{}}\ncluster: {{label_studio_url: '{label_studio.url}'}}\n",
        encoding="utf-8",
    )
    task = task_type("multi-label-classification", ("delivery", "price"))
    prediction = {"labels": ["price"], "probabilities": {"delivery": 0.2, "price": 0.6}}
    outbox.add([replace(item(number), prediction=prediction) for number in range(3)])
    dispatcher = Process(
        "serving.review.dispatcher",
        *("--loop", loop),
        log=tmp_path / "dispatcher.log",
        LABEL_STUDIO_API_KEY=label_studio.api_key,
        REVIEWLOOP_OUTBOX_URL=str(outbox.engine.url),
    )
    with running(dispatcher):
        all_delivered(outbox, 3)
    project = ReviewProject(label_studio.url, label_studio.api_key, "from-a-file", task)
    assert len(list(project.tasks(Problems()))) == 3
