"""At most one dispatcher an outbox, whose claim ends with its process, however that ends."""

import fcntl
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from sqlalchemy import Engine, func, select

RETRY_S = 0.5
ADVISORY_LOCK = 0x7265766C6F6F70
"""The number of the PostgreSQL advisory lock: "revloop" in ASCII."""

logger = logging.getLogger(__name__)


@contextmanager
def single_writer(engine: Engine, stopping: threading.Event) -> Iterator[bool]:
    """Hold the outbox's writer lock, waiting for it if need be; False if ``stopping`` was set before that.

    SQLite: a lock on the file ``<database>.lock``. PostgreSQL: an advisory lock of one session.
    """
    with _lock(engine) as acquire:
        waits = False
        while not (held := acquire()) and not stopping.is_set():
            if not waits:
                logger.info("Another dispatcher serves this outbox. Waiting for it to end.")
            waits = True
            stopping.wait(RETRY_S)
        yield held


def _lock(engine: Engine) -> AbstractContextManager[Callable[[], bool]]:
    return _file_lock(engine) if engine.dialect.name == "sqlite" else _advisory_lock(engine)


@contextmanager
def _file_lock(engine: Engine) -> Iterator[Callable[[], bool]]:
    with open(f"{engine.url.database}.lock", "ab") as file:  # noqa: PTH123

        def acquire() -> bool:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        yield acquire


@contextmanager
def _advisory_lock(engine: Engine) -> Iterator[Callable[[], bool]]:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        # Not back into the pool in the end, where the session, and with it the lock, would live on.
        connection.detach()
        yield lambda: bool(connection.execute(select(func.pg_try_advisory_lock(ADVISORY_LOCK))).scalar())
