"""KFP component: register a model version."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def register(
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    report: dsl.Input[dsl.HTML],
    registry_uri: str,
    model_registry: str,
    loop_name: str,
) -> str:
    """Store model, evaluation and report under the next version number; a retry gets the same one."""
    from pathlib import Path

    from components.register.registration import register_model

    manifest = register_model(
        Path(model.path),
        Path(evaluation.path),
        Path(report.path),
        registry_uri,
        model_registry,
        loop_name,
        # Every evaluation has an address of its own, and every attempt at registering it gets the same one.
        claimant=evaluation.uri,
    )
    print(f"Registered {manifest.version} ({manifest.verdict})")
    return manifest.version
