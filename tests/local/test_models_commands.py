"""``reviewloop models`` against an object store and a Kubernetes API; on one machine, see the tests of rollouts."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from components.deploy import inference_service, kubernetes_api
from local import models_commands
from local.console import Console
from local.models_commands import models_app
from reviewloop.errors import RegistryError, ReviewLoopError, RolloutError
from reviewloop.registry import Registry
from reviewloop.spec import load_spec
from tests.fakes.kubernetes_api import FakeKubernetesApi, Model
from tests.fakes.kubernetes_api import kubernetes_api as running_kubernetes_api
from tests.fakes.model_registry_api import FakeModelRegistry, model_registry
from tests.registered_versions import answer, register_version

Run = Callable[..., str]


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKubernetesApi]:
    """A cluster with KServe, which KUBECONFIG leads to."""
    with running_kubernetes_api("team") as fake:
        monkeypatch.setenv("KUBECONFIG", str(fake.write_kubeconfig(tmp_path / "kubeconfig")))
        monkeypatch.setattr(kubernetes_api, "_FIRST_PAUSE_S", 0.01)
        monkeypatch.setitem(inference_service.Rollout.__init__.__kwdefaults__, "poll_s", 0.02)
        yield fake


@pytest.fixture
def kubeflow() -> Iterator[FakeModelRegistry]:
    """A Kubeflow Model Registry."""
    with model_registry() as fake:
        yield fake


@pytest.fixture
def loop(s3: str, kubeflow: FakeModelRegistry, tmp_path: Path) -> Path:
    """A loop on the cluster."""
    document = yaml.safe_load(Path("examples/sentiment.yaml").read_text(encoding="utf-8"))
    document["registry"] = kubeflow.address
    document["cluster"] = {
        "namespace": "team",
        "registry_uri": f"{s3}/{tmp_path.name}",
        "rollout_timeout_s": 20,
    }
    path = tmp_path / "loop.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


@pytest.fixture
def registry(loop: Path) -> Registry:
    """The loop's versions."""
    return Registry(load_spec(loop).cluster_registry_uri)


@pytest.fixture
def run(loop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command on the loop; what it printed."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr(models_commands, "console", Console())
        models_app([*arguments, "--loop", str(loop)], standalone_mode=False)
        return capsys.readouterr().out

    return run


def add(registry: Registry, api: FakeKubernetesApi, directory: Path, positive: float, verdict: str = "promoted") -> str:
    """A version that KServe can serve."""
    version = register_version(registry, directory, positive=positive, verdict=verdict)
    api.models[registry.model_uri(version)] = Model(version, lambda text: answer(positive), ready_after=1)
    return version


def test_nothing_is_registered_yet(run: Run) -> None:
    assert "No version is registered in s3://" in run("list")
    with pytest.raises(RegistryError, match=r"There is no version v0001 in s3://"):
        run("show", "v0001")
    with pytest.raises(RegistryError, match=r"^Nothing serves yet in s3://"):
        run("rollback")


def test_versions_are_promoted_listed_shown_and_rolled_back(
    run: Run, registry: Registry, api: FakeKubernetesApi, kubeflow: FakeModelRegistry, tmp_path: Path
) -> None:
    first = add(registry, api, tmp_path, 0.7)
    assert run("promote", first).endswith("v0001 serves.\n")
    with pytest.raises(RegistryError, match=r"^Nothing served before v0001; `reviewloop models promote VERSION`"):
        run("rollback")
    second = add(registry, api, tmp_path, 0.9)
    output = run("promote", second)
    assert "PredictorReady is True" in output
    assert output.endswith("v0002 serves; before, v0001 did.\n")
    uri = str(api.service()["spec"]["predictor"]["model"]["storageUri"])
    assert uri == registry.model_uri(second)
    assert uri.startswith("s3://")
    assert uri.endswith("/v0002/model/")
    labels = api.service()["metadata"]["labels"]
    assert labels["modelregistry.kubeflow.org/model-version-id"] == kubeflow.versions[1]["id"]
    assert labels["modelregistry.kubeflow.org/registered-model-id"] == kubeflow.models[0]["id"]

    listed = [line.split() for line in run("list").splitlines()]
    assert [(line[0], *line[2:]) for line in listed[1:]] == [
        ("v0001", "promoted", "-", "accuracy", "0.800"),
        ("v0002", "promoted", "v0001", "accuracy", "0.800", "serves"),
    ]
    shown = run("show", second)
    for expected in (
        "v0002 promoted: It is better.",
        "parent: v0001",
        f"model: {uri}",
        f"Kubeflow Model Registry: model {kubeflow.models[0]['id']}, version {kubeflow.versions[1]['id']}",
        "It serves.",
    ):
        assert expected in shown
    assert "+0.050 to +0.150" in shown

    assert run("rollback").endswith("v0001 serves; before, v0002 did.\n")
    assert registry.champion() == first
    assert api.service()["spec"]["predictor"]["model"]["storageUri"] == registry.model_uri(first)


def test_a_refused_version_needs_force(run: Run, registry: Registry, api: FakeKubernetesApi, tmp_path: Path) -> None:
    run("promote", add(registry, api, tmp_path, 0.7))
    refused = add(registry, api, tmp_path, 0.6, "refused")
    with pytest.raises(
        ReviewLoopError, match=r"^v0002 was refused: It is worse\. To deploy it all the same, add --for"
    ):
        run("promote", refused)
    assert registry.champion() == "v0001"
    run("promote", refused, "--force")
    assert registry.champion() == refused


def test_a_promotion_that_does_badly_ends_with_the_sentence(
    run: Run, registry: Registry, api: FakeKubernetesApi, tmp_path: Path
) -> None:
    run("promote", add(registry, api, tmp_path, 0.7))
    version = add(registry, api, tmp_path, 0.9)
    api.models[registry.model_uri(version)].answer = lambda text: answer(0.5)
    with pytest.raises(RolloutError, match=r"^v0002 could not be deployed: .* v0001 serves again\.$"):
        run("promote", version)


def test_a_kubeflow_registry_that_is_down_is_noticed_before_anything_changes(
    run: Run, registry: Registry, api: FakeKubernetesApi, kubeflow: FakeModelRegistry, tmp_path: Path
) -> None:
    kubeflow.down = True
    with pytest.raises(RegistryError, match=r"^v0001 is in s3://.* could not take it \(it answered 503\)"):
        run("promote", add(registry, api, tmp_path, 0.7))
    assert not api.exists()
