"""The outbox's table, its database, and the hot path of writing to it."""

import json
import threading
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
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from reviewloop.records import ReviewItem

BUSY_TIMEOUT_S = 5.0
"""How long a write waits for other writes to the same SQLite file, which takes no turns among those who wait."""

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
    # A logged or raised SQL error must not carry the text of a row.
    engine = create_engine(url, hide_parameters=True)
    if engine.dialect.name == "sqlite":
        _configure_sqlite(engine)
    return engine


def create_table(connection: Connection) -> None:
    """Make the table and its index where they are missing; several processes may do so at once."""
    if connection.dialect.name == "postgresql":
        # IF NOT EXISTS alone does not keep two of them apart there.
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
        insert: Any = postgresql.insert if engine.dialect.name == "postgresql" else sqlite.insert
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
        with self._lock:
            if self._connection is None:
                self._connection = self._engine.raw_connection()
            try:
                self._connection.cursor().executemany(self._sql, rows)
                self._connection.commit()
            except Exception:
                self._connection.invalidate()
                self._connection = None
                raise

    def close(self) -> None:
        """Give the connection back."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _configure_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def set_pragmas(connection: Any, record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}")
        cursor.execute("PRAGMA journal_mode = WAL")
        # FULL: a committed row survives a power failure too, not only the death of the process.
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.close()
