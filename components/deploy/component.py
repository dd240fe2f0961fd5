"""KFP component: deploy a promoted version."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def deploy(
    version: str,
    registry_uri: str,
    model_name: str,
    predictor_url: str,
    serving_dir: str,
    cluster: dict,
    serving_image: str,
    model_registry: str,
) -> None:
    """Swap the serving model to this version; roll back if its probes are answered differently."""
    from pathlib import Path

    from components.deploy.rollout import deploy_model
    from reviewloop.spec import ClusterSpec

    deploy_model(
        version,
        registry_uri,
        model_name,
        predictor_url,
        Path(serving_dir),
        ClusterSpec.model_validate(cluster),
        serving_image,
        model_registry,
    )
    print(f"{version} serves {model_name}")
