"""Which images a compiled pipeline names."""

from pathlib import Path

import pytest
import yaml

from pipelines.images import Images, read_images
from reviewloop.errors import SpecError


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for the kustomize component."""
    monkeypatch.delenv("REVIEWLOOP_IMAGE", raising=False)
    return tmp_path / "kustomization.yaml"


def test_without_the_file_they_are_the_released_ones(file: Path) -> None:
    images = read_images(file)
    assert images.components.startswith("ghcr.io/reviewloop/components:")
    assert images.serving.startswith("ghcr.io/reviewloop/serving:")
    assert not images.pinned


def test_they_are_those_of_the_manifests_by_digest_where_it_is_known(file: Path) -> None:
    entries = [
        {"name": "ghcr.io/reviewloop/components", "newName": "example.com/c", "newTag": "v1", "digest": "sha256:12"},
        {"name": "ghcr.io/reviewloop/serving", "newTag": "v2"},
    ]
    file.write_text(yaml.safe_dump({"kind": "Component", "images": entries}), encoding="utf-8")
    assert read_images(file) == Images("example.com/c@sha256:12", "ghcr.io/reviewloop/serving:v2")


def test_the_environment_names_another_one(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REVIEWLOOP_IMAGE", "example.com/mine@sha256:3")
    assert read_images(file).components == "example.com/mine@sha256:3"


@pytest.mark.parametrize("content", ["images: [{newTag: v1}]", "images: 3", "- a list", "images: ["])
def test_a_file_that_is_something_else_is_a_sentence(file: Path, content: str) -> None:
    file.write_text(content, encoding="utf-8")
    with pytest.raises(SpecError, match="expected a kustomization with a list of images"):
        read_images(file)
