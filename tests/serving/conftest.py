"""One predictor and one transformer, serving a tiny model, shared by the tests that leave them as they are."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.serving.postgres import PostgresServer, postgres_server
from tests.serving.processes import Server, predictor, running, transformer
from tests.tiny_model import write_tiny_model


@dataclass(frozen=True)
class Serving:
    """Both servers and the outbox behind them."""

    predictor: Server
    transformer: Server
    outbox_url: str


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose predictions lie on both sides of its threshold."""
    return write_tiny_model(tmp_path_factory.mktemp("model") / "v0001", temperature=0.5)


@pytest.fixture(scope="session")
def serving(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """The servers, ready."""
    logs = tmp_path_factory.mktemp("serving")
    outbox_url = f"sqlite:///{logs / 'outbox.db'}"
    back = predictor(model_dir, logs / "predictor.log")
    front = transformer(back.url, logs / "transformer.log", "--outbox_url", outbox_url, "--audit_rate", "0.1")
    with running(front, back):
        back.wait_until()
        front.wait_until()
        yield Serving(back, front, outbox_url)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server. A test that stops it starts it again."""
    with postgres_server() as server:
        yield server
