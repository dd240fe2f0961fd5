"""The way onto a cluster, as README.md and docs/cluster.md give it, at servers that refuse what the real ones refuse.

Kubeflow Pipelines, the Kubernetes API with KServe, and the docker engine are simulated; the object store, Label Studio,
kustomize, the training and the model's answers are real.
"""

import csv
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.images import read_images
from pipelines.local_run import run_training_pipeline
from pipelines.staging import stage_inputs
from pipelines.training import STEPS
from reviewloop.inference import TextModel
from reviewloop.label_studio import API_KEY_VARIABLE, LabelStudioServer
from reviewloop.registry import Registry
from reviewloop.spec import load_spec
from reviewloop.task_types import task_type
from serving.protocol import prediction_fields
from tests.components.toy_task import toy_examples
from tests.conftest import LabelStudioProcess
from tests.e2e.conftest import ROOT
from tests.fakes.kubeflow_pipelines_api import FakePipelinesApi, Frame, fake_pipelines_api
from tests.fakes.kubernetes_api import FakeKubernetesApi, Model, kubernetes_api
from tests.k8s.manifests import Manifests, render
from tests.k8s.schemas import validate
from tests.k8s.test_release import DOCKER
from tests.pipelines.conftest import s3, s3_server
from tests.registered_versions import answer, register_version
from tests.tiny_model import LABELS

__all__ = ["s3", "s3_server"]

SUCCESS = [
    Frame("RUNNING", {"data-merge": "RUNNING"}),
    Frame("SUCCEEDED", dict.fromkeys(STEPS, "SUCCEEDED")),
]


@pytest.fixture
def pipelines_api() -> Iterator[FakePipelinesApi]:
    """Kubeflow Pipelines, whose runs succeed."""
    with fake_pipelines_api() as api:
        api.next_frames = SUCCESS
        yield api


@pytest.fixture
def cluster_api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKubernetesApi]:
    """The Kubernetes API with KServe, which KUBECONFIG leads to."""
    with kubernetes_api() as api:
        monkeypatch.setenv("KUBECONFIG", str(api.write_kubeconfig(tmp_path / "kubeconfig")))
        yield api


def commands() -> list[str]:
    """Every line in the ``sh`` blocks of both documents, in order."""
    text = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/cluster.md"))
    blocks = re.findall(r"^```sh\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [line for line in "".join(blocks).splitlines() if line and not line.startswith("#")]


class User:
    """Someone who types the documents' commands in a checkout."""

    def __init__(self, checkout: Path, environment: dict[str, str], cluster_api: FakeKubernetesApi) -> None:
        self._checkout = checkout
        self._environment = environment
        self._cluster_api = cluster_api
        self.applied: Manifests | None = None

    def type(self, line: str) -> None:
        """Run a command or, where it asks a whole cluster, check that what it names is in the manifests."""
        program, *arguments = shlex.split(line)
        if program == "export":
            # The servers are elsewhere here; the names must be right all the same.
            names = [argument.partition("=")[0] for argument in arguments]
            assert [name for name in names if name not in self._environment] == []
        elif program == "kubectl" and "-k" in arguments:
            self._use(render(self._checkout / arguments[arguments.index("-k") + 1]))
        elif program == "kubectl":
            self._check(arguments)
        elif program != "curl":
            result = subprocess.run(
                ["bash", "-c", line],
                cwd=self._checkout,
                env=self._environment,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert result.returncode == 0, f"{line}\n{result.stdout}\n{result.stderr}"
            assert "Traceback" not in result.stdout + result.stderr

    def _use(self, manifests: Manifests) -> None:
        for document in manifests.objects:
            validate(document)
        self.applied = self.applied or manifests
        for service in manifests.of("InferenceService"):
            self._cluster_api.kubectl_apply(service)

    def _check(self, arguments: list[str]) -> None:
        assert self.applied is not None
        named = {f"{o['kind'].lower()}/{o['metadata']['name']}" for o in self.applied.objects}
        # KServe makes this service; the restore is a manifest of its own.
        named |= {"service/sentiment-transformer", "job/postgres-restore"}
        kinds = {"deploy": "deployment", "svc": "service"}
        mentioned = [a.removeprefix("--from=").split("/") for a in arguments if "/" in a and ":" not in a]
        if "scale" in arguments:
            mentioned += [["deployment", a] for a in arguments[arguments.index("deployment") + 1 :] if a[0] != "-"]
        assert mentioned or "create" in arguments
        assert [m for m in mentioned if f"{kinds.get(m[0], m[0])}/{m[1]}" not in named] == []


@pytest.mark.timeout(600)
def test_every_command_of_the_cluster_documents_works(
    checkout: Path,
    environment: dict[str, str],
    s3: Any,
    pipelines_api: FakePipelinesApi,
    cluster_api: FakeKubernetesApi,
    tmp_path: Path,
) -> None:
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    registry = Registry("s3://reviewloop/sentiment")
    for _ in range(2):
        version = register_version(registry, tmp_path)
        registry.set_champion(version)
        cluster_api.models[registry.model_uri(version)] = Model(version, lambda text: answer(0.9))
    of_s3 = {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "KUBECONFIG"))}
    user = User(
        checkout,
        environment
        | of_s3
        | {
            "PATH": f"{docker.parent}{os.pathsep}{environment['PATH']}",
            "DOCKER_LOG": str(tmp_path / "docker.log"),
            "EDITOR": "sed -i s/CHANGE_ME/x1/",
            "KF_PIPELINES_ENDPOINT": pipelines_api.url,
        },
        cluster_api,
    )
    for line in commands():
        user.type(line)

    newest = max(pipelines_api.versions.values(), key=lambda v: v["created_at"])
    package = pipelines_api.package(newest["pipeline_version_id"])
    images = read_images(checkout / "k8s" / "images" / "kustomization.yaml")
    assert "@sha256:" in images.components
    assert yaml.safe_dump(package).count(images.components) >= len(STEPS)
    defaults = package["root"]["inputDefinitions"]["parameters"]
    assert defaults["base_model"]["defaultValue"].startswith("s3://reviewloop/sentiment/inputs/")
    assert pipelines_api.recurring_runs == {}  # Unscheduled again.
    assert registry.champion() == "v0002"  # Promoted v0001, and rolled back.


@pytest.mark.timeout(300)
def test_a_run_with_nothing_changed_trains_registers_and_serves_the_first_model(
    s3: Any,
    cluster_api: FakeKubernetesApi,
    label_studio: LabelStudioProcess,
    tiny_encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with (tmp_path / "base.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *((e.text, e.label) for e in toy_examples(250))])
    document = {
        "name": "on-a-cluster",
        "task": {"labels": list(LABELS)},
        "base_model": str(tiny_encoder),
        "data": {"source": str(tmp_path / "base.csv")},
        "training": {"epochs": 0.01, "learning_rate": 0.002, "batch_size": 8, "max_length": 32},
        "cluster": {"label_studio_url": label_studio.url, "rollout_timeout_s": 60},
    }
    (tmp_path / "loop.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    spec = stage_inputs(load_spec(tmp_path / "loop.yaml"), lambda line: None)
    LabelStudioServer(label_studio.url, label_studio.api_key).ensure_project(
        spec.name, task_type(spec.task.type, spec.task.labels), "", 1
    )
    monkeypatch.setenv(API_KEY_VARIABLE, label_studio.api_key)
    registry = Registry(spec.cluster_registry_uri)

    def serve(text: str) -> dict[str, Any]:
        served = tmp_path / "served"
        if not served.exists():
            registry.fetch_model("v0001", served)
        return prediction_fields(TextModel(served).predict([text])[0])

    cluster_api.models[registry.model_uri("v0001")] = Model("v0001", serve)
    said: list[str] = []
    run_training_pipeline(
        spec, {}, tmp_path / "pipeline", tmp_path / "training.log", lambda step, text: said.append(text)
    )
    assert registry.champion() == "v0001"
    service = cluster_api.service(spec.name)
    assert service["spec"]["predictor"]["model"]["storageUri"] == "s3://reviewloop/on-a-cluster/versions/v0001/model/"
    assert "Created InferenceService on-a-cluster in namespace reviewloop" in said
    assert "v0001 serves on-a-cluster" in said
    assert set(cluster_api.verbs) <= {"get", "list", "watch", "create", "patch"}
    log = (tmp_path / "training.log").read_text(encoding="utf-8")
    assert label_studio.api_key not in log
