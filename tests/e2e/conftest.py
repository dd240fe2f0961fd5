"""A copy of the checkout to run commands in, so that a user's own build/ directory is never touched."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.reviewloop.conftest import s3

__all__ = ["s3"]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The tracked files in a directory of their own, sharing the environments and the fetched assets."""
    directory = tmp_path_factory.mktemp("e2e") / "reviewloop"
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, tracked.stdout.splitlines()):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        # With its times, so that make finds nothing to install again.
        shutil.copy2(ROOT / name, directory / name)
    for environment in (".venv", ".venv-label-studio"):
        (directory / environment).symlink_to(ROOT / environment)
    (directory / "build").mkdir()
    (ROOT / "build" / "assets").mkdir(parents=True, exist_ok=True)
    (directory / "build" / "assets").symlink_to(ROOT / "build" / "assets")
    yield directory
    left = processes_of(directory)
    for process in left:
        process.kill()
    assert not left, f"left running: {[p.cmdline() for p in left]}"


@pytest.fixture
def environment(checkout: Path) -> dict[str, str]:
    """What a user's shell has after activating the environment."""
    of_the_suite = ("OMP_NUM_THREADS", "HF_HUB_OFFLINE")
    return {name: value for name, value in os.environ.items() if name not in of_the_suite} | {
        "PATH": f"{checkout / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "TERM": "dumb",
    }


def processes_of(directory: Path) -> list[psutil.Process]:
    """The processes that work in ``directory``."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(directory):
                found.append(process)
        except psutil.Error:
            continue
    return found
