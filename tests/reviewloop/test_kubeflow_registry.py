"""Registering in the Kubeflow Model Registry too, whatever was interrupted before."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from reviewloop.errors import RegistryError
from reviewloop.kubeflow_registry import flat_metadata, register_in_kubeflow
from reviewloop.registry import Registry
from tests.fakes.model_registry_api import FakeModelRegistry, model_registry
from tests.registered_versions import register_version


@pytest.fixture
def kubeflow() -> Iterator[FakeModelRegistry]:
    """An empty Kubeflow Model Registry."""
    with model_registry() as fake:
        yield fake


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """An empty registry of the loop's own."""
    return Registry((tmp_path / "registry").as_uri())


def test_a_version_is_registered_with_its_evidence(
    registry: Registry, kubeflow: FakeModelRegistry, tmp_path: Path
) -> None:
    first = register_version(registry, tmp_path)
    registry.set_champion(first)
    second = register_version(registry, tmp_path, verdict="refused")
    found = [register_in_kubeflow(registry, version, "sentiment", kubeflow.address) for version in (first, second)]
    assert [model["name"] for model in kubeflow.models] == ["sentiment"]
    assert [(version["name"], version["id"]) for version in kubeflow.versions] == [
        ("v0001", found[0].model_version),
        ("v0002", found[1].model_version),
    ]
    assert {ids.registered_model for ids in found} == {kubeflow.models[0]["id"]}
    assert [artifact["uri"] for artifact in kubeflow.artifacts] == [registry.model_uri(v) for v in (first, second)]
    properties = kubeflow.versions[1]["customProperties"]
    assert properties["verdict"]["string_value"] == "refused"
    assert properties["toy.score"]["double_value"] == 0.8
    assert properties["toy.change.low"]["double_value"] == 0.05
    assert properties["lineage.parent"]["string_value"] == "v0001"
    assert properties["lineage.annotations"]["int_value"] == "120"
    assert registry.kubeflow_ids(second) == found[1]


def test_metadata_is_flat_and_finite(registry: Registry, tmp_path: Path) -> None:
    manifest = registry.manifest(register_version(registry, tmp_path))
    manifest.evaluation["test_sets"]["toy"]["challenger"]["ece"] = float("nan")
    metadata = flat_metadata(manifest)
    assert {type(value) for value in metadata.values()} <= {bool, int, float, str}
    assert "toy.ece" not in metadata
    assert "lineage.parent" not in metadata


@pytest.mark.parametrize("step", ["/registered_models", "/model_versions", "/artifacts"])
def test_what_failed_half_way_is_completed(
    registry: Registry, kubeflow: FakeModelRegistry, tmp_path: Path, step: str
) -> None:
    version = register_version(registry, tmp_path)
    kubeflow.fails_at = step
    with pytest.raises(
        RegistryError,
        match=r"^v0001 is in file://.*, but the Kubeflow Model Registry at kubeflow://127.* could not take it \(it "
        r"answered 500\)\. Run the step again once it answers: it registers the same version\.$",
    ):
        register_in_kubeflow(registry, version, "sentiment", kubeflow.address)
    assert registry.kubeflow_ids(version) is None
    kubeflow.fails_at = ""
    for _ in range(2):
        register_in_kubeflow(registry, version, "sentiment", kubeflow.address)
    assert [len(kind) for kind in (kubeflow.models, kubeflow.versions, kubeflow.artifacts)] == [1, 1, 1]


def test_a_model_that_a_concurrent_run_makes_is_used(
    registry: Registry, kubeflow: FakeModelRegistry, tmp_path: Path
) -> None:
    version = register_version(registry, tmp_path)
    kubeflow.before_create = [lambda: kubeflow.models.append({"name": "sentiment", "id": "99", "state": "LIVE"})]
    assert register_in_kubeflow(registry, version, "sentiment", kubeflow.address).registered_model == "99"


def test_another_loop_of_the_same_name_is_noticed(
    registry: Registry, kubeflow: FakeModelRegistry, tmp_path: Path
) -> None:
    other = Registry((tmp_path / "other").as_uri())
    register_in_kubeflow(other, register_version(other, tmp_path), "sentiment", kubeflow.address)
    with pytest.raises(RegistryError, match=r"has another sentiment v0001, at file://.*other.* Give this loop another"):
        register_in_kubeflow(registry, register_version(registry, tmp_path), "sentiment", kubeflow.address)


@pytest.mark.parametrize("listening", [False, True])
def test_one_that_is_down_is_a_sentence(
    registry: Registry, kubeflow: FakeModelRegistry, tmp_path: Path, listening: bool
) -> None:
    kubeflow.down = True
    address = kubeflow.address if listening else "kubeflow://127.0.0.1:9"
    reason = r"it answered 503" if listening else r"ClientConnectorError: .*"
    with pytest.raises(RegistryError, match=rf"at {address} could not take it \({reason}\)\. Run the step again"):
        register_in_kubeflow(registry, register_version(registry, tmp_path), "sentiment", address)
