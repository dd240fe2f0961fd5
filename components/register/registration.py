"""The register step: model + evidence + lineage -> an immutable version."""

import json
from pathlib import Path

from reviewloop.inference import write_version
from reviewloop.registry import Registry, VersionManifest


def register_model(model: Path, evaluation: Path, report: Path, registry_uri: str) -> VersionManifest:
    """Store the model with its evaluation and report under the next version number.

    The verdict is recorded, not acted on: a refused challenger is kept too, with the report that says why. The
    ``champion`` alias moves only when the version has been deployed and has answered its probes.
    """
    registry = Registry(registry_uri)
    version = registry.claim_version()
    write_version(model, version)
    return registry.register(version, model, report, json.loads(evaluation.read_text(encoding="utf-8")))
