"""Label Studio as a subprocess: its own environment, its own data directory, loopback only."""

import json
import os
import secrets
import sqlite3
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from local.processes import LOOPBACK, Part, start_part, wait_until_healthy

EXECUTABLE_VARIABLE = "REVIEWLOOP_LABEL_STUDIO"
DEFAULT_EXECUTABLE = Path(".venv-label-studio/bin/label-studio")
START_TIMEOUT_S = 180.0


@dataclass(frozen=True, slots=True)
class Credentials:
    """The administrator's login and API key, made up when the data directory is made."""

    email: str
    password: str
    api_key: str

    @classmethod
    def of(cls, data_dir: Path) -> Self:
        """The credentials kept in ``data_dir``, readable by its owner alone; made if there are none."""
        path = data_dir / "credentials.json"
        if path.exists():
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        data_dir.mkdir(parents=True, exist_ok=True)
        credentials = cls("admin@example.com", secrets.token_urlsafe(9), secrets.token_hex(20))
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(asdict(credentials), file)
        return credentials


def start_label_studio(
    data_dir: Path, port: int, credentials: Credentials, log: Path, *, dies_with_parent: bool
) -> Part:
    """Start Label Studio on ``port``; it is not yet ready when this returns."""
    executable = os.environ.get(EXECUTABLE_VARIABLE, str(DEFAULT_EXECUTABLE))
    return start_part(
        "Label Studio",
        [executable, "start", "--no-browser", "--internal-host", LOOPBACK, "--port", str(port)],
        log,
        {
            "LABEL_STUDIO_BASE_DATA_DIR": str(data_dir.resolve()),
            "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
            "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
            # In the environment rather than on the command line, which every user of the machine can read.
            "LABEL_STUDIO_USERNAME": credentials.email,
            "LABEL_STUDIO_PASSWORD": credentials.password,
            "LABEL_STUDIO_USER_TOKEN": credentials.api_key,
            "COLLECT_ANALYTICS": "false",
            "LATEST_VERSION_CHECK": "false",
            "SENTRY_DSN": "",
            "FRONTEND_SENTRY_DSN": "",
        },
        dies_with_parent=dies_with_parent,
    )


def wait_for_label_studio(part: Part, url: str, data_dir: Path) -> None:
    """Wait until Label Studio answers, and put its database into WAL mode.

    With SQLite's default journal every annotation waits for several disk flushes, and readers block writers; the
    mode is kept in the file.
    """
    wait_until_healthy(part, f"{url}/health", START_TIMEOUT_S)
    with sqlite3.connect(data_dir / "label_studio.sqlite3", timeout=30.0) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
