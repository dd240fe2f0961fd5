"""The Kubeflow Model Registry: versions of the object store, registered there too."""

import asyncio
import math
import warnings
from typing import TYPE_CHECKING, Any

from reviewloop.errors import RegistryError
from reviewloop.registry import KubeflowIds, Registry, VersionManifest

if TYPE_CHECKING:
    from model_registry import ModelRegistry

AUTHOR = "reviewloop"
MODEL_FORMAT = ("reviewloop", "1")
"""The format that the ServingRuntime takes: a Hugging Face model directory with what reviewloop adds."""

Metadata = dict[str, bool | int | float | str]


def register_in_kubeflow(registry: Registry, version: str, loop_name: str, address: str) -> KubeflowIds:
    """Register a version of the store under the model ``loop_name`` at ``address``, a ``kubeflow://host:port``.

    Model, version and artifact are each made only where they are missing, so what was interrupted is completed.
    The ids are kept in the store beside the version.

    Raises:
        RegistryError: the Kubeflow Model Registry does not answer, or refuses.
    """
    # Imported late: it takes half a second, and few loops have one.
    import aiohttp
    from model_registry.exceptions import StoreError
    from mr_openapi.exceptions import ConflictException, OpenApiException

    known = registry.kubeflow_ids(version)
    if known and known.address == address:
        return known
    try:
        try:
            ids = _register(registry, version, loop_name, address)
        except ConflictException:  # A concurrent run made the same model between our look and our request.
            ids = _register(registry, version, loop_name, address)
    except (OpenApiException, StoreError, aiohttp.ClientError, OSError) as error:
        raise RegistryError(
            f"{version} is in {registry.uri}, but the Kubeflow Model Registry at {address} could not take it "
            f"({_reason(error)}). Run the step again once it answers: it registers the same version."
        ) from error
    registry.set_kubeflow_ids(version, ids)
    return ids


def flat_metadata(manifest: VersionManifest) -> Metadata:
    """Verdict, lineage and the metrics on each test set as the flat values that the Model Registry takes."""
    evaluation = manifest.evaluation
    found: dict[str, Any] = {"verdict": manifest.verdict, "reasons": " ".join(evaluation["reasons"])}
    found |= {f"lineage.{name}": value for name, value in manifest.lineage.model_dump().items()}
    for test_set, measured in evaluation.get("test_sets", {}).items():
        found |= {f"{test_set}.{name}": value for name, value in measured["challenger"].items()}
        found |= {f"{test_set}.change.{name}": value for name, value in (measured["difference"] or {}).items()}
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value))
    }


def _register(registry: Registry, version: str, loop_name: str, address: str) -> KubeflowIds:
    client = _connect(address)
    manifest, uri = registry.manifest(version), registry.model_uri(version)
    format_name, format_version = MODEL_FORMAT
    model = client.get_registered_model(loop_name)
    found = client.get_model_version(loop_name, version) if model else None
    if found is None:
        client.register_model(
            loop_name,
            uri,
            version=version,
            model_format_name=format_name,
            model_format_version=format_version,
            metadata=flat_metadata(manifest),
        )
        model, found = client.get_registered_model(loop_name), client.get_model_version(loop_name, version)
    else:
        artifact = client.get_model_artifact(loop_name, version)
        if artifact is None:
            # The client has no public call for an artifact alone, which an interrupted registration lacks.
            client.async_runner(
                client._register_model_artifact(
                    found, loop_name, uri, model_format_name=format_name, model_format_version=format_version
                )
            )
        elif artifact.uri != uri:
            raise RegistryError(
                f"The Kubeflow Model Registry at {address} has another {loop_name} {version}, at {artifact.uri}, than "
                f"{uri}. Give this loop another name, or archive the model there."
            )
    if model is None or model.id is None or found is None or found.id is None:
        raise RegistryError(f"The Kubeflow Model Registry at {address} lost {loop_name} {version}. Run the step again.")
    return KubeflowIds(address=address, registered_model=model.id, model_version=found.id)


def _connect(address: str) -> "ModelRegistry":
    from model_registry import ModelRegistry

    host, _, port = address.removeprefix("kubeflow://").partition(":")
    with warnings.catch_warnings():
        # Within the cluster it needs no token; where there is a service account's, the client sends that.
        warnings.filterwarnings("ignore", message="User access token is missing")
        # Given a runner of its own, the client does not make every event loop of this process reentrant.
        return ModelRegistry(f"http://{host}", int(port), author=AUTHOR, is_secure=False, async_runner=_run)


def _run(coroutine: Any) -> Any:
    return asyncio.run(coroutine)


def _reason(error: Exception) -> str:
    status = getattr(error, "status", None)
    return f"it answered {status}" if status else f"{type(error).__name__}: {error}".rstrip(": ")
