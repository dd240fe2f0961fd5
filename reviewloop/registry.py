"""The model registry: immutable versions in an object store, and an alias for the one that serves.

versions/v0001/claim.json       made first, conditionally: the number is taken
versions/v0001/model/...        the Hugging Face model directory
versions/v0001/report.html      the evidence, for people
versions/v0001/manifest.json    made last: from now on the version exists
versions/v0001/kubeflow.json    its ids in the Kubeflow Model Registry, where it is registered there too
registrations/HASH.json         which version a pipeline step claimed, for its retry
snapshots/HASH.jsonl            the annotations a version was trained on
machine-labels/HASH.jsonl       predictions accepted as labels without a person
champion.json                   the alias
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from reviewloop.errors import ObjectExists, ObjectNotFound, RegistryError
from reviewloop.object_store import open_store
from reviewloop.records import MachineLabel

_MANIFEST = re.compile(r"^versions/(v\d{4,})/manifest\.json$")

Verdict = Literal["promoted", "refused"]


class Lineage(BaseModel):
    """What a version was made from."""

    model_config = ConfigDict(frozen=True)

    dataset_hash: str
    annotation_snapshot: str | None
    annotations: int
    base_model: str
    parent: str | None
    code_version: str
    image: str
    seed: int


class VersionManifest(BaseModel):
    """What the registry says of one version."""

    model_config = ConfigDict(frozen=True)

    version: str
    registered_at: str
    verdict: Verdict
    evaluation: dict[str, Any]
    """What the evaluate step measured, and why it decided as it did."""
    lineage: Lineage


class KubeflowIds(BaseModel):
    """What the Kubeflow Model Registry at ``address`` calls a version."""

    model_config = ConfigDict(frozen=True)

    address: str
    registered_model: str
    model_version: str


class Registry:
    """The versions of one loop's model below a ``file://`` or ``s3://`` URI."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._store = open_store(uri)

    def versions(self) -> list[str]:
        """Every registered version, oldest first."""
        found = (_MANIFEST.match(key) for key in self._store.list("versions/"))
        return sorted((match[1] for match in found if match), key=version_number)

    def manifest(self, version: str) -> VersionManifest:
        """What is recorded of ``version``.

        Raises:
            RegistryError: there is no such version.
        """
        try:
            content = self._store.read(f"versions/{version}/manifest.json")
        except ObjectNotFound:
            known = ", ".join(self.versions()) or "none yet"
            raise RegistryError(f"There is no version {version} in {self._store.root}; known: {known}.") from None
        return VersionManifest.model_validate_json(content)

    def claim_version(self, claimant: str = "") -> str:
        """Reserve the next version number for this caller alone.

        A ``claimant`` who has claimed before gets the same version again: a step that is retried makes no second one.
        """
        if not claimant:
            return self._claim_next()
        key = f"registrations/{hashlib.sha256(claimant.encode()).hexdigest()}.json"
        with suppress(ObjectNotFound):
            return str(json.loads(self._store.read(key))["version"])
        version = self._claim_next()
        try:
            self._store.write(key, _json({"version": version, "claimant": claimant}), create=True)
        except ObjectExists:  # Two attempts run at once: the number of the later one stays unused.
            return str(json.loads(self._store.read(key))["version"])
        return version

    def _claim_next(self) -> str:
        keys = self._store.list("versions/")
        number = max((version_number(key.split("/")[1]) for key in keys), default=0)
        while True:
            number += 1
            version = f"v{number:04d}"
            try:
                self._store.write(f"versions/{version}/claim.json", _json({"claimed_at": _now()}), create=True)
            except ObjectExists:
                continue
            return version

    def register(
        self,
        version: str,
        model_dir: Path,
        report: Path,
        evaluation: dict[str, Any],
    ) -> VersionManifest:
        """Store a claimed version for good; its manifest is written last.

        ``evaluation`` is the evaluate step's document, with at least a ``verdict`` and a ``lineage``.

        Raises:
            ObjectExists: the version is registered already.
        """
        if version in self.versions():
            raise ObjectExists(f"{self._store.uri(f'versions/{version}')} is registered already.")
        self._store.upload_dir(model_dir, f"versions/{version}/model")
        self._store.upload_file(report, f"versions/{version}/report.html")
        manifest = VersionManifest(
            version=version,
            registered_at=_now(),
            verdict=evaluation["verdict"],
            evaluation=evaluation,
            lineage=Lineage.model_validate(evaluation["lineage"]),
        )
        self._store.write(f"versions/{version}/manifest.json", manifest.model_dump_json(indent=2).encode(), create=True)
        return manifest

    def model_uri(self, version: str) -> str:
        """The URI of the version's model directory, ending in ``/`` as KServe's ``storageUri`` needs."""
        return self._store.uri(f"versions/{version}/model/")

    def fetch_model(self, version: str, destination: Path) -> None:
        """Download the version's model directory."""
        self._store.download_dir(f"versions/{version}/model", destination)

    def report(self, version: str) -> bytes:
        """The version's HTML report."""
        return self._store.read(f"versions/{version}/report.html")

    def champion(self) -> str | None:
        """The version that serves, or None before the first."""
        return self._alias("version")

    def previous_champion(self) -> str | None:
        """The version that served before the champion, or None if there was none."""
        return self._alias("previous")

    def set_champion(self, version: str) -> None:
        """Point the alias at a registered version; pointing it where it points already changes nothing."""
        previous = self.champion()
        self.manifest(version)
        if version == previous:
            return
        self._store.write("champion.json", _json({"version": version, "previous": previous, "since": _now()}))

    def kubeflow_ids(self, version: str) -> KubeflowIds | None:
        """The version's ids in the Kubeflow Model Registry, or None if it is not known to be registered there."""
        try:
            return KubeflowIds.model_validate_json(self._store.read(f"versions/{version}/kubeflow.json"))
        except ObjectNotFound:
            return None

    def set_kubeflow_ids(self, version: str, ids: KubeflowIds) -> None:
        """Keep the version's ids in the Kubeflow Model Registry."""
        self._store.write(f"versions/{version}/kubeflow.json", ids.model_dump_json(indent=2).encode())

    def write_snapshot(self, digest: str, content: bytes) -> None:
        """Keep an annotation snapshot under its content hash."""
        self._store.write(f"snapshots/{digest}.jsonl", content)

    def read_snapshot(self, digest: str) -> bytes:
        """An annotation snapshot by its content hash."""
        return self._store.read(f"snapshots/{digest}.jsonl")

    def add_machine_labels(self, labels: Sequence[MachineLabel]) -> None:
        """Keep predictions that were accepted as labels."""
        content = "".join(json.dumps(asdict(label), ensure_ascii=False) + "\n" for label in labels).encode()
        self._store.write(f"machine-labels/{hashlib.sha256(content).hexdigest()}.jsonl", content)

    def machine_labels(self) -> Iterator[MachineLabel]:
        """Every prediction that was accepted as a label."""
        for key in self._store.list("machine-labels/"):
            for line in self._store.read(key).decode().split("\n"):
                if line:
                    yield MachineLabel(**json.loads(line))

    def _alias(self, field: str) -> str | None:
        try:
            version = json.loads(self._store.read("champion.json"))[field]
        except ObjectNotFound:
            return None
        return None if version is None else str(version)


def version_number(version: str) -> int:
    """How many versions there were up to ``version``, at least: a later one's number is higher."""
    return int(version.removeprefix("v"))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
