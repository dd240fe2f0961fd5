"""The manifests as kustomize renders them, and what of them several tests ask."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "k8s" / "overlays" / "standard" / "secrets.env.example"
OVERLAYS = sorted(path.name for path in (ROOT / "k8s" / "overlays").iterdir())
RENDERED = [*(f"overlays/{name}" for name in OVERLAYS), "monitoring", "restore", "restore-openshift"]

Object = dict[str, Any]


@dataclass(frozen=True)
class Container:
    """One container of a pod template, with the object that the template is in."""

    owner: str
    pod: Object
    container: Object


class Manifests:
    """What one kustomization renders."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def objects(self) -> list[Object]:
        """Every object, in kustomize's order."""
        return [document for document in yaml.safe_load_all(self.text) if document]

    def of(self, *kinds: str) -> list[Object]:
        """The objects of these kinds."""
        return [o for o in self.objects if o["kind"] in kinds]

    def one(self, kind: str, name: str) -> Object:
        """The only object of this kind and name."""
        found = [o for o in self.of(kind) if o["metadata"]["name"] == name]
        assert len(found) == 1, f"{len(found)} objects are {kind} {name}"
        return found[0]

    def pods(self) -> Iterator[tuple[str, str, Object]]:
        """Namespace, owner, and pod spec of every pod template; KServe's have theirs among other fields."""
        for o in self.objects:
            namespace, owner, spec = o["metadata"].get("namespace", ""), f"{o['kind']} {o['metadata']['name']}", {}
            match o["kind"]:
                case "Deployment" | "StatefulSet" | "Job":
                    spec = o["spec"]["template"]["spec"]
                case "CronJob":
                    spec = o["spec"]["jobTemplate"]["spec"]["template"]["spec"]
                case "ServingRuntime":
                    # Its pods run under the account of the InferenceService.
                    spec = o["spec"]
                case "InferenceService":
                    spec = o["spec"]["transformer"]
            if spec:
                yield namespace, owner, spec

    def containers(self) -> Iterator[Container]:
        """Every container of every pod template."""
        for _, owner, pod in self.pods():
            for container in [*pod.get("initContainers", []), *pod["containers"]]:
                yield Container(owner, pod, container)


def copy_manifests(directory: Path, values: dict[str, str] | None = None) -> Path:
    """The manifests below ``directory``, with a ``secrets.env`` of the example's values, or of these."""
    for name in ("k8s", "examples"):
        shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("secrets.env"))
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    if values is not None:
        lines = [f"{name}={value}" for name, value in values.items()]
    (directory / "k8s" / "overlays" / "standard" / "secrets.env").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return directory / "k8s"


def render(kustomization: Path) -> Manifests:
    """What ``kubectl apply -k`` would apply."""
    kubectl = shutil.which("kubectl")
    if not kubectl:
        missing = "kubectl is not on the PATH: install it, these tests render the manifests with it."
        pytest.fail(missing) if "CI" in os.environ else pytest.skip(missing)
    result = subprocess.run(
        ["kubectl", "kustomize", str(kustomization)],
        capture_output=True,
        text=True,
        check=False,
        # No network: a proxy that nobody listens on.
        env={"PATH": str(Path(kubectl).parent), "HTTPS_PROXY": "http://127.0.0.1:9"},
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return Manifests(result.stdout)
