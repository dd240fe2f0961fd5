"""The deploy step: check that the version may serve, and roll it out to where the loop runs."""

from pathlib import Path

from components.deploy.local_predictor import deploy_to_local_predictor
from reviewloop.errors import RolloutError
from reviewloop.kubeflow_registry import register_in_kubeflow
from reviewloop.registry import KubeflowIds, Registry
from reviewloop.spec import ClusterSpec


def deploy_model(
    version: str,
    registry_uri: str,
    model_name: str,
    predictor_url: str,
    serving_dir: Path,
    cluster: ClusterSpec | None = None,
    serving_image: str = "",
    model_registry: str = "",
    *,
    by_hand: bool = False,
) -> None:
    """Make ``version`` serve, then point the ``champion`` alias to it; if it does badly, what served serves again.

    Args:
        predictor_url: A local predictor, which reads its model from ``serving_dir``. Empty on a cluster.
        cluster: Where its InferenceService is, or is to be.
        serving_image: The image of a new InferenceService; empty for the manifest's.
        model_registry: The Kubeflow Model Registry, as ``kubeflow://host:port``; empty for none.
        by_hand: A person chose it, so it need not have been compared with what serves now.

    Raises:
        RegistryError: there is no such version.
        RolloutError: it did not come up healthy, or another one came first.
        ClusterError: the Kubernetes API refused, or did not answer.
    """
    registry = Registry(registry_uri)
    if not by_hand:
        _check_comparison(version, registry)
    if predictor_url:
        deploy_to_local_predictor(version, registry, model_name, predictor_url, serving_dir)
        return
    # Imported here: a local loop needs no Kubernetes client.
    from components.deploy.inference_service import Rollout

    ids: KubeflowIds | None = None
    if model_registry:
        ids = register_in_kubeflow(registry, version, model_name, model_registry)
    Rollout(registry, model_name, cluster or ClusterSpec(), serving_image, by_hand=by_hand).run(version, ids)


def _check_comparison(version: str, registry: Registry) -> None:
    """Raises RolloutError if another version serves by now than the one that ``version`` was compared with."""
    parent, champion = registry.manifest(version).lineage.parent, registry.champion()
    if champion not in (parent, version):
        raise RolloutError(
            f"{version} was compared with {parent or 'nothing, as the first version'}, but {champion} serves by now: "
            f"another run came first. The next run compares with {champion}; to deploy {version} all the same, "
            f"`reviewloop models promote {version}`."
        )
