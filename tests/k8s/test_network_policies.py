"""The NetworkPolicies allow the flows of the table in docs/cluster.md, and no others."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.k8s.manifests import OVERLAYS, ROOT, Manifests

Flow = tuple[str, str, frozenset[str]]

EVERY_POD = "every pod"
OURS = {
    "label-studio",
    "postgres",
    "postgres-backup",
    "predictor",
    "retrain-trigger",
    "review-dispatcher",
    "transformer",
    EVERY_POD,
}


def namespaces(*names: str) -> dict[str, Any]:
    if len(names) == 1:
        return {"matchLabels": {"kubernetes.io/metadata.name": names[0]}}
    return {"matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "In", "values": [*names]}]}


RUN_PODS = {"matchLabels": {"pipelines.kubeflow.org/v2_component": "true"}}
OTHERS: dict[str, Any] = {
    "DNS": None,
    "Knative": {"namespaceSelector": namespaces("istio-system", "knative-serving", "kourier-system")},
    "Kubeflow Pipelines": {
        "namespaceSelector": namespaces("kubeflow"),
        "podSelector": {"matchLabels": {"app": "ml-pipeline"}},
    },
    "OpenShift's Prometheus": {"namespaceSelector": namespaces("openshift-user-workload-monitoring")},
    "Prometheus": {"namespaceSelector": namespaces("monitoring")},
    "clients": {"namespaceSelector": {"matchLabels": {"reviewloop/client": "true"}}},
    "gateways": {"namespaceSelector": namespaces("envoy-gateway-system", "ingress-nginx", "istio-system")},
    "istiod": {"namespaceSelector": namespaces("istio-system"), "podSelector": {"matchLabels": {"app": "istiod"}}},
    "object store elsewhere": {
        "ipBlock": {
            "cidr": "0.0.0.0/0",
            "except": ["10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"],
        }
    },
    "object store in the cluster": {
        "namespaceSelector": namespaces("kubeflow"),
        "podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["minio", "seaweedfs"]}]},
    },
    "routers": {"namespaceSelector": {"matchLabels": {"policy-group.network.openshift.io/ingress": ""}}},
    "runs": {"namespaceSelector": namespaces("kubeflow"), "podSelector": RUN_PODS},
    "runs in the profile": {"namespaceSelector": namespaces("reviewloop"), "podSelector": RUN_PODS},
}


def table() -> Iterator[tuple[Flow, str]]:
    """The flows of the documentation, each with the overlay that it is in."""
    text = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8").split("<!-- flows -->")[1]
    for line in text.strip().splitlines()[2:]:
        origin, target, ports, _, overlay = (cell.strip() for cell in line.strip("|").split("|"))
        yield (origin, target, frozenset(ports.split(", "))), overlay


def name_of(selector: dict[str, Any]) -> str:
    """Which of our pods it selects."""
    labels = dict(selector["matchLabels"])
    if labels == {"app.kubernetes.io/part-of": "reviewloop"}:
        return EVERY_POD
    if labels.get("app.kubernetes.io/part-of") == "reviewloop":
        return str(labels["component"])
    assert list(labels) == ["app.kubernetes.io/name"]
    return str(labels["app.kubernetes.io/name"])


def peer_name(peer: dict[str, Any] | None) -> str:
    if peer and list(peer) == ["podSelector"]:
        return name_of(peer["podSelector"])
    names = [name for name, known in OTHERS.items() if known == peer]
    assert len(names) == 1, f"a peer that the table has no name for: {peer}"
    return names[0]


def allowed(manifests: Manifests, direction: str) -> list[Flow]:
    """The flows that the policies allow into, or out of, our pods."""
    flows = []
    for policy in manifests.of("NetworkPolicy"):
        for rule in policy["spec"].get(direction, []):
            ports = frozenset(str(p["port"]) + ("/UDP" if p["protocol"] == "UDP" else "") for p in rule["ports"])
            own = name_of(policy["spec"]["podSelector"])
            for peer in rule.get("from", rule.get("to", [None])):
                other = peer_name(peer)
                flows.append((other, own, ports) if direction == "ingress" else (own, other, ports))
    return flows


def one_port_each(flows: list[Flow]) -> list[tuple[str, str, str]]:
    return sorted((origin, target, port) for origin, target, ports in flows for port in ports)


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize(("direction", "own_end"), [("ingress", 1), ("egress", 0)])
def test_the_policies_allow_the_flows_of_the_table_and_no_others(
    rendered: dict[str, Manifests], overlay: str, direction: str, own_end: int
) -> None:
    expected = [flow for flow, where in table() if where in ("all", overlay) and flow[own_end] in OURS]
    assert one_port_each(allowed(rendered[f"overlays/{overlay}"], direction)) == one_port_each(expected)


def test_the_table_names_nothing_unknown() -> None:
    for (origin, target, _), overlay in table():
        assert {origin, target} <= OURS | set(OTHERS)
        assert overlay in ("all", *OVERLAYS)


@pytest.mark.parametrize("overlay", [name for name in OVERLAYS if name != "kubeflow-profile"])
def test_what_no_policy_allows_is_denied(rendered: dict[str, Manifests], overlay: str) -> None:
    policy = rendered[f"overlays/{overlay}"].one("NetworkPolicy", "default-deny")
    assert policy["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_of_ours_has_a_policy_that_isolates_it_both_ways(
    rendered: dict[str, Manifests], overlay: str
) -> None:
    isolated = {
        name_of(policy["spec"]["podSelector"])
        for policy in rendered[f"overlays/{overlay}"].of("NetworkPolicy")
        if policy["spec"]["podSelector"] and policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    }
    assert isolated == OURS - {EVERY_POD}
