"""``make images`` and ``make push``, with a docker that writes down what it is told."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pipelines.images import Images, read_images
from tests.k8s.manifests import ROOT, copy_manifests, render

DIGESTS = {name: f"sha256:{letter * 64}" for name, letter in (("components", "c"), ("serving", "5"))}
DOCKER = f"""#!/bin/sh
echo "$@" >> "$DOCKER_LOG"
case "$1 $*" in
  "push "*:broken) exit 1 ;;
  "inspect "*/components:*) printf 'other.example/components@sha256:0\\n%s@{DIGESTS["components"]}\\n' "${{4%:*}}" ;;
  "inspect "*/serving:*) printf '%s@{DIGESTS["serving"]}\\n' "${{4%:*}}" ;;
esac
"""


class Checkout:
    """What the two targets read, in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.k8s = copy_manifests(directory)
        shutil.copy(ROOT / "Makefile", directory)
        (directory / "bin").mkdir()
        docker = directory / "bin" / "docker"
        docker.write_text(DOCKER)
        docker.chmod(0o755)
        self._log = directory / "docker.log"

    def make(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        paths = {"PATH": f"{self.directory / 'bin'}{os.pathsep}{os.environ['PATH']}", "DOCKER_LOG": str(self._log)}
        return subprocess.run(
            ["make", *arguments],
            cwd=self.directory,
            env=os.environ | paths | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def commands(self) -> list[str]:
        return self._log.read_text().splitlines() if self._log.exists() else []

    @property
    def images(self) -> Images:
        return read_images(self.k8s / "images" / "kustomization.yaml")


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


REGISTRY = "registry.example.com/team"


def test_images_are_built_and_the_manifests_name_them(checkout: Checkout) -> None:
    result = checkout.make("images", f"REGISTRY={REGISTRY}", "TAG=v1")
    assert result.returncode == 0, result.stderr
    assert [command.split(" --build-arg")[0] for command in checkout.commands] == [
        f"build --file components/Dockerfile --tag {REGISTRY}/components:v1",
        f"build --file serving/Dockerfile --tag {REGISTRY}/serving:v1",
    ]
    assert "TORCH_INDEX" not in checkout.commands[0]
    assert checkout.images == Images(f"{REGISTRY}/components:v1", f"{REGISTRY}/serving:v1")
    rendered = render(checkout.k8s / "overlays" / "standard")
    ours = {found.container["image"] for found in rendered.containers() if "/" in found.container["image"]}
    assert ours == {f"{REGISTRY}/components:v1", f"{REGISTRY}/serving:v1", "heartexlabs/label-studio:1.23.2"}


def test_pushed_images_are_named_by_digest(checkout: Checkout) -> None:
    for _ in range(2):  # The record of an earlier push is replaced.
        result = checkout.make("push", f"REGISTRY={REGISTRY}", "TAG=v1")
        assert result.returncode == 0, result.stderr
    assert checkout.commands[0] == f"push {REGISTRY}/components:v1"
    assert checkout.images.pinned
    assert checkout.images.components == f"{REGISTRY}/components@{DIGESTS['components']}"
    rendered = render(checkout.k8s / "overlays" / "knative")
    service = rendered.of("InferenceService")[0]
    assert service["spec"]["transformer"]["containers"][0]["image"] == f"{REGISTRY}/serving@{DIGESTS['serving']}"


def test_cuda_is_a_build_argument(checkout: Checkout) -> None:
    index = "https://download.pytorch.org/whl/cu128"
    assert checkout.make("images", f"REGISTRY={REGISTRY}", "TAG=v1", TORCH_INDEX=index).returncode == 0
    assert all(f"--build-arg TORCH_INDEX={index} " in command for command in checkout.commands)


@pytest.mark.parametrize("arguments", [[], ["TAG=v1"], [f"REGISTRY={REGISTRY}"]])
@pytest.mark.parametrize("target", ["images", "push"])
def test_without_a_registry_or_a_tag_it_says_what_is_missing(
    checkout: Checkout, target: str, arguments: list[str]
) -> None:
    result = checkout.make(target, *arguments)
    assert result.returncode != 0
    assert "Expected a registry and a tag. For example: make images REGISTRY=" in result.stderr
    assert checkout.commands == []


def test_a_failed_push_leaves_the_record_as_it_was(checkout: Checkout) -> None:
    before = checkout.images
    assert checkout.make("push", f"REGISTRY={REGISTRY}", "TAG=broken").returncode != 0
    assert checkout.images == before
