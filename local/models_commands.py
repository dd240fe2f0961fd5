"""``reviewloop models``: the versions of a loop's model, and which of them serves."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from local.command_options import DEMO_SPEC, Loop, console
from local.evaluations import print_evaluation
from local.platform import Platform
from pipelines.images import read_images
from reviewloop.errors import RegistryError, ReviewLoopError
from reviewloop.registry import Registry, VersionManifest
from reviewloop.spec import LoopSpec, load_spec

models_app = typer.Typer(
    help="The versions of a loop's model, on the cluster or with --state on this machine.", no_args_is_help=True
)

State = Annotated[
    Path | None,
    typer.Option(
        "--state",
        help="Where a platform on this machine keeps everything. Left out, it is the cluster's models.",
        metavar="DIRECTORY",
    ),
]
Version = Annotated[str, typer.Argument(help="The version, as v0001.", metavar="VERSION")]


@models_app.command("list")
def list_models(loop: Loop = DEMO_SPEC, state: State = None) -> None:
    """List the versions, oldest first; the one that serves is marked."""
    registry = _models(loop, state).registry
    champion = registry.champion()
    manifests = [registry.manifest(version) for version in registry.versions()]
    if not manifests:
        console.line(f"No version is registered in {registry.uri} yet.")
        return
    console.table(
        ("version", "registered at", "verdict", "compared with", "score", ""),
        [
            (
                manifest.version,
                manifest.registered_at,
                manifest.verdict,
                manifest.lineage.parent or "-",
                _score(manifest),
                "serves" if manifest.version == champion else "",
            )
            for manifest in manifests
        ],
    )


@models_app.command()
def show(version: Version, loop: Loop = DEMO_SPEC, state: State = None) -> None:
    """Show a version's verdict with its reasons, its metrics on each test set, its lineage and where it is."""
    registry = _models(loop, state).registry
    manifest = registry.manifest(version)
    print_evaluation(manifest, console)
    for name, value in manifest.lineage.model_dump().items():
        console.line(f"{name.replace('_', ' ')}: {'none' if value is None else value}")
    console.line(f"registered at: {manifest.registered_at}")
    console.line(f"model: {registry.model_uri(version)}")
    if ids := registry.kubeflow_ids(version):
        console.line(f"Kubeflow Model Registry: model {ids.registered_model}, version {ids.model_version}")
    if version == registry.champion():
        console.line("It serves.")


@models_app.command()
def promote(
    version: Version,
    loop: Loop = DEMO_SPEC,
    state: State = None,
    force: Annotated[bool, typer.Option("--force", help="Also one that its evaluation refused.")] = False,
) -> None:
    """Make a version serve, whatever serves now; if it does badly, what served serves again."""
    models = _models(loop, state)
    manifest = models.registry.manifest(version)
    if manifest.verdict == "refused" and not force:
        raise ReviewLoopError(
            f"{version} was refused: {' '.join(manifest.evaluation['reasons'])} To deploy it all the same, add --force."
        )
    _deploy(models, version)


@models_app.command()
def rollback(loop: Loop = DEMO_SPEC, state: State = None) -> None:
    """Make the version serve that served before the present one."""
    models = _models(loop, state)
    previous = models.registry.previous_champion()
    if previous is None:
        serves = models.registry.champion()
        raise RegistryError(
            f"Nothing served before {serves}; `reviewloop models promote VERSION` deploys another."
            if serves
            else f"Nothing serves yet in {models.registry.uri}, so there is nothing to go back to."
        )
    _deploy(models, previous)


@dataclass(frozen=True, slots=True)
class _Models:
    """A loop's versions, and how one of them is made to serve."""

    registry: Registry
    deploy: Callable[[str], None]


def _models(loop: Path, state: Path | None) -> _Models:
    spec = load_spec(loop)
    if state is None:
        return _Models(Registry(spec.cluster_registry_uri), lambda version: _deploy_to_cluster(spec, version))
    platform = Platform(spec, state)
    return _Models(platform.registry, platform.deploy)


def _deploy_to_cluster(spec: LoopSpec, version: str) -> None:
    from components.deploy.rollout import deploy_model

    deploy_model(
        version,
        spec.cluster_registry_uri,
        spec.name,
        predictor_url="",
        serving_dir=Path(),
        cluster=spec.cluster,
        serving_image=read_images().serving,
        model_registry=spec.registry or "",
        by_hand=True,
    )


def _deploy(models: _Models, version: str) -> None:
    before = models.registry.champion()
    models.deploy(version)
    console.line(f"{version} serves" + (f"; before, {before} did." if before not in (None, version) else "."))


def _score(manifest: VersionManifest) -> str:
    measured = manifest.evaluation["test_sets"].get(manifest.evaluation["primary"])
    return f"{manifest.evaluation['metric']} {measured['challenger']['score']:.3f}" if measured else "-"
