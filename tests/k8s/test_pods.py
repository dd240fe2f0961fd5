"""Every pod template: Pod Security, what it refers to, its images, and what a rollout needs."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from reviewloop.spec import load_spec
from serving.server import SHUTDOWN_GRACE_S
from tests.k8s.manifests import ROOT, Container, Manifests, Object

BUILT_HERE = {
    entry["newName"] for entry in yaml.safe_load((ROOT / "k8s/images/kustomization.yaml").read_text())["images"]
}
ALLOWED_VOLUMES = {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret"}


def setting(container: Container, name: str) -> Any:
    """A security setting of the container, or else of its pod."""
    own = container.container.get("securityContext", {})
    return own.get(name, container.pod.get("securityContext", {}).get(name))


def test_every_pod_satisfies_pod_security_restricted(manifests: Manifests) -> None:
    for found in manifests.containers():
        own = found.container["securityContext"]
        assert own["allowPrivilegeEscalation"] is False, found.owner
        assert own["capabilities"] == {"drop": ["ALL"]}, found.owner
        assert own["readOnlyRootFilesystem"] is True, found.owner
        assert setting(found, "runAsNonRoot") is True, found.owner
        assert setting(found, "runAsUser") != 0, found.owner
        assert setting(found, "seccompProfile") == {"type": "RuntimeDefault"}, found.owner
        assert not {"hostNetwork", "hostPID", "hostIPC"} & found.pod.keys(), found.owner
        assert all("hostPort" not in port for port in found.container.get("ports", []))
        for volume in found.pod.get("volumes", []):
            assert volume.keys() - {"name"} <= ALLOWED_VOLUMES, found.owner


def test_the_namespace_enforces_it(standard: Manifests) -> None:
    labels = standard.one("Namespace", "reviewloop")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert labels["app.kubernetes.io/part-of"] == "kubeflow-profile"


def test_every_container_states_what_it_needs(manifests: Manifests) -> None:
    for found in manifests.containers():
        resources = found.container["resources"]
        assert resources["requests"].keys() >= {"cpu", "memory"}, found.owner
        assert "memory" in resources["limits"], found.owner


def test_every_image_is_built_here_or_pinned_by_its_tag(manifests: Manifests) -> None:
    for found in manifests.containers():
        name, _, tag = found.container["image"].partition(":")
        assert tag and tag != "latest", found.owner
        assert name in BUILT_HERE | {"heartexlabs/label-studio", "postgres"}, found.owner


def references(pod: Object) -> Iterator[tuple[str, str, str | None]]:
    """Kind, name and key, or None for all keys, of what the pod reads."""
    for container in pod["containers"]:
        for variable in container.get("env", []):
            if "secretKeyRef" in (source := variable.get("valueFrom", {})):
                yield "Secret", source["secretKeyRef"]["name"], source["secretKeyRef"]["key"]
        for source in container.get("envFrom", []):
            yield "Secret", source["secretRef"]["name"], None
    for volume in pod.get("volumes", []):
        if "configMap" in volume:
            for item in volume["configMap"].get("items", [{"key": None}]):
                yield "ConfigMap", volume["configMap"]["name"], item["key"]
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"], None


def keys(manifests: Manifests) -> dict[tuple[str, str, str], set[str]]:
    """The keys of everything that a pod may read, by kind, namespace and name."""
    found = {}
    for o in manifests.of("Secret", "ConfigMap", "PersistentVolumeClaim"):
        found[o["kind"], o["metadata"]["namespace"], o["metadata"]["name"]] = {
            *o.get("data", ()),
            *o.get("stringData", ()),
        }
    for o in manifests.of("ExternalSecret"):
        names = {entry["secretKey"] for entry in o["spec"]["data"]}
        found["Secret", o["metadata"]["namespace"], o["spec"]["target"]["name"]] = names
    return found


def with_what_is_there(name: str, rendered: dict[str, Manifests]) -> Manifests:
    """The restore Job and the monitoring are applied beside an overlay."""
    return rendered[name] if name.startswith("overlays/") else rendered["overlays/standard"]


def test_everything_that_a_pod_refers_to_is_there(rendered: dict[str, Manifests]) -> None:
    checked = 0
    for name, manifests in rendered.items():
        there = keys(with_what_is_there(name, rendered))
        for namespace, owner, pod in manifests.pods():
            for kind, referred, key in references(pod):
                assert (kind, namespace, referred) in there, f"{name}: {owner} needs {kind} {referred}"
                assert key is None or key in there[kind, namespace, referred], f"{name}: {owner} needs {referred}.{key}"
                checked += 1
    assert checked > 50


def test_every_service_account_is_there_and_has_a_token_only_where_it_needs_one(rendered: dict[str, Manifests]) -> None:
    for name, manifests in rendered.items():
        accounts = {
            (o["metadata"]["namespace"], o["metadata"]["name"]): o
            for o in with_what_is_there(name, rendered).of("ServiceAccount")
        }
        used = [
            (namespace, pod["serviceAccountName"])
            for namespace, _, pod in manifests.pods()
            if "supportedModelFormats" not in pod
        ]
        for service in manifests.of("InferenceService"):
            used.append((service["metadata"]["namespace"], service["spec"]["predictor"]["serviceAccountName"]))
        for account in used:
            assert accounts[account]["automountServiceAccountToken"] is False
        for binding in manifests.of("RoleBinding"):
            for subject in binding["subjects"]:
                assert (subject["namespace"], subject["name"]) in accounts, f"{name}: {binding['metadata']['name']}"


def test_every_mount_has_a_volume_and_every_volume_a_mount(manifests: Manifests) -> None:
    claims = {
        o["metadata"]["name"]: {claim["metadata"]["name"] for claim in o["spec"].get("volumeClaimTemplates", [])}
        for o in manifests.of("StatefulSet")
    }
    for _, owner, pod in manifests.pods():
        mounted = {mount["name"] for container in pod["containers"] for mount in container.get("volumeMounts", [])}
        volumes = {volume["name"] for volume in pod.get("volumes", [])} | claims.get(owner.partition(" ")[2], set())
        assert mounted == volumes, owner


def test_services_and_policies_find_their_pods(standard: Manifests) -> None:
    labels = [o["spec"]["template"]["metadata"]["labels"] for o in standard.of("Deployment", "StatefulSet")]
    for service in standard.of("Service"):
        selector = service["spec"]["selector"].items()
        assert any(selector <= pod.items() for pod in labels), service["metadata"]["name"]


@pytest.mark.parametrize("overlay", ["standard", "openshift", "kubeflow-profile", "external-secrets"])
def test_pods_of_the_model_end_after_they_have_drained(rendered: dict[str, Manifests], overlay: str) -> None:
    manifests = rendered[f"overlays/{overlay}"]
    service = manifests.of("InferenceService")[0]["spec"]
    runtime = manifests.of("ServingRuntime")[0]["spec"]
    for part, container in (
        ("predictor", runtime["containers"][0]),
        ("transformer", service["transformer"]["containers"][0]),
    ):
        waits = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
        assert service[part]["terminationGracePeriodSeconds"] > waits + SHUTDOWN_GRACE_S
        assert container["readinessProbe"]["httpGet"]["path"] == "/v2/health/ready"
        assert container["livenessProbe"]["httpGet"]["path"] == "/v2/health/live"


def test_a_rollout_needs_no_spare_gpu_and_leaves_a_pod_serving(standard: Manifests) -> None:
    predictor = standard.of("InferenceService")[0]["spec"]["predictor"]
    assert predictor["deploymentStrategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    assert predictor["minReplicas"] >= 2
    assert "storageUri" not in predictor["model"]


def test_knative_gets_nothing_that_it_refuses(rendered: dict[str, Manifests]) -> None:
    manifests = rendered["overlays/knative"]
    service = manifests.of("InferenceService")[0]
    assert service["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Knative"
    for part in ("predictor", "transformer"):
        assert (
            not {"terminationGracePeriodSeconds", "deploymentStrategy", "securityContext"}
            & service["spec"][part].keys()
        )
        assert service["spec"][part]["timeout"] > SHUTDOWN_GRACE_S
    pods = [service["spec"]["transformer"], manifests.of("ServingRuntime")[0]["spec"]]
    for container in (container for pod in pods for container in pod["containers"]):
        assert not {"lifecycle", "startupProbe"} & container.keys()
        assert [port["name"] for port in container["ports"]] == ["http1"]


def test_openshift_may_choose_every_user_id(rendered: dict[str, Manifests]) -> None:
    for found in [*rendered["overlays/openshift"].containers(), *rendered["restore-openshift"].containers()]:
        for name in ("runAsUser", "runAsGroup", "fsGroup"):
            assert setting(found, name) is None, found.owner


def test_what_runs_once_is_recreated(standard: Manifests) -> None:
    for deployment in standard.of("Deployment"):
        assert deployment["spec"]["replicas"] == 1
        assert deployment["spec"]["strategy"] == {"type": "Recreate"}


def test_label_studio_lets_nobody_sign_up_and_uses_postgres(standard: Manifests) -> None:
    container = standard.one("Deployment", "label-studio")["spec"]["template"]["spec"]["containers"][0]
    environment = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert environment["LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK"] == "true"
    assert environment["LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN"] == "true"
    assert environment["DJANGO_DB"] == "default"
    assert environment["POSTGRE_HOST"] == standard.of("StatefulSet")[0]["metadata"]["name"]


def test_the_loop_is_that_of_the_example_and_names_the_service(standard: Manifests) -> None:
    loop = yaml.safe_load(standard.one("ConfigMap", "reviewloop-loop")["data"]["loop.yaml"])
    assert loop == yaml.safe_load((ROOT / "examples" / "sentiment.yaml").read_text(encoding="utf-8"))
    assert standard.of("InferenceService")[0]["metadata"]["name"] == loop["name"]


def test_the_trigger_in_a_profile_has_a_token_for_kubeflow_pipelines(rendered: dict[str, Manifests]) -> None:
    pod = rendered["overlays/kubeflow-profile"].one("Deployment", "retrain-trigger")["spec"]["template"]["spec"]
    projected = next(volume["projected"] for volume in pod["volumes"] if "projected" in volume)
    assert projected["sources"][0]["serviceAccountToken"]["audience"] == "pipelines.kubeflow.org"


def test_every_command_exists_and_takes_its_arguments(standard: Manifests) -> None:
    ours = [found.container for found in standard.containers() if found.container.get("command", [""])[0] == "python"]
    helps = [
        subprocess.Popen(
            [sys.executable, *container["command"][1:], "--help"], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        for container in ours
    ]
    assert len(helps) == 4
    for container, process in zip(ours, helps, strict=True):
        text, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        for argument in container["args"]:
            if argument.startswith("--"):
                assert argument.partition("=")[0] in text, container["command"]


def test_the_defaults_of_a_loop_fit_the_manifests(standard: Manifests) -> None:
    loop = load_spec(ROOT / "examples" / "sentiment.yaml")
    cluster = loop.cluster
    assert standard.one("Namespace", cluster.namespace)
    assert standard.one("ServiceAccount", cluster.service_account)["metadata"]["namespace"] == "kubeflow"
    assert standard.one("Secret", cluster.secret)["metadata"]["namespace"] == "kubeflow"
    label_studio = standard.one("Service", "label-studio")
    port = label_studio["spec"]["ports"][0]["port"]
    assert loop.cluster_label_studio_url == f"http://label-studio.{cluster.namespace}.svc:{port}"
    service = standard.of("InferenceService")[0]
    assert service["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == cluster.deployment_mode
