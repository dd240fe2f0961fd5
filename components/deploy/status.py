"""What the status of an InferenceService says.

``observedGeneration`` is not read: KServe copies into it the generation of the Deployment or Knative Service that it
made, which has nothing to do with the InferenceService's own.
"""

from typing import Any

from components.deploy.kubernetes_api import Manifest

MODE_ANNOTATION = "serving.kserve.io/deploymentMode"
_MODES = {"RawDeployment": "Standard", "Serverless": "Knative"}
"""What the deployment modes were called before KServe 0.16."""

_FAILED = ("BlockedByFailedLoad", "InvalidSpec")


def storage_uri(service: Manifest) -> str | None:
    """Where the model that it should serve is."""
    found = service["spec"]["predictor"].get("model", {}).get("storageUri")
    return None if found is None else str(found)


def canary_percent(service: Manifest) -> int:
    """The share of the traffic that the latest revision should get."""
    return int(service["spec"]["predictor"].get("canaryTrafficPercent", 100))


def deployment_mode(service: Manifest) -> str | None:
    """Standard or Knative, or None where neither status nor annotation says so yet."""
    annotations = service["metadata"].get("annotations", {})
    # The status tells what is: KServe 0.15 does not know the annotation's newer values, and takes its default instead.
    mode = _status(service).get("deploymentMode") or annotations.get(MODE_ANNOTATION)
    return None if mode is None else _MODES.get(str(mode), str(mode))


def conditions(service: Manifest) -> dict[str, str]:
    """Every condition by its type: True, False or Unknown, with the reason and message if there are any."""
    return {
        condition["type"]: ": ".join(
            part for part in (condition["status"], condition.get("reason"), condition.get("message")) if part
        )
        for condition in _status(service).get("conditions", [])
    }


def is_ready(service: Manifest) -> bool:
    """Whether it says that it is ready, and in Knative mode that its latest revision is."""
    predictor = _predictor(service)
    created, ready = predictor.get("latestCreatedRevision"), predictor.get("latestReadyRevision")
    # In Standard mode there are no revisions, or the Deployment's number as one that is created and never ready.
    return conditions(service).get("Ready") == "True" and (ready is None or ready == created)


def created_revision(service: Manifest) -> str | None:
    """The name of the latest revision in Knative mode, ready or not."""
    found = _predictor(service).get("latestCreatedRevision")
    return None if found is None else str(found)


def has_failed(service: Manifest) -> bool:
    """Whether the model could not be loaded. Its pod tries again, so this may pass."""
    return _status(service).get("modelStatus", {}).get("transitionStatus") in _FAILED


def trouble(service: Manifest) -> str:
    """The most telling message of one that is not ready: the model's failure, or else a condition's."""
    failure = _status(service).get("modelStatus", {}).get("lastFailureInfo", {})
    if has_failed(service) and failure:
        return ": ".join(str(failure[part]) for part in ("reason", "message") if failure.get(part))
    for name, value in sorted(conditions(service).items(), key=lambda item: item[0] == "Ready"):
        if value != "True":
            return f"{name} is {value}"
    return "it has no status yet" if not conditions(service) else "its latest revision is not ready"


def predictor_urls(service: Manifest) -> list[str]:
    """Where its predictor may answer, the likeliest first.

    The status names the address within the cluster in Knative mode only. In Standard mode the ``url`` may be one for
    the outside, the service's name is known, and a headless service is asked at the container's own port.
    """
    predictor = _predictor(service)
    host = f"http://{service['metadata']['name']}-predictor.{service['metadata']['namespace']}.svc.cluster.local"
    found = [(predictor.get("address") or {}).get("url"), predictor.get("url")]
    named = [str(url).rstrip("/") for url in found if url]
    return list(dict.fromkeys([*named, host, f"{host}:8080"]))


def has_served(service: Manifest) -> bool:
    """Whether its predictor has been up at some time."""
    predictor = _predictor(service)
    return bool(predictor.get("url") or predictor.get("address"))


def _status(service: Manifest) -> dict[str, Any]:
    return dict(service.get("status") or {})


def _predictor(service: Manifest) -> dict[str, Any]:
    return dict(_status(service).get("components", {}).get("predictor") or {})
