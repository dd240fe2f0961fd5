"""Secret values stand in Secrets and nowhere else, and each Secret has only what its readers need."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.k8s.conftest import example_names
from tests.k8s.manifests import EXAMPLE, OVERLAYS, ROOT, Manifests, copy_manifests, render


def test_no_secret_value_is_rendered_outside_of_secrets(manifests: Manifests, secret_values: dict[str, str]) -> None:
    values = [value for name, value in secret_values.items() if name not in ("AWS_USE_HTTPS",)]
    for document in manifests.objects:
        if document["kind"] != "Secret":
            assert not [value for value in values if value in str(document)], document["metadata"]["name"]


def test_every_secret_has_its_values(rendered: dict[str, Manifests], secret_values: dict[str, str]) -> None:
    for overlay in ("standard", "knative", "kubeflow-profile"):
        for secret in rendered[f"overlays/{overlay}"].of("Secret"):
            assert secret["stringData"] == {name: secret_values[name] for name in secret["stringData"]}


def test_kserve_finds_the_object_store_in_the_annotations(
    rendered: dict[str, Manifests], secret_values: dict[str, str]
) -> None:
    secret = rendered["overlays/standard"].one("Secret", "object-store")
    assert secret["metadata"]["annotations"] == {
        "serving.kserve.io/s3-endpoint": "store.example:9000",
        "serving.kserve.io/s3-usehttps": "1",
        "serving.kserve.io/s3-region": secret_values["AWS_DEFAULT_REGION"],
    }
    account = rendered["overlays/standard"].one("ServiceAccount", "reviewloop-serving")
    assert account["secrets"] == [{"name": "object-store"}]


def test_openshift_has_the_data_connection_that_the_model_names(
    rendered: dict[str, Manifests], secret_values: dict[str, str]
) -> None:
    manifests = rendered["overlays/openshift"]
    key = manifests.of("InferenceService")[0]["spec"]["predictor"]["model"]["storage"]["key"]
    assert json.loads(manifests.one("Secret", "storage-config")["stringData"][key]) == {
        "type": "s3",
        "access_key_id": secret_values["AWS_ACCESS_KEY_ID"],
        "secret_access_key": secret_values["AWS_SECRET_ACCESS_KEY"],
        "endpoint_url": secret_values["AWS_ENDPOINT_URL"],
        "region": secret_values["AWS_DEFAULT_REGION"],
    }
    assert manifests.one("Secret", key)["stringData"]["AWS_S3_ENDPOINT"] == secret_values["AWS_ENDPOINT_URL"]


def test_runs_get_no_database_password(standard: Manifests) -> None:
    secret = standard.one("Secret", "reviewloop-pipeline")
    assert secret["metadata"]["namespace"] == "kubeflow"
    assert sorted(secret["stringData"]) == [
        "AWS_ACCESS_KEY_ID",
        "AWS_DEFAULT_REGION",
        "AWS_ENDPOINT_URL",
        "AWS_SECRET_ACCESS_KEY",
        "LABEL_STUDIO_API_KEY",
    ]


def test_external_secrets_make_the_same_secrets(rendered: dict[str, Manifests]) -> None:
    external = {
        (o["metadata"]["namespace"], o["spec"]["target"]["name"]): (
            {entry["secretKey"] for entry in o["spec"]["data"]},
            set(o["spec"]["target"].get("template", {}).get("metadata", {}).get("annotations", {})),
        )
        for o in rendered["overlays/external-secrets"].of("ExternalSecret")
    }
    assert not rendered["overlays/external-secrets"].of("Secret")
    assert external == {
        (o["metadata"]["namespace"], o["metadata"]["name"]): (
            set(o["stringData"]),
            set(o["metadata"].get("annotations", {})),
        )
        for o in rendered["overlays/standard"].of("Secret")
    }


def test_the_values_of_the_example_cannot_work(tmp_path: Path) -> None:
    values = dict(line.split("=", 1) for line in EXAMPLE.read_text().splitlines() if line and line[0] != "#")
    assert set(values.values()) == {"CHANGE_ME", "CHANGE_ME://CHANGE_ME"}
    assert set(values) == set(example_names())
    k8s = copy_manifests(tmp_path)
    for overlay in OVERLAYS:
        assert render(k8s / "overlays" / overlay).objects


def test_a_missing_setting_fails_at_once_and_is_named(tmp_path: Path, secret_values: dict[str, str]) -> None:
    values = {name: value for name, value in secret_values.items() if name != "OUTBOX_DB_PASSWORD"}
    k8s = copy_manifests(tmp_path, values)
    with pytest.raises(AssertionError, match="OUTBOX_DB_PASSWORD"):
        render(k8s / "overlays" / "standard")


def test_git_ignores_the_values() -> None:
    ignored = ["git", "check-ignore", "--quiet", "k8s/overlays/standard/secrets.env"]
    assert subprocess.run(ignored, cwd=ROOT, check=False).returncode == 0
    assert subprocess.run([*ignored[:3], str(EXAMPLE)], cwd=ROOT, check=False).returncode == 1
