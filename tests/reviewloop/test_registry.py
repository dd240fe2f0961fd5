"""The model registry contract, on a directory and on S3."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from reviewloop.errors import ObjectExists, ObjectNotFound, RegistryError
from reviewloop.object_store import open_store
from reviewloop.registry import Registry

EVALUATION: dict[str, Any] = {
    "verdict": "promoted",
    "reasons": ["It is better."],
    "lineage": {
        "dataset_hash": "d" * 64,
        "annotation_snapshot": None,
        "annotations": 0,
        "base_model": "tiny",
        "parent": None,
        "code_version": "test",
        "image": "none",
        "seed": 7,
    },
}


@pytest.fixture
def registry(store_uri: str) -> Registry:
    """An empty registry."""
    return Registry(store_uri)


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """A report to register."""
    path = tmp_path / "report.html"
    path.write_text("<p>report</p>", encoding="utf-8")
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory to register, as far as the registry looks into it."""
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text("{}", encoding="utf-8")
    return directory


def test_an_empty_registry_has_no_version_and_no_champion(registry: Registry) -> None:
    assert registry.versions() == []
    assert registry.champion() is None


def test_versions_claimed_at_once_are_all_different(store_uri: str) -> None:
    barrier = threading.Barrier(5)

    def claim(_: int) -> str:
        registry = Registry(store_uri)
        barrier.wait()
        return registry.claim_version()

    with ThreadPoolExecutor(5) as pool:
        claimed = sorted(pool.map(claim, range(5)))
    assert claimed == ["v0001", "v0002", "v0003", "v0004", "v0005"]


def test_a_version_exists_only_once_its_manifest_is_written(
    registry: Registry, store_uri: str, model: Path, report: Path
) -> None:
    version = registry.claim_version()
    assert registry.versions() == []
    registry.register(version, model, report, EVALUATION)
    assert registry.versions() == ["v0001"]
    # What a crash between claim and manifest leaves behind is not a version, and its number is not given again.
    abandoned = registry.claim_version()
    open_store(store_uri).write(f"versions/{abandoned}/model/config.json", b"{}")
    assert registry.versions() == ["v0001"]
    assert registry.claim_version() == "v0003"


def test_the_manifest_holds_what_was_registered(registry: Registry, model: Path, report: Path) -> None:
    manifest = registry.register(registry.claim_version(), model, report, EVALUATION)
    assert registry.manifest("v0001") == manifest
    assert manifest.verdict == "promoted"
    assert manifest.evaluation == EVALUATION
    assert manifest.lineage.model_dump() == EVALUATION["lineage"]
    assert registry.report("v0001") == b"<p>report</p>"


def test_a_version_cannot_be_registered_twice_nor_changed(
    registry: Registry, model: Path, report: Path, tmp_path: Path
) -> None:
    registry.register(registry.claim_version(), model, report, EVALUATION)
    (model / "config.json").write_text('{"other": 1}', encoding="utf-8")
    report.write_text("other", encoding="utf-8")
    with pytest.raises(ObjectExists, match=r"versions/v0001.* already\."):
        registry.register("v0001", model, report, EVALUATION)
    registry.fetch_model("v0001", tmp_path / "fetched")
    assert (tmp_path / "fetched" / "config.json").read_text(encoding="utf-8") == "{}"
    assert registry.report("v0001") == b"<p>report</p>"


def test_of_two_who_register_the_same_version_at_once_one_succeeds(
    registry: Registry, store_uri: str, model: Path, report: Path
) -> None:
    version = registry.claim_version()
    barrier = threading.Barrier(2)

    def register(_: int) -> bool:
        barrier.wait()
        try:
            Registry(store_uri).register(version, model, report, EVALUATION)
        except ObjectExists:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(register, range(2))) == [False, True]


def test_versions_are_in_the_order_of_their_numbers(registry: Registry, store_uri: str) -> None:
    for number in (9_999, 10_000, 2):
        open_store(store_uri).write(f"versions/v{number:04d}/manifest.json", b"{}")
    assert registry.versions() == ["v0002", "v9999", "v10000"]
    assert registry.claim_version() == "v10001"


def test_the_champion_is_the_version_last_set(registry: Registry, model: Path, report: Path) -> None:
    for _ in range(2):
        registry.register(registry.claim_version(), model, report, EVALUATION)
    registry.set_champion("v0002")
    assert registry.champion() == "v0002"
    registry.set_champion("v0001")
    assert registry.champion() == "v0001"


def test_the_previous_champion_is_the_one_before_whatever_is_set_again(
    registry: Registry, model: Path, report: Path
) -> None:
    for _ in range(2):
        registry.register(registry.claim_version(), model, report, EVALUATION)
    assert registry.previous_champion() is None
    registry.set_champion("v0001")
    assert registry.previous_champion() is None
    for _ in range(2):
        registry.set_champion("v0002")
    assert registry.previous_champion() == "v0001"


def test_a_claimant_gets_the_same_version_again(registry: Registry, store_uri: str) -> None:
    barrier = threading.Barrier(3)

    def claim(_: int) -> str:
        registry = Registry(store_uri)
        barrier.wait()
        return registry.claim_version("step 1")

    with ThreadPoolExecutor(3) as pool:
        (claimed,) = set(pool.map(claim, range(3)))
    assert registry.claim_version("step 1") == claimed
    assert registry.claim_version("step 2") != claimed


def test_only_a_registered_version_becomes_champion(registry: Registry) -> None:
    claimed = registry.claim_version()
    with pytest.raises(RegistryError, match=f"There is no version {claimed} in"):
        registry.set_champion(claimed)
    assert registry.champion() is None


def test_an_unknown_version_is_answered_with_those_known(registry: Registry, model: Path, report: Path) -> None:
    with pytest.raises(RegistryError, match=r"There is no version v0007 in .*; known: none yet\."):
        registry.manifest("v0007")
    registry.register(registry.claim_version(), model, report, EVALUATION)
    with pytest.raises(RegistryError, match=r"known: v0001\."):
        registry.manifest("v0007")


def test_a_model_uri_names_the_directory_and_nothing_beside_it(
    registry: Registry, store_uri: str, model: Path, report: Path, tmp_path: Path
) -> None:
    registry.register(registry.claim_version(), model, report, EVALUATION)
    assert registry.model_uri("v0001") == f"{store_uri}/versions/v0001/model/"
    registry.fetch_model("v0001", tmp_path / "fetched")
    assert [path.name for path in (tmp_path / "fetched").iterdir()] == ["config.json"]


def test_a_snapshot_is_kept_under_its_hash(registry: Registry) -> None:
    registry.write_snapshot("abc", b'{"annotation": 1}\n')
    assert registry.read_snapshot("abc") == b'{"annotation": 1}\n'
    with pytest.raises(ObjectNotFound, match=r"snapshots/other\.jsonl"):
        registry.read_snapshot("other")
