"""Rollouts to an InferenceService, at a Kubernetes API that keeps, refuses and serves as the real one does."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.deploy import inference_service, kubernetes_api
from components.deploy.inference_service import Rollout
from components.deploy.rollout import deploy_model
from reviewloop.errors import ClusterError, RegistryError, ReviewLoopError, RolloutError
from reviewloop.registry import KubeflowIds, Registry
from reviewloop.spec import ClusterSpec
from tests.fakes.kubernetes_api import MODE, FakeKubernetesApi, Model
from tests.fakes.kubernetes_api import kubernetes_api as running_kubernetes_api
from tests.k8s.manifests import copy_manifests, render
from tests.registered_versions import answer, register_version

NAME = "sentiment"
LABEL = "reviewloop.dev/version"


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKubernetesApi]:
    """A cluster with KServe, which KUBECONFIG leads to."""
    with running_kubernetes_api() as fake:
        monkeypatch.setenv("KUBECONFIG", str(fake.write_kubeconfig(tmp_path / "kubeconfig")))
        monkeypatch.setattr(kubernetes_api, "_FIRST_PAUSE_S", 0.01)
        yield fake


class Cluster:
    """A registry, and the InferenceService to deploy its versions to."""

    def __init__(self, api: FakeKubernetesApi, directory: Path) -> None:
        self.api = api
        self.directory = directory
        self.registry = Registry((directory / "registry").as_uri())
        self.output: list[str] = []

    def register(self, positive: float = 0.9, served: float | None = None, **model: Any) -> str:
        """The next version: what it answered at its evaluation, what it will answer, and how it will come up."""
        version = register_version(self.registry, self.directory, positive=positive)
        sure = positive if served is None else served
        self.api.models[self.registry.model_uri(version)] = Model(version, lambda text: answer(sure), **model)
        return version

    def deploy(self, version: str, timeout_s: int = 20, mode: str = "Standard", **options: Any) -> None:
        """Roll ``version`` out."""
        spec = ClusterSpec(deployment_mode=mode, rollout_timeout_s=timeout_s)  # type: ignore[arg-type]
        ids = options.pop("ids", None)
        Rollout(self.registry, NAME, spec, report=self.output.append, poll_s=0.02, **options).run(version, ids)

    def deployed(self, mode: str = "Standard", **about: Any) -> str:
        """A version that serves."""
        version = self.register(**about)
        self.deploy(version, mode=mode)
        return version

    @property
    def storage_uri(self) -> str | None:
        """Where the InferenceService's model is."""
        found: str | None = self.api.service()["spec"]["predictor"]["model"].get("storageUri")
        return found

    def is_at(self, version: str) -> bool:
        """Whether the InferenceService is at ``version`` in every respect that is ours."""
        labels = self.api.service()["metadata"].get("labels", {})
        return self.storage_uri == self.registry.model_uri(version) and labels.get(LABEL) == version


@pytest.fixture
def cluster(api: FakeKubernetesApi, tmp_path: Path) -> Cluster:
    """An empty registry and a cluster without an InferenceService."""
    return Cluster(api, tmp_path)


@pytest.mark.parametrize("mode", ["Standard", "Knative"])
def test_the_first_version_makes_the_inference_service_of_the_manifests(
    cluster: Cluster, mode: str, tmp_path: Path
) -> None:
    applied = render(copy_manifests(tmp_path) / "overlays" / mode.lower()).one("InferenceService", NAME)
    image = applied["spec"]["transformer"]["containers"][0]["image"]
    version = cluster.register()
    cluster.deploy(version, mode=mode, serving_image=image)
    service = cluster.api.service()
    assert cluster.is_at(version)
    assert cluster.storage_uri == cluster.registry.model_uri(version)
    assert str(cluster.storage_uri).endswith("/")
    assert cluster.registry.champion() == version
    assert service["metadata"]["annotations"][MODE] == mode
    made = service["spec"]
    del made["predictor"]["model"]["storageUri"]
    made["predictor"].pop("canaryTrafficPercent", None)
    assert made == applied["spec"]
    assert "Created InferenceService sentiment in namespace reviewloop" in cluster.output
    assert cluster.output[-1] == "v0001 answers its 2 probes as at its evaluation"


def test_the_conditions_are_shown_as_they_change(cluster: Cluster) -> None:
    cluster.deployed(message="0/3 nodes are available: 3 Insufficient cpu.")
    # Before that, the InferenceService had no model.
    assert [line for line in cluster.output if line.startswith("PredictorReady")][-2:] == [
        "PredictorReady is False: MinimumReplicasUnavailable: 0/3 nodes are available: 3 Insufficient cpu.",
        "PredictorReady is True",
    ]


@pytest.mark.parametrize("stays_ready", [False, True])
def test_in_standard_mode_a_version_serves_once_no_pod_of_the_old_one_answers(
    cluster: Cluster, stays_ready: bool
) -> None:
    cluster.deployed(positive=0.7)
    cluster.api.stays_ready, cluster.api.lingering = stays_ready, 4
    cluster.api.traffic.clear()
    version = cluster.register(positive=0.9)
    cluster.deploy(version)
    answered = [version for _, version in cluster.api.traffic]
    assert answered[-3:] == [version] * 3
    assert answered.count("v0001") >= 4
    assert cluster.is_at(version)
    assert cluster.registry.champion() == version
    assert "canaryTrafficPercent" not in cluster.api.service()["spec"]["predictor"]


def test_in_knative_mode_a_version_is_checked_at_each_share_of_the_traffic(cluster: Cluster) -> None:
    cluster.deployed("Knative", positive=0.7)
    cluster.api.traffic.clear()
    version = cluster.register(positive=0.9)
    cluster.deploy(version, mode="Knative")
    assert [line for line in cluster.output if line.startswith("Moved")] == [
        "Moved InferenceService sentiment to v0001, 100% of the traffic",
        "Moved InferenceService sentiment to v0002, 10% of the traffic",
        "Moved InferenceService sentiment to v0002, 50% of the traffic",
        "Moved InferenceService sentiment to v0002, 100% of the traffic",
    ]
    for percent in (10, 50, 100):
        assert (percent, version) in cluster.api.traffic
    assert (10, "v0001") in cluster.api.traffic
    assert cluster.registry.champion() == version


@pytest.mark.parametrize("mode", ["Standard", "Knative"])
@pytest.mark.parametrize("registered", [False, True])
def test_a_version_that_answers_its_probes_otherwise_is_moved_back(
    cluster: Cluster, mode: str, registered: bool
) -> None:
    first = cluster.register(positive=0.7)
    ids = KubeflowIds(address="kubeflow://registry:8080", registered_model="1", model_version="11")
    if registered:
        cluster.registry.set_kubeflow_ids(first, ids)
    cluster.deploy(first, mode=mode, ids=ids if registered else None)
    before = cluster.api.service()["metadata"]["labels"]
    version = cluster.register(positive=0.9, served=0.5)
    with pytest.raises(
        RolloutError,
        match=r"^v0002 could not be deployed: A probe was answered otherwise than at its evaluation: a probability "
        r"differs by 0\.400, and 0\.02 is allowed\. v0001 serves again\.$",
    ):
        cluster.deploy(version, mode=mode)
    assert cluster.is_at(first)
    assert cluster.api.service()["metadata"]["labels"] == before
    assert cluster.registry.champion() == first
    cluster.api.traffic.clear()
    assert cluster.api.predict(NAME, ["a text"]).body["predictions"][0]["model_version"] == first


def test_in_knative_mode_what_does_badly_never_gets_more_than_its_share(cluster: Cluster) -> None:
    cluster.deployed("Knative", positive=0.7)
    version = cluster.register(positive=0.9, served=0.5)
    cluster.api.traffic.clear()
    with pytest.raises(RolloutError, match=r"v0001 serves again\.$"):
        cluster.deploy(version, mode="Knative")
    assert {percent for percent, answered in cluster.api.traffic if answered == version} == {10}
    shares = [line for line in cluster.output if line.startswith("Moved")][-3:]
    assert [line.split(" to ")[1] for line in shares] == [
        "v0002, 10% of the traffic",
        "v0001, 0% of the traffic",
        "v0001, 100% of the traffic",
    ]


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("Standard", r"PredictorReady is False: MinimumReplicasUnavailable: 0/3 nodes are available"),
        ("Knative", r'PredictorReady is False: RevisionFailed: Revision "sentiment-predictor-00003" failed with'),
    ],
)
def test_a_pod_that_never_becomes_ready_is_moved_back_with_its_message(
    cluster: Cluster, mode: str, reason: str
) -> None:
    cluster.deployed(mode, positive=0.7)
    version = cluster.register(ready_after=None, message="0/3 nodes are available")
    with pytest.raises(
        RolloutError, match=rf"^v0002 could not be deployed: It did not serve in time: {reason}.*\. v0001 serves again"
    ):
        cluster.deploy(version, timeout_s=2, mode=mode)
    assert cluster.is_at("v0001")
    assert cluster.registry.champion() == "v0001"


def test_a_model_that_cannot_be_loaded_is_moved_back_before_the_time_is_up(cluster: Cluster) -> None:
    cluster.deployed()
    version = cluster.register(ready_after=None, failure="Access Denied when calling GetObject")
    started = time.monotonic()
    with pytest.raises(
        RolloutError,
        match=r"It could not be loaded: ModelLoadFailed: Access Denied when calling GetObject\. v0001 serves again\.$",
    ):
        cluster.deploy(version, timeout_s=5)
    assert time.monotonic() - started < 4


def test_a_first_version_that_fails_leaves_no_model(cluster: Cluster) -> None:
    version = cluster.register(served=0.1)
    with pytest.raises(RolloutError, match=r"^v0001 could not be deployed: .* Nothing served before\.$"):
        cluster.deploy(version)
    assert cluster.storage_uri is None
    assert LABEL not in cluster.api.service()["metadata"].get("labels", {})
    assert cluster.registry.champion() is None
    # The next one finds the InferenceService there.
    cluster.deploy(cluster.register(positive=0.8))
    assert cluster.registry.champion() == "v0002"


def test_what_others_wrote_stays_theirs(cluster: Cluster) -> None:
    manifest = yaml.safe_load((Path(inference_service.__file__).parent / "inference-service.yaml").read_text())
    manifest["metadata"]["namespace"] = "reviewloop"
    manifest["metadata"]["labels"] = {"team": "text"}
    manifest["spec"]["predictor"]["model"]["runtime"] = "our-cuda-runtime"
    cluster.api.kubectl_apply(manifest)
    first = cluster.deployed(positive=0.7)
    cluster.api.kubectl_apply(manifest | {"spec": {"predictor": {"maxReplicas": 9}}})
    assert cluster.is_at(first)
    cluster.deployed(positive=0.9)
    service = cluster.api.service()
    assert service["metadata"]["labels"] == {"team": "text", LABEL: "v0002"}
    assert service["spec"]["predictor"]["maxReplicas"] == 9
    assert service["spec"]["predictor"]["model"]["runtime"] == "our-cuda-runtime"
    assert service["spec"]["predictor"]["model"]["modelFormat"] == {"name": "reviewloop"}


@pytest.mark.parametrize("mode", ["Standard", "Knative"])
def test_every_verb_of_the_role_is_used_and_no_other(cluster: Cluster, mode: str) -> None:
    cluster.api.accounts["pipeline"] = set(kubernetes_api.VERBS)
    cluster.deployed(mode, positive=0.7)
    cluster.deployed(mode, positive=0.9)
    assert set(cluster.api.verbs) == set(kubernetes_api.VERBS)
    assert set(cluster.api.patch_types) == {"application/apply-patch+yaml"}


@pytest.mark.parametrize("verb", kubernetes_api.VERBS)
def test_a_missing_permission_is_a_sentence_that_names_the_role(cluster: Cluster, verb: str) -> None:
    cluster.api.accounts["pipeline"] = set(kubernetes_api.VERBS) - {verb}
    version = cluster.register()
    with pytest.raises(
        ClusterError,
        match=rf"refused to {verb} InferenceServices in namespace reviewloop \(.*cannot {verb} resource.*The Role that "
        r"allows it is part of the manifests: `kubectl apply -k k8s/overlays/standard`",
    ):
        cluster.deploy(version)
    assert cluster.registry.champion() is None
    # Once it is there, the step run again goes on.
    cluster.api.accounts["pipeline"].add(verb)
    cluster.deploy(version)
    assert cluster.registry.champion() == version


def test_credentials_that_are_not_accepted_are_a_sentence(cluster: Cluster) -> None:
    cluster.api.accounts = {"other": set(kubernetes_api.VERBS)}
    with pytest.raises(ClusterError, match=r"did not accept the credentials"):
        cluster.deploy(cluster.register())


def test_a_cluster_without_kserve_is_a_sentence(cluster: Cluster) -> None:
    cluster.api.installed = False
    with pytest.raises(ClusterError, match=r"^KServe is not installed at http://127"):
        cluster.deploy(cluster.register())


def test_outside_of_any_cluster_is_a_sentence(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.directory / "missing"))
    with pytest.raises(ClusterError, match=r"^There is no way to the Kubernetes API: .* or set KUBECONFIG"):
        cluster.deploy(cluster.register())


def test_a_manifest_that_kserve_does_not_know_is_a_sentence(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Rollout._manifest

    def misspelt(rollout: Rollout) -> Any:
        manifest = made(rollout)
        manifest["spec"]["predictor"]["minReplica"] = 1
        return manifest

    monkeypatch.setattr(Rollout, "_manifest", misspelt)
    with pytest.raises(
        ClusterError,
        match=r'^The Kubernetes API refused to create .*: strict decoding error: .*"spec\.predictor\.minRepl',
    ):
        cluster.deploy(cluster.register())
    assert not cluster.api.exists()


def test_what_kserve_denies_is_told_in_its_words(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    version = cluster.register()
    monkeypatch.setattr(Registry, "model_uri", lambda registry, version: f"ftp://models/{version}/")
    with pytest.raises(ClusterError, match=r"^The Kubernetes API refused to patch .* has an invalid storageUri ftp://"):
        cluster.deploy(version)


def test_a_mode_that_does_not_fit_is_a_sentence(cluster: Cluster) -> None:
    cluster.deployed("Knative")
    with pytest.raises(RolloutError, match=r"runs in Knative mode, which cannot change, .* is Standard\. Set that to"):
        cluster.deploy(cluster.register(), mode="Standard")


def test_a_kserve_that_does_not_know_the_mode_is_noticed_by_what_it_made_of_it(cluster: Cluster) -> None:
    cluster.deployed(positive=0.7)
    cluster.api.default_mode = "Serverless"
    cluster.api.predict(NAME, ["a text"])  # Time passes.
    with pytest.raises(RolloutError, match=r"runs in Knative mode, which cannot change, .* is Standard\. Set that to"):
        cluster.deploy(cluster.register(positive=0.9))


@pytest.mark.parametrize("mode", ["Standard", "Knative"])
def test_an_api_that_fails_now_and_then_is_asked_again(cluster: Cluster, mode: str) -> None:
    cluster.deployed(mode, positive=0.7)
    version = cluster.register(positive=0.9)
    cluster.api.failures = [500, 503, 429, 504]
    cluster.api.lost_answers = 2
    cluster.deploy(version, mode=mode)
    assert cluster.api.failures == []
    assert cluster.api.lost_answers == 0
    assert cluster.is_at(version)
    assert cluster.registry.champion() == version


def test_an_api_that_loses_the_answer_to_the_creation_made_it_all_the_same(cluster: Cluster) -> None:
    cluster.api.lost_answers = 1
    version = cluster.deployed()
    assert cluster.is_at(version)


def test_an_api_that_is_down_is_a_sentence_and_the_next_run_continues(cluster: Cluster) -> None:
    cluster.deployed(positive=0.7)
    version = cluster.register(positive=0.9)
    cluster.api.failures = [503] * 10_000
    with pytest.raises(
        ClusterError, match=r"answered 503 \(etcdserver: .*\), as long as there was time to wait\. .* it continues\.$"
    ):
        cluster.deploy(version, timeout_s=1)
    cluster.api.failures = []
    assert cluster.is_at("v0001")
    cluster.deploy(version)
    assert cluster.is_at(version)


def test_an_api_that_nobody_listens_at_is_a_sentence(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.api.url = "http://127.0.0.1:9"
    monkeypatch.setenv("KUBECONFIG", str(cluster.api.write_kubeconfig(cluster.directory / "closed")))
    with pytest.raises(ClusterError, match=r"at http://127\.0\.0\.1:9 does not answer \(NewConnectionError\)"):
        cluster.deploy(cluster.register(), timeout_s=1)


def test_what_changes_between_look_and_request_is_looked_at_again(cluster: Cluster) -> None:
    cluster.deployed(positive=0.7)
    version = cluster.register(positive=0.9)
    scaled: Any = {"metadata": {"name": NAME}, "spec": {"predictor": {"minReplicas": 5}}}
    cluster.api.before_write = [lambda: cluster.api.kubectl_apply(scaled)]
    cluster.deploy(version)
    assert cluster.is_at(version)
    assert cluster.api.service()["spec"]["predictor"]["minReplicas"] == 5


def test_someone_who_writes_all_the_time_is_a_sentence(cluster: Cluster) -> None:
    cluster.deployed(positive=0.7)
    cluster.api.before_write = [
        lambda n=n: cluster.api.kubectl_apply(  # type: ignore[misc]
            {"metadata": {"name": NAME}, "spec": {"predictor": {"minReplicas": n + 3}}}
        )
        for n in range(100)
    ]
    with pytest.raises(ClusterError, match=r"changed by others 20 times in a row"):
        cluster.deploy(cluster.register(positive=0.9))


def test_of_two_rollouts_at_once_the_newer_version_serves(cluster: Cluster) -> None:
    cluster.deployed(positive=0.7)
    older, newer = cluster.register(positive=0.8, ready_after=60), cluster.register(positive=0.9, ready_after=10)
    caught: list[ReviewLoopError] = []

    def deploy_older() -> None:
        try:
            cluster.deploy(older)
        except ReviewLoopError as error:
            caught.append(error)

    thread = threading.Thread(target=deploy_older)
    thread.start()
    while not cluster.is_at(older):
        time.sleep(0.005)
    cluster.deploy(newer)
    thread.join()
    assert [str(error) for error in caught] == [
        f"InferenceService sentiment was moved to {cluster.registry.model_uri(newer)} by someone else meanwhile; that "
        "is left as it is."
    ]
    assert cluster.is_at(newer)
    assert cluster.registry.champion() == newer


def test_an_older_version_does_not_push_a_newer_one_aside(cluster: Cluster) -> None:
    cluster.deployed(positive=0.7)
    older, newer = cluster.register(positive=0.8), cluster.register(positive=0.9)
    # Just before the older one's request, the newer one's rollout begins.
    cluster.api.before_write = [lambda: cluster.api.move(cluster.registry.model_uri(newer))]
    with pytest.raises(RolloutError, match=r"^v0002 is not deployed: InferenceService sentiment is at the newer v0003"):
        cluster.deploy(older)
    assert cluster.storage_uri == cluster.registry.model_uri(newer)
    cluster.deploy(older, by_hand=True)
    assert cluster.is_at(older)


def test_one_that_was_deleted_meanwhile_is_a_sentence(cluster: Cluster) -> None:
    version = cluster.register(ready_after=None)
    timer = threading.Timer(0.3, cluster.api.delete)
    timer.start()
    with pytest.raises(RolloutError, match=r"InferenceService sentiment was deleted meanwhile\. Run this again"):
        cluster.deploy(version)
    timer.join()


@pytest.mark.parametrize("mode", ["Standard", "Knative"])
def test_a_rollout_that_is_terminated_leaves_it_as_it_is_and_continues_when_run_again(
    cluster: Cluster, mode: str
) -> None:
    cluster.deployed(mode, positive=0.7)
    version = cluster.register(positive=0.9, ready_after=100_000)
    code = f"""
        from components.deploy.inference_service import Rollout
        from reviewloop.registry import Registry
        from reviewloop.spec import ClusterSpec
        Rollout(Registry({cluster.registry.uri!r}), "sentiment", ClusterSpec(deployment_mode={mode!r})).run("{version}")
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stderr=subprocess.PIPE, text=True, env=os.environ
    )
    while not cluster.is_at(version):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 1
    assert errors.strip().endswith(
        "Ended while v0002 was being rolled out. The InferenceService stays as it is; run this again and it continues."
    )
    assert cluster.is_at(version)
    assert cluster.registry.champion() == "v0001"
    cluster.api.models[cluster.registry.model_uri(version)].ready_after = 0
    cluster.output.clear()
    cluster.deploy(version, mode=mode)
    moved = [line.split(", ")[1] for line in cluster.output if line.startswith("Moved") and mode == "Knative"]
    assert moved == (["10% of the traffic", "50% of the traffic", "100% of the traffic"] if moved else [])
    assert cluster.registry.champion() == version


def test_an_interrupted_rollout_does_not_go_back_to_a_smaller_share(cluster: Cluster) -> None:
    cluster.deployed("Knative", positive=0.7)
    version = cluster.register(positive=0.9)
    cluster.api.before_write = [lambda: None, lambda: None, lambda: setattr(cluster.api, "installed", False)]
    cluster.api.accounts["pipeline"] = set(kubernetes_api.VERBS)

    class Ended(BaseException):
        pass

    def end(line: str) -> None:
        if "50%" in line:
            raise Ended

    spec = ClusterSpec(deployment_mode="Knative", rollout_timeout_s=20)
    with pytest.raises(Ended):
        Rollout(cluster.registry, NAME, spec, report=end, poll_s=0.02).run(version)
    cluster.api.before_write = []
    cluster.api.traffic.clear()
    cluster.deploy(version, mode="Knative")
    assert {percent for percent, _ in cluster.api.traffic} == {50, 100}
    assert cluster.registry.champion() == version


@pytest.fixture
def out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names of the cluster's services mean nothing here."""
    monkeypatch.setattr(
        "components.deploy.status.predictor_urls", lambda service: ["http://sentiment-predictor.reviewloop.invalid"]
    )


def test_from_outside_the_cluster_the_predictor_is_probed_through_the_kubernetes_api(
    cluster: Cluster, request: pytest.FixtureRequest
) -> None:
    cluster.deployed(positive=0.7)
    request.getfixturevalue("out_of_reach")
    version = cluster.register(positive=0.9)
    cluster.deploy(version)
    assert cluster.is_at(version)
    wrong = cluster.register(positive=0.9, served=0.6)
    with pytest.raises(RolloutError, match=r"a probability differs by 0\.300.* serves again"):
        cluster.deploy(wrong)
    assert cluster.is_at(version)
    cluster.api.may_proxy = False
    with pytest.raises(RolloutError, match=r"by way of the Kubernetes API .*services/proxy.* is forbidden"):
        cluster.deploy(cluster.register(positive=0.9), timeout_s=2)


def test_in_knative_mode_a_predictor_out_of_reach_is_noticed_before_anything_is_changed(
    cluster: Cluster, request: pytest.FixtureRequest
) -> None:
    cluster.deployed("Knative", positive=0.7)
    before = cluster.api.service()
    request.getfixturevalue("out_of_reach")
    with pytest.raises(
        RolloutError, match=r"cannot be probed from here: .*\.invalid cannot be resolved\. Run this with"
    ):
        cluster.deploy(cluster.register(positive=0.9), mode="Knative")
    assert cluster.api.service()["spec"] == before["spec"]


def test_the_step_labels_the_inference_service_and_takes_its_settings_from_the_loop(cluster: Cluster) -> None:
    version = cluster.register()
    ids = KubeflowIds(address="kubeflow://registry:8080", registered_model="3", model_version="7")
    cluster.registry.set_kubeflow_ids(version, ids)
    about = (cluster.registry.uri, NAME, "", Path())
    deploy_model(version, *about, ClusterSpec(rollout_timeout_s=20), "", "kubeflow://registry:8080")
    assert cluster.api.service()["metadata"]["labels"] == {
        LABEL: version,
        "modelregistry.kubeflow.org/registered-model-id": "3",
        "modelregistry.kubeflow.org/model-version-id": "7",
    }
    with pytest.raises(RegistryError, match=r"There is no version v0009"):
        deploy_model("v0009", *about, ClusterSpec())
