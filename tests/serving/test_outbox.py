"""The outbox's contract, run against each database it is for."""

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from reviewloop.records import ReviewItem
from reviewloop.text_keys import content_key
from serving.review import outbox_table
from serving.review.outbox import Outbox, OutboxError
from serving.review.single_writer import single_writer
from tests.serving.postgres import PostgresServer


def item(number: int, **changes: object) -> ReviewItem:
    text = f"text {number} with 'quotes', ünïcode and a 🙂"
    made = ReviewItem(
        key=content_key(text),
        text=text,
        reason="low_confidence",
        confidence=0.4,
        propensity=1.0,
        model_version="v0001",
        prediction={"label": "negative", "probabilities": {"negative": 0.4, "neutral": 0.3, "positive": 0.3}},
        routed_at=datetime.now(UTC).isoformat(),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'outbox.db'}"
    postgres: PostgresServer = request.getfixturevalue("postgres")
    return postgres.new_database()


@pytest.fixture
def outbox(url: str) -> Iterator[Outbox]:
    outbox = Outbox(url)
    yield outbox
    outbox.close()


def test_what_goes_in_comes_out_oldest_first(outbox: Outbox) -> None:
    items = [item(number) for number in range(5)]
    for one in items:
        outbox.add([one])
    assert outbox.claim(3) == items[:3]
    assert outbox.claim(3) == items[3:]
    assert outbox.claim(3) == []
    assert outbox.in_flight() == [i.key for i in items]


def test_a_key_is_stored_once_in_whatever_state(outbox: Outbox) -> None:
    first = item(1)
    outbox.add([first, replace(first, confidence=0.1)])
    outbox.add([item(2), first])
    assert outbox.counts().pending == 2
    assert outbox.claim(1) == [first]
    outbox.add([first])
    outbox.deliver({first.key: 7})
    outbox.add([first])
    counts = outbox.counts()
    assert (counts.pending, counts.sending, counts.delivered) == (1, 0, 1)


def test_rows_move_between_states(outbox: Outbox) -> None:
    items = [item(number) for number in range(4)]
    outbox.add(items)
    outbox.claim(4)
    outbox.deliver({items[0].key: 11})
    outbox.refuse(items[1].key, "the label is not one of the project's")
    outbox.release([items[2].key])
    counts = outbox.counts()
    assert (counts.pending, counts.sending, counts.delivered, counts.refused) == (1, 1, 1, 1)
    assert counts.depth == 2
    assert outbox.claim(4) == [items[2]]
    outbox.release([])


def test_age_is_that_of_the_oldest_undelivered_row(outbox: Outbox) -> None:
    assert outbox.counts().oldest_age_s == 0.0
    old, older = (item(n, routed_at=(datetime.now(UTC) - timedelta(seconds=60 * n)).isoformat()) for n in (1, 2))
    outbox.add([old, older])
    assert 119 < outbox.counts().oldest_age_s < 130
    outbox.claim(2)
    outbox.deliver({older.key: 1})
    assert 59 < outbox.counts().oldest_age_s < 70


def test_writers_in_other_threads_lose_nothing(url: str, outbox: Outbox) -> None:
    def write(first: int) -> None:
        own = Outbox(url)
        for number in range(first, first + 50):
            own.add([item(number), item(number + 1)])
        own.close()

    threads = [threading.Thread(target=write, args=(start,)) for start in (0, 25, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outbox.counts().pending == 76 + 51


def test_processes_that_open_a_new_outbox_at_once_all_write(url: str) -> None:
    barrier = threading.Barrier(8)

    def write(number: int) -> None:
        own = Outbox(url)
        barrier.wait()
        own.add([item(number), item(100)])
        own.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    another = Outbox(url)
    assert another.counts().pending == 9
    another.close()


def test_only_one_dispatcher_holds_the_lock(url: str, outbox: Outbox) -> None:
    impatient = threading.Event()
    impatient.set()
    other = Outbox(url)
    with single_writer(outbox, impatient) as first, single_writer(other, impatient) as second:
        assert (first, second) == (True, False)
    with single_writer(other, impatient) as third:
        assert third
    other.close()


def test_rows_are_there_for_the_next_process(url: str, outbox: Outbox) -> None:
    stored = item(1)
    outbox.add([stored])
    another = Outbox(url)
    assert another.claim(1) == [stored]
    another.close()


@pytest.mark.parametrize("url", ["not a url", "nosuchdatabase://host/name"])
def test_an_unusable_url_is_named(url: str) -> None:
    with pytest.raises(OutboxError, match="outbox URL"):
        Outbox(url)


def test_a_write_that_fails_says_why_without_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_table, "BUSY_TIMEOUT_S", 0.1)
    path = tmp_path / "outbox.db"
    outbox = Outbox(f"sqlite:///{path}")
    outbox.add([item(0)])
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(OutboxError, match=r"cannot be written \(database is locked\)") as error:
            outbox.add([item(1)])
    assert error.value.__suppress_context__
    outbox.add([item(1)])
    assert outbox.counts().pending == 2
    outbox.close()


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    path.write_bytes(b"not a database" * 100)
    outbox = Outbox(f"sqlite:///{path}")
    with pytest.raises(OutboxError, match="cannot be read"):
        outbox.counts()
    outbox.close()
