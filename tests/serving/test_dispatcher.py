"""The dispatcher against a Label Studio that fails at chosen moments."""

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reviewloop.label_studio import ReviewProject
from reviewloop.task_types import task_type
from serving.review.dispatcher import Dispatcher, DispatchSettings
from serving.review.outbox import Outbox
from tests.serving.fake_label_studio import PROJECT, FakeLabelStudio, fake_label_studio
from tests.serving.processes import Process, running, wait_until
from tests.serving.test_outbox import item

SETTINGS = DispatchSettings(batch_size=10, poll_s=0.02, settle_s=0.3, max_backoff_s=0.3)


@pytest.fixture
def label_studio_fake() -> Iterator[FakeLabelStudio]:
    with fake_label_studio() as fake:
        yield fake


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    outbox = Outbox(f"sqlite:///{tmp_path / 'outbox.db'}")
    yield outbox
    outbox.close()


def review_project(fake: FakeLabelStudio) -> ReviewProject:
    return ReviewProject(fake.url, "key", PROJECT, task_type("text-classification", ("a", "b")))


class Running:
    """A dispatcher on a thread, stopped at the end of the ``with``."""

    def __init__(self, outbox: Outbox, fake: FakeLabelStudio) -> None:
        self.stopping = threading.Event()
        dispatcher = Dispatcher(outbox, review_project(fake), SETTINGS, self.stopping)
        self._thread = threading.Thread(target=dispatcher.run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self.stopping.set()
        self._thread.join()


def delivered(outbox: Outbox, count: int) -> None:
    wait_until(lambda: outbox.counts().delivered == count, f"{count} deliveries, at {outbox.counts()}", 20)


def test_items_arrive_in_batches_in_order(outbox: Outbox, label_studio_fake: FakeLabelStudio) -> None:
    items = [item(number) for number in range(25)]
    outbox.add(items)
    with Running(outbox, label_studio_fake):
        delivered(outbox, 25)
        outbox.add([item(25)])
        delivered(outbox, 26)
    assert label_studio_fake.task_keys() == [*(i.key for i in items), item(25).key]
    assert label_studio_fake.imports == [10, 10, 5, 1]


def test_an_answer_that_is_lost_sends_nothing_twice(outbox: Outbox, label_studio_fake: FakeLabelStudio) -> None:
    outbox.add([item(number) for number in range(25)])
    label_studio_fake.lose_answers = 2
    with Running(outbox, label_studio_fake):
        delivered(outbox, 25)
    assert sorted(label_studio_fake.task_keys()) == sorted(item(number).key for number in range(25))


def test_an_import_that_takes_effect_late_is_waited_for(outbox: Outbox, label_studio_fake: FakeLabelStudio) -> None:
    outbox.add([item(number) for number in range(5)])
    label_studio_fake.late_effect_s = [0.15]
    with Running(outbox, label_studio_fake):
        delivered(outbox, 5)
    assert label_studio_fake.imports == [5]
    assert len(label_studio_fake.tasks) == 5


def test_an_outage_delays_and_is_logged_once(
    outbox: Outbox, label_studio_fake: FakeLabelStudio, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "serving")
    outbox.add([item(number) for number in range(25)])
    label_studio_fake.down = True
    with Running(outbox, label_studio_fake):
        # The SDK repeats reads itself for some seconds before it gives up.
        wait_until(lambda: "answered 503" in caplog.text, "the dispatcher to notice", 20)
        time.sleep(1.0)
        assert outbox.counts().depth == 25
        label_studio_fake.down = False
        delivered(outbox, 25)
    assert len(label_studio_fake.tasks) == 25
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("serving")]
    assert len(messages) == 2
    assert "answered 503" in messages[0] and "again" in messages[1]


def test_a_refused_item_does_not_hold_up_the_others(
    outbox: Outbox, label_studio_fake: FakeLabelStudio, caplog: pytest.LogCaptureFixture
) -> None:
    label_studio_fake.refused_word = "text 7 "
    outbox.add([item(number) for number in range(25)])
    with Running(outbox, label_studio_fake):
        delivered(outbox, 24)
    counts = outbox.counts()
    assert (counts.refused, counts.depth) == (1, 0)
    assert item(7).key not in label_studio_fake.task_keys()
    assert len(set(label_studio_fake.task_keys())) == len(label_studio_fake.tasks) == 24
    assert item(7).key in caplog.text and "text 7" not in caplog.text


def test_a_refused_dispatcher_blames_no_item(outbox: Outbox, label_studio_fake: FakeLabelStudio) -> None:
    label_studio_fake.unauthorized = True
    outbox.add([item(number) for number in range(3)])
    with Running(outbox, label_studio_fake):
        time.sleep(0.8)
        assert outbox.counts().refused == 0
        label_studio_fake.unauthorized = False
        delivered(outbox, 3)


def test_rows_left_by_a_dead_dispatcher_are_looked_up_first(outbox: Outbox, label_studio_fake: FakeLabelStudio) -> None:
    items = [item(number) for number in range(6)]
    outbox.add(items)
    claimed = outbox.claim(4)
    label_studio_fake.add([{"data": {"key": claimed[2].key, "text": claimed[2].text}}])
    started = time.monotonic()
    with Running(outbox, label_studio_fake):
        delivered(outbox, 6)
    assert time.monotonic() - started >= SETTINGS.settle_s
    assert sorted(label_studio_fake.task_keys()) == sorted(i.key for i in items)


def start(outbox: Outbox, fake: FakeLabelStudio, log: Path, *arguments: str) -> Process:
    return Process(
        "serving.review.dispatcher",
        *("--outbox_url", str(outbox.engine.url), "--label_studio_url", fake.url, "--project", PROJECT),
        *arguments,
        log=log,
        LABEL_STUDIO_API_KEY="key",
    )


def test_the_process_drains_waits_its_turn_and_ends_on_sigterm(
    outbox: Outbox, label_studio_fake: FakeLabelStudio, tmp_path: Path
) -> None:
    outbox.add([item(number) for number in range(150)])
    once = start(outbox, label_studio_fake, tmp_path / "once", "--once")
    first = None
    with running(once):
        assert once.wait() == 0
        assert outbox.counts().delivered == 150
        first = start(outbox, label_studio_fake, tmp_path / "first")
        wait_until(lambda: "Delivering" in first.log, "the first dispatcher")
        second = start(outbox, label_studio_fake, tmp_path / "second")
        with running(first, second):
            wait_until(lambda: "Another dispatcher" in second.log, "the second dispatcher to notice the first")
            first.popen.kill()
            wait_until(lambda: "Delivering" in second.log, "the second dispatcher to take over")
            outbox.add([item(150)])
            delivered(outbox, 151)
            second.stop()
            assert second.wait() == 0
            assert "Traceback" not in first.log + second.log


def test_without_an_api_key_it_says_so(outbox: Outbox, label_studio_fake: FakeLabelStudio, tmp_path: Path) -> None:
    process = Process(
        "serving.review.dispatcher",
        *("--outbox_url", str(outbox.engine.url), "--label_studio_url", label_studio_fake.url, "--project", "x"),
        log=tmp_path / "log",
        LABEL_STUDIO_API_KEY="",
    )
    assert process.wait() == 2
    assert "LABEL_STUDIO_API_KEY is not set" in process.log
