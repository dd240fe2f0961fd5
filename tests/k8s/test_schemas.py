"""Every rendered object is one that its API accepts, by the strictest schema there is of it."""

import copy
from typing import Any

import pytest

from tests.k8s.manifests import Manifests
from tests.k8s.schemas import KSERVE_MODELS, validate


def test_every_object_is_valid(manifests: Manifests) -> None:
    assert manifests.objects
    for document in manifests.objects:
        validate(document)


def test_no_object_is_there_twice(manifests: Manifests) -> None:
    names = [(o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]) for o in manifests.objects]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("kind", ["Deployment", "NetworkPolicy", "Role", "PodMonitor", *KSERVE_MODELS])
def test_validation_notices_an_unknown_field(kind: str, rendered: dict[str, Manifests]) -> None:
    for document in (o for manifests in rendered.values() for o in manifests.of(kind)):
        bad: dict[str, Any] = copy.deepcopy(document)
        (bad["rules"][0] if kind == "Role" else bad["spec"])["misspelt"] = "x"
        with pytest.raises(Exception, match="misspelt"):
            validate(bad)
        return
    raise AssertionError(f"nothing rendered is a {kind}")


def test_validation_notices_a_bad_probe_in_a_runtime(standard: Manifests) -> None:
    runtime = copy.deepcopy(standard.one("ServingRuntime", "reviewloop-predictor"))
    runtime["spec"]["containers"][0]["readinessProbe"]["httpGet"] = {"path": "/v2/health/ready"}
    with pytest.raises(AssertionError, match="port is missing"):
        validate(runtime)
