"""Every kustomization, rendered once."""

import pytest

from tests.k8s.manifests import EXAMPLE, RENDERED, Manifests, copy_manifests, render


def example_names() -> list[str]:
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    return [line.partition("=")[0] for line in lines if line and not line.startswith("#")]


@pytest.fixture(scope="session")
def secret_values() -> dict[str, str]:
    """A value for each setting of ``secrets.env`` that occurs nowhere else."""
    values = {name: f"7{number:02d}secret{number:02d}" for number, name in enumerate(example_names())}
    return values | {"AWS_ENDPOINT_URL": "https://store.example:9000", "AWS_USE_HTTPS": "1"}


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory, secret_values: dict[str, str]) -> dict[str, Manifests]:
    """By the kustomization's path below ``k8s/``."""
    k8s = copy_manifests(tmp_path_factory.mktemp("manifests"), secret_values)
    return {name: render(k8s / name) for name in RENDERED}


@pytest.fixture(params=RENDERED)
def manifests(request: pytest.FixtureRequest, rendered: dict[str, Manifests]) -> Manifests:
    """Each in turn."""
    return rendered[request.param]


@pytest.fixture
def standard(rendered: dict[str, Manifests]) -> Manifests:
    return rendered["overlays/standard"]
