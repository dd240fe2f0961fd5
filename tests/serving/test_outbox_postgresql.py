"""What only PostgreSQL can do to an outbox: restart, fall silent, lose a session, and let writers meet in a row."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest

from reviewloop.records import ReviewItem
from serving.review import outbox_table
from serving.review.dispatcher import Dispatcher
from serving.review.outbox import Outbox, OutboxError, WriterLockLost
from serving.review.outbox_table import NEW_ROW, review_items
from serving.review.single_writer import run_alone, single_writer
from tests.serving.conftest import Serving
from tests.serving.fake_label_studio import FakeLabelStudio, fake_label_studio
from tests.serving.postgres import PostgresServer
from tests.serving.processes import Process, running, transformer, wait_until
from tests.serving.test_dispatcher import SETTINGS, delivered, review_project, start
from tests.serving.test_outbox import item

MARKER = "xylophone7531"


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return postgres.new_database()


@pytest.fixture
def outbox(url: str) -> Iterator[Outbox]:
    outbox = Outbox(url)
    yield outbox
    outbox.close()


@pytest.fixture
def label_studio_fake() -> Iterator[FakeLabelStudio]:
    with fake_label_studio() as fake:
        yield fake


def database(url: str) -> str:
    return url.partition("@/")[2].partition("?")[0]


@contextmanager
def several(url: str, count: int) -> Iterator[list[Outbox]]:
    """Outboxes as so many processes have them."""
    outboxes = [Outbox(url) for _ in range(count)]
    yield outboxes
    for outbox in outboxes:
        outbox.close()


def end_writer_session(postgres: PostgresServer, url: str) -> None:
    """End the session that holds the writer lock, as the loss of its connection does."""
    postgres.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_database ON pg_database.oid = database "
        f"WHERE locktype = 'advisory' AND granted AND datname = '{database(url)}'"
    )


def test_a_role_that_may_create_nothing_uses_the_table_that_is_there(postgres: PostgresServer, url: str) -> None:
    with several(url, 1) as (outbox,):
        outbox.add([item(1)])
    postgres.execute("CREATE ROLE guest LOGIN")
    name = database(url)
    postgres.execute("GRANT SELECT, INSERT ON review_items TO guest", name)
    postgres.execute("GRANT USAGE ON SEQUENCE review_items_id_seq TO guest", name)
    with several(postgres.url(name, "guest"), 1) as (outbox,):
        outbox.add([item(1), item(2)])
        assert outbox.counts().pending == 2


def test_writers_of_the_same_items_do_not_wait_for_each_other(postgres: PostgresServer, url: str) -> None:
    items = [item(1), item(2), item(3)]
    with several(url, 3) as (first, second, holder), ThreadPoolExecutor(2) as pool:
        assert holder.counts().pending == 0
        with holder.engine.connect() as connection:
            # Both have written a row and wait here for the next, when they are let go on.
            connection.execute(review_items.insert().values(asdict(items[1]) | NEW_ROW))
            writes = [pool.submit(first.add, items), pool.submit(second.add, items[::-1])]
            waiting = (
                f"SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = '{database(url)}'"
            )
            wait_until(lambda: postgres.execute(waiting) == [(2,)], "both to wait", 5)
        started = time.monotonic()
        for write in writes:
            write.result()
        # PostgreSQL ends one of two that wait for each other after a second.
        assert time.monotonic() - started < 0.9
        assert first.counts().pending == 3


def test_claims_at_once_have_no_row_in_common(url: str) -> None:
    def claim(outbox: Outbox) -> list[ReviewItem]:
        return [claimed for _ in range(10) for claimed in outbox.claim(5)]

    with several(url, 4) as outboxes, ThreadPoolExecutor(4) as pool:
        outboxes[0].add([item(number) for number in range(100)])
        keys = [claimed.key for part in pool.map(claim, outboxes) for claimed in part]
    assert len(keys) == len(set(keys)) == 100


def test_a_restart_costs_no_item(postgres: PostgresServer, outbox: Outbox) -> None:
    outbox.add([item(1)])
    assert outbox.counts().pending == 1
    postgres.stop()
    try:
        with pytest.raises(OutboxError, match="cannot be written"):
            outbox.add([item(2)])
        with pytest.raises(OutboxError, match="cannot be read"):
            outbox.counts()
    finally:
        postgres.start()
    outbox.add([item(2)])
    postgres.stop()
    postgres.start()
    outbox.add([item(3)])
    assert outbox.counts().pending == 3


def test_a_row_that_another_holds_is_waited_for_within_bounds(
    postgres: PostgresServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_table, "BUSY_TIMEOUT_S", 0.2)
    with several(url, 1) as (outbox,):
        outbox.add([item(0)])
        with postgres.connect(database(url)) as holder, holder.transaction():
            holder.execute("LOCK TABLE review_items")
            with pytest.raises(OutboxError, match=r"cannot be written \(canceling statement due to") as error:
                outbox.add([item(1, text=MARKER)])
        assert MARKER not in str(error.value)
        outbox.add([item(1)])
        assert outbox.counts().pending == 2


def test_a_client_that_stalls_in_the_middle_is_ended(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_table, "BUSY_TIMEOUT_S", 0.5)
    with several(url, 2) as (stalled, other):
        other.add([item(0)])
        connection = stalled.engine.raw_connection()
        connection.cursor().execute("LOCK TABLE review_items")
        with pytest.raises(OutboxError):
            other.add([item(1)])
        time.sleep(0.6)
        other.add([item(1)])
        connection.invalidate()


def test_a_database_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_table, "CONNECT_TIMEOUT_S", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql+psycopg://outbox:secret@127.0.0.1:{silent.getsockname()[1]}/outbox"
        with several(url, 1) as (outbox,):
            started = time.monotonic()
            with pytest.raises(OutboxError, match=r"cannot be written \(connection timeout expired\)"):
                outbox.add([item(1)])
            assert time.monotonic() - started < 3.0


def test_no_message_holds_the_password() -> None:
    with pytest.raises(OutboxError, match="Percent-encode") as error:
        Outbox("postgresql+psycopg://outbox:top@secret:word@postgres/outbox")
    assert "word" not in str(error.value).replace("password", "") and "top" not in str(error.value)


def test_who_loses_its_session_writes_nothing_more(postgres: PostgresServer, url: str, outbox: Outbox) -> None:
    impatient = threading.Event()
    impatient.set()
    outbox.add([item(number) for number in range(4)])
    with several(url, 1) as (other,):
        with single_writer(outbox, impatient) as held:
            assert held
            claimed = outbox.claim(2)
            end_writer_session(postgres, url)
            with single_writer(other, impatient) as next_held:
                assert next_held
                keys = [i.key for i in claimed]
                for write in (
                    lambda: outbox.release(keys),
                    lambda: outbox.deliver(dict.fromkeys(keys, 1)),
                    lambda: outbox.refuse(keys[0], "no"),
                    lambda: outbox.claim(1),
                    outbox.in_flight,
                    outbox.confirm_session,
                ):
                    with pytest.raises(WriterLockLost):
                        write()
                assert other.in_flight() == keys
                # What needs no lock goes on.
                assert outbox.counts().sending == 2
        with single_writer(outbox, impatient) as held:
            assert held
            assert len(outbox.claim(4)) == 2


class Competing:
    """Dispatchers on threads, each with its own outbox, stopped at the end of the ``with``."""

    def __init__(self, url: str, fake: FakeLabelStudio, count: int) -> None:
        self._stopping = threading.Event()
        self._outboxes = [Outbox(url) for _ in range(count)]
        self._threads = [threading.Thread(target=self._run, args=(fake, outbox)) for outbox in self._outboxes]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *error: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        for outbox in self._outboxes:
            outbox.close()

    def _run(self, fake: FakeLabelStudio, outbox: Outbox) -> None:
        def deliver() -> None:
            Dispatcher(outbox, review_project(fake), SETTINGS, self._stopping).run()

        run_alone(outbox, self._stopping, deliver)


def test_sessions_lost_in_the_middle_send_nothing_twice(
    postgres: PostgresServer, url: str, outbox: Outbox, label_studio_fake: FakeLabelStudio
) -> None:
    label_studio_fake.answer_after_s = 0.1
    outbox.add([item(number) for number in range(100)])
    with Competing(url, label_studio_fake, 2):
        for imports in (2, 5, 8):
            wait_until(lambda wanted=imports: len(label_studio_fake.imports) >= wanted, f"import {imports}", 20)
            end_writer_session(postgres, url)
        delivered(outbox, 100)
    assert len(set(label_studio_fake.task_keys())) == len(label_studio_fake.tasks) == 100


def test_a_dispatcher_outlives_its_database(
    postgres: PostgresServer, url: str, outbox: Outbox, label_studio_fake: FakeLabelStudio
) -> None:
    outbox.add([item(1)])
    postgres.stop()
    with Competing(url, label_studio_fake, 1):
        try:
            time.sleep(0.2)
        finally:
            postgres.start()
        delivered(outbox, 1)
        postgres.stop()
        postgres.start()
        outbox.add([item(2)])
        delivered(outbox, 2)
    assert len(label_studio_fake.tasks) == 2


def test_of_competing_processes_one_delivers_and_the_next_takes_over_when_it_is_killed(
    outbox: Outbox, label_studio_fake: FakeLabelStudio, tmp_path: Path
) -> None:
    outbox.add([item(number) for number in range(100)])
    label_studio_fake.answer_after_s = 0.4
    arguments = ("--batch_size", "10", "--settle_s", "1", "--max_backoff_s", "0.5")
    first, second = (
        start(outbox, label_studio_fake, tmp_path / name, *arguments) for name in ("first.log", "second.log")
    )
    with running(first, second):
        wait_until(lambda: len(label_studio_fake.imports) >= 2, "the second import")
        wait_until(lambda: waits(first) or waits(second), "the other to wait")
        holder, survivor = (first, second) if waits(second) else (second, first)
        imports = len(label_studio_fake.imports)
        wait_until(lambda: len(label_studio_fake.imports) > imports, "an import under way")
        holder.popen.kill()
        killed = time.monotonic()
        assert outbox.counts().sending == 10
        wait_until(lambda: len(label_studio_fake.imports) > imports + 1, "the survivor's first import", 10)
        assert 1.0 <= time.monotonic() - killed < 6.0
        label_studio_fake.answer_after_s = 0.0
        delivered(outbox, 100)
        survivor.stop()
        assert survivor.wait() == 0
    assert len(set(label_studio_fake.task_keys())) == len(label_studio_fake.tasks) == 100
    assert "Traceback" not in first.log + second.log


def waits(process: Process) -> bool:
    return "Another dispatcher" in process.log


def test_predictions_are_answered_while_the_database_is_stuck_or_gone(
    serving: Serving, postgres: PostgresServer, url: str, tmp_path: Path
) -> None:
    front = transformer(serving.predictor.url, tmp_path / "log", "--outbox_url", url, "--audit_rate", "1")
    with running(front):
        front.wait_until()
        assert front.predict("before")[0]["review"]["routed"]
        with postgres.connect(database(url)) as holder, holder.transaction():
            holder.execute("LOCK TABLE review_items")
            started = time.monotonic()
            (stuck,) = front.predict(f"stuck {MARKER}")
            assert time.monotonic() - started < 3.0
        assert front.predict("between")[0]["review"]["routed"]
        postgres.stop()
        try:
            started = time.monotonic()
            (gone,) = front.predict(f"gone {MARKER}")
            assert time.monotonic() - started < 3.0
            assert front.get("/metrics").status_code == 200
        finally:
            postgres.start()
        for prediction in (stuck, gone):
            assert prediction["label"]
            assert prediction["review"]["routed"] is False
            assert prediction["review"]["error"].startswith("The review outbox ")
        assert front.metric("reviewloop_outbox_write_failures_total") == 2
        assert front.predict("after")[0]["review"]["routed"]
        assert front.metric("reviewloop_outbox_depth") >= 3
    assert MARKER not in front.log and "Traceback" not in front.log
