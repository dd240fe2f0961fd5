"""Strict validation of every kind that the manifests hold: an unknown field fails, a missing one too."""

import re
from typing import Any

import jsonschema
import kserve.models
import kubernetes.client
import kubernetes_validate

KUBERNETES_VERSION = kubernetes_validate.latest_version()
KSERVE_MODELS = {
    "InferenceService": kserve.models.V1beta1InferenceService,
    "ServingRuntime": kserve.models.V1alpha1ServingRuntime,
}


def validate(document: dict[str, Any]) -> None:
    """Raises AssertionError or a library's error, saying which field is wrong."""
    kind = document["kind"]
    if kind in KSERVE_MODELS:
        check_model(document, KSERVE_MODELS[kind], kind)
    elif kind in CUSTOM:
        jsonschema.validate(document, CUSTOM[kind])
    else:
        kubernetes_validate.validate(document, KUBERNETES_VERSION, strict=True)


def check_model(value: Any, model: Any, path: str) -> None:
    """Raises AssertionError for a field that the SDK's model lacks, or a value of another type."""
    assert isinstance(value, dict), f"{path} must be a mapping, got {value!r}"
    attributes = {json_name: name for name, json_name in model.attribute_map.items()}
    for name, item in value.items():
        assert name in attributes, f"{path}.{name} is no field of {model.__name__}"
        check_type(item, model.openapi_types[attributes[name]], f"{path}.{name}")
    for attribute, json_name in model.attribute_map.items():
        if json_name not in value and attribute not in ("status",):
            assert not required(model, attribute), f"{path}.{json_name} is missing"


def required(model: Any, attribute: str) -> bool:
    """Whether the model refuses None."""
    instance = model.__new__(model)
    instance.local_vars_configuration = kubernetes.client.Configuration()
    setattr(instance, f"_{attribute}", None)
    try:
        setattr(instance, attribute, None)
    except ValueError:
        return True
    return False


def check_type(value: Any, kind: str, path: str) -> None:
    if match := re.fullmatch(r"list\[(.+)\]", kind):
        assert isinstance(value, list), f"{path} must be a list, got {value!r}"
        for number, item in enumerate(value):
            check_type(item, match[1], f"{path}[{number}]")
    elif match := re.fullmatch(r"dict\(str, (.+)\)", kind):
        assert isinstance(value, dict), f"{path} must be a mapping, got {value!r}"
        for name, item in value.items():
            check_type(item, match[1], f"{path}.{name}")
    elif kind in PLAIN:
        assert isinstance(value, PLAIN[kind]), f"{path} must be {kind}, got {value!r}"
        assert kind == "bool" or not isinstance(value, bool), f"{path} must be {kind}, got {value!r}"
    else:
        check_model(value, model_named(kind), path)


PLAIN: dict[str, Any] = {
    "str": str,
    "int": int,
    "float": (int, float),
    "bool": bool,
    "object": object,
    "ResourceQuantity": (str, int),
    "IntOrString": (str, int),
}


def model_named(name: str) -> Any:
    # The kserve SDK names some of Kubernetes' own models by their Go package.
    name = re.sub(r"^K8sIoApi(Apps|Core)(?=V1)", "", name)
    for module in (kserve.models, kubernetes.client):
        if hasattr(module, name):
            return getattr(module, name)
    raise AssertionError(f"neither SDK has a model {name}")


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": required | (optional or {}),
        "required": list(required),
        "additionalProperties": False,
    }


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


def _resource(api_version: str, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = _object({"name": TEXT, "namespace": TEXT}, {"labels": TEXTS, "annotations": TEXTS})
    return _object({"apiVersion": {"const": api_version}, "kind": {"const": kind}, "metadata": metadata, "spec": spec})


TEXT = {"type": "string", "minLength": 1}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
DURATION = {"type": "string", "pattern": r"^(\d+(ms|s|m|h|d))+$"}
MATCH_LABELS = _object({"matchLabels": TEXTS})
RULE = _object({"alert": TEXT, "expr": TEXT, "labels": TEXTS, "annotations": TEXTS}, {"for": DURATION})
OPERATION = _object({}, {"ports": _list(TEXT), "methods": _list(TEXT), "paths": _list(TEXT)})

CUSTOM = {
    "PodMonitor": _resource(
        "monitoring.coreos.com/v1",
        "PodMonitor",
        _object(
            {"selector": MATCH_LABELS, "podMetricsEndpoints": _list(_object({"port": TEXT}, {"interval": DURATION}))}
        ),
    ),
    "PrometheusRule": _resource(
        "monitoring.coreos.com/v1",
        "PrometheusRule",
        _object({"groups": _list(_object({"name": TEXT, "rules": _list(RULE)}))}),
    ),
    "Route": _resource(
        "route.openshift.io/v1",
        "Route",
        _object(
            {
                "to": _object({"kind": {"const": "Service"}, "name": TEXT}, {"weight": {"type": "integer"}}),
                "port": _object({"targetPort": TEXT}),
                "tls": _object(
                    {"termination": {"enum": ["edge", "passthrough", "reencrypt"]}},
                    {"insecureEdgeTerminationPolicy": {"enum": ["Allow", "Disable", "None", "Redirect"]}},
                ),
            }
        ),
    ),
    "AuthorizationPolicy": _resource(
        "security.istio.io/v1",
        "AuthorizationPolicy",
        _object(
            {
                "selector": MATCH_LABELS,
                "action": {"enum": ["ALLOW", "DENY", "AUDIT", "CUSTOM"]},
                "rules": _list(_object({"to": _list(_object({"operation": OPERATION}))})),
            }
        ),
    ),
    "ExternalSecret": _resource(
        "external-secrets.io/v1",
        "ExternalSecret",
        _object(
            {
                "refreshInterval": DURATION,
                "secretStoreRef": _object({"kind": {"enum": ["SecretStore", "ClusterSecretStore"]}, "name": TEXT}),
                "target": _object(
                    {"name": TEXT}, {"template": _object({"metadata": _object({"annotations": TEXTS}, {})})}
                ),
                "data": _list(_object({"secretKey": TEXT, "remoteRef": _object({"key": TEXT}, {"property": TEXT})})),
            }
        ),
    ),
}
