"""The outbox: a table of review items, committed before a client is told that its text goes to review.

A row is ``pending`` until a dispatcher claims it, ``sending`` while its import into Label Studio is under way
or of unknown outcome, then ``delivered`` with the id of its task, or ``refused`` with the reason.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Engine, func, select, update
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from reviewloop.errors import ReviewLoopError
from reviewloop.records import ReviewItem
from serving.review.outbox_table import (
    DELIVERED,
    ITEM_COLUMNS,
    ITEM_FIELDS,
    PENDING,
    REFUSED,
    SENDING,
    InsertConnection,
    connect,
    create_table,
    review_items,
)


class OutboxError(ReviewLoopError):
    """The outbox cannot be read or written; the message says why, and holds no text."""


class WriterLockLost(OutboxError):
    """The session that held the writer lock has ended: another dispatcher may deliver by now."""


@dataclass(frozen=True, slots=True)
class OutboxCounts:
    """Rows by state, and the age in seconds of the oldest still on its way (0 if there is none)."""

    pending: int
    sending: int
    delivered: int
    refused: int
    oldest_age_s: float

    @property
    def depth(self) -> int:
        """Rows on their way to Label Studio."""
        return self.pending + self.sending


class Outbox:
    """The review queue in the database at a SQLAlchemy URL. Its methods block: keep them off an event loop."""

    def __init__(self, url: str) -> None:
        """Nothing is connected to yet: the first use does that, and makes the table where there is none.

        Raises:
            OutboxError: the URL is not one of a database that SQLAlchemy can reach here.
        """
        try:
            self._engine = connect(url)
        except (ArgumentError, NoSuchModuleError, ImportError) as error:
            raise OutboxError(f"The outbox URL is not usable: {error}") from None
        except ValueError:
            # Its message would quote a part of the password.
            raise OutboxError(
                "The outbox URL is not usable: its port is not a number. Percent-encode the password in it, or leave "
                "the password out and set PGPASSWORD."
            ) from None
        self._table_exists = False
        self._session: Connection | None = None
        self._writer = InsertConnection(self._engine)

    @property
    def engine(self) -> Engine:
        """The database connection pool."""
        return self._engine

    def add(self, items: Sequence[ReviewItem]) -> None:
        """Commit ``items`` together as pending. One whose key is there already, in whatever state, is left as it is.

        Raises:
            OutboxError: nothing was committed.
        """
        if not self._table_exists:
            with self._transaction("written"):
                pass
        with self.errors("written"):
            self._writer.insert(items)

    def claim(self, limit: int) -> list[ReviewItem]:
        """Mark up to ``limit`` pending rows as sending, the oldest commits first, and return them."""
        oldest = (
            select(review_items.c.id)
            .where(review_items.c.state == PENDING)
            .order_by(review_items.c.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
            .cte()
        )
        statement = (
            update(review_items)
            .where(review_items.c.id.in_(select(oldest.c.id)))
            .values(state=SENDING, claimed_at=time.time(), attempts=review_items.c.attempts + 1)
            .returning(review_items.c.id, *ITEM_COLUMNS)
        )
        with self._transaction("written", self._session) as connection:
            rows = sorted(connection.execute(statement).all(), key=lambda row: row.id)
        return [_item(row) for row in rows]

    def in_flight(self) -> list[str]:
        """The keys of the rows in ``sending``, oldest first."""
        statement = select(review_items.c.key).where(review_items.c.state == SENDING).order_by(review_items.c.id)
        with self._transaction("read", self._session) as connection:
            return list(connection.execute(statement).scalars())

    def deliver(self, task_ids: Mapping[str, int]) -> None:
        """Mark the rows of these keys as delivered, each with its Label Studio task id."""
        statement = update(review_items).values(state=DELIVERED, refusal=None)
        with self._transaction("written", self._session) as connection:
            for key, task_id in task_ids.items():
                connection.execute(statement.where(review_items.c.key == key).values(task_id=task_id))

    def release(self, keys: Iterable[str]) -> None:
        """Put the rows of these keys back to pending: they are known not to be in Label Studio."""
        self._set_state(list(keys), state=PENDING)

    def refuse(self, key: str, reason: str) -> None:
        """Take one row out of the queue, because Label Studio will not have it."""
        self._set_state([key], state=REFUSED, refusal=reason)

    def counts(self) -> OutboxCounts:
        """How many rows are in each state, and how long the oldest undelivered one has waited."""
        by_state = select(review_items.c.state, func.count()).group_by(review_items.c.state)
        with self._transaction("read") as connection:
            counts = {state: int(count) for state, count in connection.execute(by_state)}
            oldest = _oldest_undelivered(connection)
        return OutboxCounts(
            pending=counts.get(PENDING, 0),
            sending=counts.get(SENDING, 0),
            delivered=counts.get(DELIVERED, 0),
            refused=counts.get(REFUSED, 0),
            oldest_age_s=oldest,
        )

    @contextmanager
    def session(self) -> Iterator[Connection]:
        """A connection that ends with the ``with``; until then a dispatcher's methods use it and no other.

        A lock held by its session then guards all that they write.

        Raises:
            WriterLockLost: by those methods: the session has ended.
        """
        with self.errors("reached"):
            connection = self._engine.connect()
        with connection:
            # Not back into the pool in the end, where the session, and with it the lock, would live on.
            connection.detach()
            self._session = connection
            try:
                yield connection
            finally:
                self._session = None

    def confirm_session(self) -> None:
        """Make sure that the session of :meth:`session`, if there is one, has not ended.

        Raises:
            WriterLockLost: it has.
        """
        if self._session is not None:
            with self._transaction("read", self._session) as connection:
                connection.execute(select(1))

    @contextmanager
    def errors(self, action: str, session: Connection | None = None) -> Iterator[None]:
        """Raise the database's errors as OutboxError, and as WriterLockLost when ``session`` ended with them."""
        if session is not None and session.invalidated:
            # Used again it would connect anew.
            raise WriterLockLost("The session of the writer lock has ended.")
        try:
            yield
        except (SQLAlchemyError, self._engine.dialect.loaded_dbapi.Error) as error:
            # The first line names the problem; what follows may quote a row.
            original = error.orig if isinstance(error, DBAPIError) else error
            reason = str(original).partition("\n")[0] or type(original).__name__
            kind = WriterLockLost if session is not None and session.invalidated else OutboxError
            raise kind(f"The review outbox cannot be {action} ({reason}).") from None

    def close(self) -> None:
        """Close the connections."""
        self._writer.close()
        self._engine.dispose()

    def _set_state(self, keys: list[str], **values: Any) -> None:
        with self._transaction("written", self._session) as connection:
            connection.execute(update(review_items).where(review_items.c.key.in_(keys)).values(**values))

    @contextmanager
    def _transaction(self, action: str, session: Connection | None = None) -> Iterator[Connection]:
        with self.errors(action, session):
            with nullcontext(session) if session else self._engine.connect() as connection, connection.begin():
                if not self._table_exists:
                    create_table(connection)
                yield connection
            self._table_exists = True


def _oldest_undelivered(connection: Connection) -> float:
    oldest = connection.execute(
        select(func.min(review_items.c.routed_at)).where(review_items.c.state.in_((PENDING, SENDING)))
    ).scalar()
    if oldest is None:
        return 0.0
    return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(oldest)).total_seconds())


def _item(row: Any) -> ReviewItem:
    return ReviewItem(**{name: getattr(row, name) for name in ITEM_FIELDS})
