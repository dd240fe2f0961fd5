"""The register step: model + evidence + lineage -> an immutable version."""

import json
from pathlib import Path

from reviewloop.errors import ObjectExists
from reviewloop.inference import write_version
from reviewloop.kubeflow_registry import register_in_kubeflow
from reviewloop.registry import Registry, VersionManifest


def register_model(
    model: Path,
    evaluation: Path,
    report: Path,
    registry_uri: str,
    model_registry: str = "",
    loop_name: str = "",
    claimant: str = "",
) -> VersionManifest:
    """Store the model with its evaluation and report under the next version number.

    The verdict is recorded, not acted on: a refused challenger is kept too, with the report that says why. The
    ``champion`` alias moves only when the version has been deployed and has answered its probes.

    Args:
        model_registry: A Kubeflow Model Registry to register the version in too, as ``kubeflow://host:port``.
        loop_name: The model's name there.
        claimant: Whose version it is. A second call with the same name completes or returns the first one's version.

    Raises:
        RegistryError: the Kubeflow Model Registry could not take it. The version is in the store.
    """
    registry = Registry(registry_uri)
    version = registry.claim_version(claimant)
    if version not in registry.versions():
        write_version(model, version)
        try:
            registry.register(version, model, report, json.loads(evaluation.read_text(encoding="utf-8")))
        except ObjectExists:
            # Another attempt of the same step was faster; without a claimant, nobody else has the number.
            if not claimant:
                raise
    if model_registry:
        register_in_kubeflow(registry, version, loop_name, model_registry)
    return registry.manifest(version)
