"""Registering a version with its evidence."""

from pathlib import Path

import pytest

from components.register.registration import register_model
from reviewloop.errors import RegistryError
from reviewloop.inference import TextModel
from reviewloop.registry import Registry
from tests.components.evaluations import evaluate, register
from tests.fakes.model_registry_api import model_registry


@pytest.fixture
def registry_uri(tmp_path: Path) -> str:
    """Where an empty registry is."""
    return (tmp_path / "registry").as_uri()


def test_a_registered_model_knows_its_version(
    toy_dataset: Path, toy_model: Path, registry_uri: str, tmp_path: Path
) -> None:
    result = evaluate(toy_dataset, toy_model, registry_uri)
    manifests = [register(result, toy_model, registry_uri, tmp_path) for _ in range(2)]
    assert [m.version for m in manifests] == ["v0001", "v0002"] == Registry(registry_uri).versions()
    for version in ("v0001", "v0002"):
        Registry(registry_uri).fetch_model(version, tmp_path / version)
        assert TextModel(tmp_path / version).version == version


def test_the_evidence_is_kept_with_the_version(
    toy_dataset: Path, toy_model: Path, registry_uri: str, tmp_path: Path
) -> None:
    result = evaluate(toy_dataset, toy_model, registry_uri)
    manifest = register(result, toy_model, registry_uri, tmp_path)
    assert manifest.evaluation == result.document
    assert manifest.lineage.model_dump() == result.document["lineage"]
    assert Registry(registry_uri).report("v0001") == (tmp_path / "report.html").read_bytes()


def test_registering_deploys_nothing_and_a_refused_version_is_kept_too(
    toy_dataset: Path, toy_model: Path, untaught_model: Path, registry_uri: str, tmp_path: Path
) -> None:
    registry = Registry(registry_uri)
    register(evaluate(toy_dataset, toy_model, registry_uri), toy_model, registry_uri, tmp_path)
    assert registry.champion() is None
    registry.set_champion("v0001")
    worse = evaluate(toy_dataset, untaught_model, registry_uri)
    assert register(worse, untaught_model, registry_uri, tmp_path).verdict == "refused"
    assert registry.manifest("v0002").verdict == "refused"
    assert registry.champion() == "v0001"


def test_a_step_that_is_retried_registers_its_version_once(
    toy_dataset: Path, toy_model: Path, registry_uri: str, tmp_path: Path
) -> None:
    register(evaluate(toy_dataset, toy_model, registry_uri), toy_model, registry_uri, tmp_path)
    files = (tmp_path / "model", tmp_path / "evaluation.json", tmp_path / "report.html", registry_uri)
    with model_registry() as kubeflow:
        kubeflow.down = True
        for _ in range(2):
            with pytest.raises(RegistryError, match=r"^v0002 is in file://.* it registers the same version\.$"):
                register_model(*files, kubeflow.address, "sentiment", claimant="s3://runs/1/evaluation")
        kubeflow.down = False
        again = register_model(*files, kubeflow.address, "sentiment", claimant="s3://runs/1/evaluation")
        other = register_model(*files, kubeflow.address, "sentiment", claimant="s3://runs/2/evaluation")
        assert (again.version, other.version) == ("v0002", "v0003")
        assert [version["name"] for version in kubeflow.versions] == ["v0002", "v0003"]
    assert Registry(registry_uri).versions() == ["v0001", "v0002", "v0003"]


def test_a_step_that_was_ended_while_it_uploaded_completes_its_version(
    toy_dataset: Path, toy_model: Path, registry_uri: str, tmp_path: Path
) -> None:
    register(evaluate(toy_dataset, toy_model, registry_uri), toy_model, registry_uri, tmp_path)
    assert Registry(registry_uri).claim_version("s3://runs/1/evaluation") == "v0002"
    files = (tmp_path / "model", tmp_path / "evaluation.json", tmp_path / "report.html", registry_uri)
    assert register_model(*files, claimant="s3://runs/1/evaluation").version == "v0002"
