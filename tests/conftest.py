"""What tests in several folders share: a real Label Studio, and models small enough to make on the spot."""

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# The suite works without a network, and must not wait for one. Read when the libraries are imported.
os.environ["HF_HUB_OFFLINE"] = "1"
# A tiny model gains nothing from threads, and loses a lot where they wait for a busy processor.
os.environ["OMP_NUM_THREADS"] = "1"

from local.label_studio_server import Credentials, start_label_studio, wait_for_label_studio
from local.processes import LOOPBACK, Part, free_port, stop_parts
from tests.tiny_model import write_tiny_encoder, write_tiny_model

hypothesis.settings.register_profile("reviewloop", deadline=None)
hypothesis.settings.load_profile("reviewloop")


class LabelStudioProcess:
    """A real Label Studio on a port of its own, that a test may stop and start again with the same data."""

    def __init__(self, directory: Path) -> None:
        self._data_dir = directory / "data"
        self._log = directory / "label-studio.log"
        self._port = free_port()
        self._credentials = Credentials.of(self._data_dir)
        self._part: Part | None = None
        self.url = f"http://{LOOPBACK}:{self._port}"
        self.api_key = self._credentials.api_key

    def start(self) -> None:
        """Start it unless it runs, and return once it answers."""
        if self._part and self._part.process:
            return
        with warnings.catch_warnings():
            # The process is watched by its id; Python finds its Popen object dropped too early.
            warnings.simplefilter("ignore", ResourceWarning)
            self._part = start_label_studio(
                self._data_dir, self._port, self._credentials, self._log, dies_with_parent=True
            )
        wait_for_label_studio(self._part, self.url, self._data_dir)

    def stop(self) -> None:
        """Ask it to end, and return once it is gone."""
        if self._part:
            stop_parts([self._part])
            self._part = None


@pytest.fixture(scope="session")
def label_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudioProcess]:
    """Label Studio, ready. A test that stops it starts it again."""
    server = LabelStudioProcess(tmp_path_factory.mktemp("label-studio"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory as the pipeline writes it, version v0001."""
    return write_tiny_model(tmp_path_factory.mktemp("tiny-model") / "v0001")


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model to fine-tune."""
    return write_tiny_encoder(tmp_path_factory.mktemp("tiny-encoder"))
