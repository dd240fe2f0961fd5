"""The outbox's table, its database, and the hot path of writing to it."""

import json
import sqlite3
import threading
import time
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Connection,
    Dialect,
    Engine,
    Float,
    Index,
    Integer,
    MetaData,
    PoolProxiedConnection,
    String,
    Table,
    Text,
    create_engine,
    event,
    func,
    inspect,
    make_url,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from reviewloop.records import ReviewItem

BUSY_TIMEOUT_S = 5.0
"""How long a statement waits for others: in SQLite for writes to the same file, which takes no turns among those
who wait, in PostgreSQL for locks.
"""

CONNECT_TIMEOUT_S = 3
"""How long PostgreSQL has to take a connection."""

SILENCE_S = 10
"""After how long of unanswered packets a client and PostgreSQL give each other up. It bounds how long a dispatcher
whose node is gone keeps the writer lock.
"""

CREATION_LOCK = 0x7265766C6F6F71
"""The number of the PostgreSQL advisory lock under which the table is made."""

PENDING, SENDING, DELIVERED, REFUSED = "pending", "sending", "delivered", "refused"

review_items = Table(
    "review_items",
    MetaData(),
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("key", String(32), nullable=False, unique=True),
    Column("text", Text, nullable=False),
    Column("reason", String(32), nullable=False),
    Column("confidence", Float, nullable=False),
    Column("propensity", Float, nullable=False),
    Column("model_version", String, nullable=False),
    Column("prediction", JSON, nullable=False),
    Column("routed_at", String(32), nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("claimed_at", Float),  # Unix time of the latest attempt.
    Column("task_id", BigInteger),
    Column("refusal", Text),
    Index("review_items_by_state", "state", "id"),
)

NEW_ROW = {"state": PENDING, "attempts": 0}
ITEM_FIELDS = [field.name for field in fields(ReviewItem)]
ITEM_COLUMNS = [review_items.c[name] for name in ITEM_FIELDS]


def connect(url: str) -> Engine:
    """An engine for ``url`` that writes durably; nothing is connected to yet.

    Raises:
        ArgumentError, NoSuchModuleError, ImportError: SQLAlchemy's, if the URL cannot be used.
    """
    parsed = make_url(url)
    postgres = parsed.get_backend_name() == "postgresql"
    defaults = _postgresql_settings() if postgres else {}
    engine = create_engine(
        parsed,
        # A logged or raised SQL error must not carry the text of a row.
        hide_parameters=True,
        # A connection that the server has closed meanwhile, in a restart, is replaced unseen.
        pool_pre_ping=postgres,
        connect_args={name: value for name, value in defaults.items() if name not in parsed.query},
    )
    if engine.dialect.name == "sqlite":
        _configure_sqlite(engine)
    return engine


def create_table(connection: Connection) -> None:
    """Make the table and its index where they are missing; several processes may do so at once."""
    if connection.dialect.name == "postgresql":
        if _is_complete(connection):
            # IF NOT EXISTS wants the right to create all the same, and waits for every write under way.
            return
        # It does not keep two of them apart either.
        connection.execute(select(func.pg_advisory_xact_lock(CREATION_LOCK)))
    connection.execute(CreateTable(review_items, if_not_exists=True))
    for index in review_items.indexes:
        connection.execute(CreateIndex(index, if_not_exists=True))


class InsertConnection:
    """A connection kept for inserts alone, which are the hot path.

    Handing the rows to the driver directly, with the statement that SQLAlchemy compiled once, halves what a
    commit costs the transformer.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._postgres = engine.dialect.name == "postgresql"
        insert: Any = postgresql.insert if self._postgres else sqlite.insert
        dialect: Dialect = engine.dialect
        if engine.dialect.name == "sqlite":
            dialect = sqlite.dialect(paramstyle="named")
        statement = insert(review_items).on_conflict_do_nothing(index_elements=["key"])
        self._sql = str(statement.compile(dialect=dialect, column_keys=[*ITEM_FIELDS, "state", "attempts"]))
        self._connection: PoolProxiedConnection | None = None
        self._lock = threading.Lock()

    def insert(self, items: Sequence[ReviewItem]) -> None:
        """Commit a row an item, unless its key is there. Raises the driver's errors."""
        rows = [{name: getattr(item, name) for name in ITEM_FIELDS} | NEW_ROW for item in items]
        for row in rows:
            row["prediction"] = json.dumps(row["prediction"])
        if self._postgres:
            # Two that insert the same keys in a different order would wait for each other.
            rows.sort(key=lambda row: row["key"])
        with self._lock:
            self._commit(rows)

    def close(self) -> None:
        """Give the connection back."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _commit(self, rows: list[dict[str, Any]]) -> None:
        reused = self._connection is not None
        connection = self._connection = self._connection or self._engine.raw_connection()
        try:
            connection.cursor().executemany(self._sql, rows)
            connection.commit()
        except Exception as error:
            lost = self._engine.dialect.is_disconnect(error, connection.dbapi_connection, None)  # type: ignore[arg-type]
            connection.invalidate()
            self._connection = None
            if not (lost and reused):
                raise
            # The server has restarted since the last commit. What is inserted twice is stored once.
            self._commit(rows)


def _is_complete(connection: Connection) -> bool:
    inspector = inspect(connection)
    return inspector.has_table(review_items.name) and all(
        inspector.has_index(review_items.name, str(index.name)) for index in review_items.indexes
    )


def _postgresql_settings() -> dict[str, Any]:
    session = {
        "statement_timeout": int(BUSY_TIMEOUT_S * 1000),
        # A client that stalls in the middle must not keep the rows it wrote from the others for longer.
        "idle_in_transaction_session_timeout": int(2 * BUSY_TIMEOUT_S * 1000),
        "tcp_keepalives_idle": SILENCE_S // 2,
        "tcp_keepalives_interval": 1,
        "tcp_user_timeout": SILENCE_S * 1000,
    }
    return {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "keepalives_idle": SILENCE_S // 2,
        "keepalives_interval": 1,
        "tcp_user_timeout": SILENCE_S * 1000,
        "options": " ".join(f"-c {name}={value}" for name, value in session.items()),
    }


def _configure_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def set_pragmas(connection: Any, record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}")
        _use_wal(cursor)
        # FULL: a committed row survives a power failure too, not only the death of the process.
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.close()


def _use_wal(cursor: Any) -> None:
    # For others that do the same at this moment SQLite does not wait by itself.
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(0.005)
