"""At most one dispatcher an outbox, whose claim ends with its process, however that ends."""

import fcntl
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from sqlalchemy import func, select

from serving.review.outbox import Outbox, OutboxError

RETRY_S = 0.5
ADVISORY_LOCK = 0x7265766C6F6F70
"""The number of the PostgreSQL advisory lock: "revloop" in ASCII."""

logger = logging.getLogger(__name__)


def run_alone(outbox: Outbox, stopping: threading.Event, deliver: Callable[[], None]) -> None:
    """Call ``deliver`` as the outbox's only dispatcher, once that is so, and anew after each time that it ceased to be.

    Returns when ``deliver`` does, or when ``stopping`` is set.
    """
    failing = False
    while not stopping.is_set():
        try:
            with single_writer(outbox, stopping) as held:
                failing = False
                if held:
                    deliver()
            return
        except OutboxError as error:
            if not failing:
                logger.warning("%s Items wait in the outbox until this dispatcher has its turn again.", error)
            failing = True
            stopping.wait(RETRY_S)


@contextmanager
def single_writer(outbox: Outbox, stopping: threading.Event) -> Iterator[bool]:
    """Hold the outbox's writer lock, waiting for it if need be; False if ``stopping`` was set before that.

    SQLite: a lock on the file ``<database>.lock``. PostgreSQL: an advisory lock of the session over which the
    dispatcher then writes, so that one whose session is lost cannot write beside the next. A pooler in between, such
    as PgBouncer, must leave each client its session.

    Raises:
        OutboxError: the database cannot be reached.
    """
    with _lock(outbox) as acquire:
        waits = False
        while not (held := acquire()) and not stopping.is_set():
            if not waits:
                logger.info("Another dispatcher serves this outbox. Waiting for it to end.")
            waits = True
            stopping.wait(RETRY_S)
        yield held


def _lock(outbox: Outbox) -> AbstractContextManager[Callable[[], bool]]:
    return _file_lock(outbox) if outbox.engine.dialect.name == "sqlite" else _advisory_lock(outbox)


@contextmanager
def _file_lock(outbox: Outbox) -> Iterator[Callable[[], bool]]:
    with open(f"{outbox.engine.url.database}.lock", "ab") as file:  # noqa: PTH123

        def acquire() -> bool:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        yield acquire


@contextmanager
def _advisory_lock(outbox: Outbox) -> Iterator[Callable[[], bool]]:
    with outbox.session() as connection:

        def acquire() -> bool:
            with outbox.errors("locked", connection), connection.begin():
                return bool(connection.execute(select(func.pg_try_advisory_lock(ADVISORY_LOCK))).scalar())

        yield acquire
