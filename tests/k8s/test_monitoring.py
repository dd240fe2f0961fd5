"""Rules, dashboard and PodMonitor ask for what the code exports."""

import json
import re
from collections.abc import Iterator

import kserve.metrics
import pytest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric

from pipelines import retraining
from serving import endpoints
from serving.review import metrics
from serving.review.metrics import OutboxCollector
from serving.review.outbox import Outbox
from tests.k8s.manifests import Manifests

OF_KUBERNETES = {"kube_deployment_status_replicas_available"}
ALERTS = {
    "LabelStudioUnreachable",
    "NoReviews",
    "PredictorErrors",
    "ReviewOutboxDeep",
    "ReviewOutboxWriteFailures",
    "ReviewPartDown",
    "ReviewQueueOld",
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of every sample that the transformer, the predictor and the retrain trigger export."""
    families: list[Metric] = []
    for module in (endpoints, metrics, retraining, kserve.metrics):
        for value in vars(module).values():
            if isinstance(value, MetricWrapperBase):
                families += value.describe()
    outbox = Outbox(f"sqlite:///{tmp_path_factory.mktemp('monitoring') / 'outbox.db'}")
    families += OutboxCollector(outbox).collect()
    outbox.close()
    return {name for family in families for name in names(family)}


def names(family: Metric) -> Iterator[str]:
    match family.type:
        case "counter":
            yield f"{family.name}_total"
        case "histogram":
            yield from (f"{family.name}_{part}" for part in ("bucket", "count", "sum"))
        case _:
            yield family.name


def asked(expression: str) -> set[str]:
    """The names of the metrics in a PromQL expression."""
    without_strings = re.sub(r'"[^"]*"', "", expression)
    return set(re.findall(r"\b(?:reviewloop|request|kube)_\w+", without_strings))


def test_the_rules_ask_for_metrics_that_are_exported(rendered: dict[str, Manifests], exported: set[str]) -> None:
    (group,) = rendered["monitoring"].of("PrometheusRule")[0]["spec"]["groups"]
    assert {rule["alert"] for rule in group["rules"]} == ALERTS
    for rule in group["rules"]:
        assert asked(rule["expr"])
        assert asked(rule["expr"]) <= exported | OF_KUBERNETES, rule["alert"]
        assert rule["expr"].count("(") == rule["expr"].count(")")
        assert rule["annotations"].keys() == {"summary", "description"}


def test_the_dashboard_asks_for_metrics_that_are_exported(standard: Manifests, exported: set[str]) -> None:
    board = standard.one("ConfigMap", "grafana-dashboard-reviewloop")
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
    dashboard = json.loads(board["data"]["reviewloop.json"])
    assert len({panel["title"] for panel in dashboard["panels"]}) == len(dashboard["panels"]) > 5
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            assert asked(target["expr"])
            assert asked(target["expr"]) <= exported, panel["title"]
    assert asked(dashboard["templating"]["list"][1]["query"]) <= exported


def test_every_metric_of_ours_is_watched_by_a_rule_or_shown(rendered: dict[str, Manifests], exported: set[str]) -> None:
    board = rendered["overlays/standard"].one("ConfigMap", "grafana-dashboard-reviewloop")["data"]["reviewloop.json"]
    expressions = [target["expr"] for panel in json.loads(board)["panels"] for target in panel["targets"]]
    expressions += [
        rule["expr"] for rule in rendered["monitoring"].of("PrometheusRule")[0]["spec"]["groups"][0]["rules"]
    ]
    shown = {name for expression in expressions for name in asked(expression)}
    assert {name for name in exported if name.startswith("reviewloop_")} <= shown


def test_prometheus_finds_a_port_of_every_pod_that_has_metrics(rendered: dict[str, Manifests]) -> None:
    monitor = rendered["monitoring"].of("PodMonitor")[0]["spec"]
    monitored = {endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]}
    ports = {
        (found.owner, port["name"])
        for found in rendered["overlays/standard"].containers()
        for port in found.container.get("ports", [])
        if port["name"] in monitored
    }
    assert ports == {
        ("Deployment retrain-trigger", "webhook"),
        ("InferenceService sentiment", "http1"),
        ("ServingRuntime reviewloop-predictor", "http1"),
    }
