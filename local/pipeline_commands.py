"""``reviewloop pipeline``: the training pipeline on Kubeflow Pipelines."""

import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from local.command_options import DEMO_SPEC, Loop, console
from local.loop_assets import load_loop_with_assets
from local.platform import code_version
from pipelines.images import IMAGES_FILE, read_images
from reviewloop.errors import ReviewLoopError
from reviewloop.label_studio import ReviewProject, api_key_from_environment
from reviewloop.registry import Registry
from reviewloop.spec import LoopSpec, load_spec
from reviewloop.task_types import task_type

LABEL_STUDIO_URL_VARIABLE = "LABEL_STUDIO_URL"
RUNS_SHOWN = 5

CONNECTION_HELP = """
    The server is that of --endpoint, else of KF_PIPELINES_ENDPOINT. Where it wants to know who asks, put a bearer token
    into REVIEWLOOP_KFP_TOKEN or a session cookie into REVIEWLOOP_KFP_COOKIE; in a pod, the service account's token is
    used. KF_PIPELINES_UI_ENDPOINT is the dashboard's address in links, where it is another one.
"""

pipeline_app = typer.Typer(
    help="The training pipeline on Kubeflow Pipelines.\n" + CONNECTION_HELP, no_args_is_help=True, rich_markup_mode=None
)

Endpoint = Annotated[
    str | None,
    typer.Option(help="Where Kubeflow Pipelines answers, as http://... or https://...", metavar="URL"),
]
ImagesFile = Annotated[
    Path, typer.Option("--images", help="The kustomize component that names the images.", metavar="FILE")
]


@pipeline_app.command("compile")
def compile_pipeline(
    loop: Loop = DEMO_SPEC,
    output: Annotated[Path, typer.Option(help="The IR YAML file to write.")] = Path("build/pipeline.yaml"),
    images: ImagesFile = IMAGES_FILE,
) -> None:
    """Compile the training pipeline to IR YAML, with the loop's settings as its parameters' defaults."""
    from pipelines.compilation import compile_training_pipeline

    compile_training_pipeline(load_spec(loop), output, read_images(images))
    console.line(f"Compiled to {output}")


@pipeline_app.command()
def upload(loop: Loop = DEMO_SPEC, endpoint: Endpoint = None, images: ImagesFile = IMAGES_FILE) -> None:
    """Upload the training pipeline: the first time a new one, later a new version of the same.

    What the loop names by a path on this machine (base_model, data.source, data.test_sets) is first copied to the
    object store, below inputs/ beside the versions, unless it is there: set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY
    and, where it is not Amazon's, AWS_ENDPOINT_URL. A schedule takes the newest version from its next run on.
    """
    from pipelines.compilation import compile_training_pipeline
    from pipelines.staging import stage_inputs

    spec = load_loop_with_assets(loop, console.line)
    pipeline = _pipeline(spec, endpoint)
    pins = read_images(images)
    staged = stage_inputs(spec, console.line)
    code = code_version()
    version = f"{datetime.now(UTC):%Y-%m-%d-%H%M%S}-{code}"
    with tempfile.TemporaryDirectory() as directory:
        package = Path(directory) / "pipeline.yaml"
        compile_training_pipeline(staged, package, pins)
        made = pipeline.upload(package, version, f"{spec.name}, code {code}, image {pins.components}")
    console.line(f"{'Made the pipeline' if made else 'Added to the pipeline'} {pipeline.name}: version {version}")
    if not pins.pinned:
        console.line(
            f"{pins.components} is a tag: the same tag with another image would not be noticed by the cache of "
            "finetune, nor by the lineage. `make push` writes the digests."
        )
    console.copyable(f"  {pipeline.link}")


@pipeline_app.command()
def run(
    loop: Loop = DEMO_SPEC,
    endpoint: Endpoint = None,
    wait: Annotated[bool, typer.Option(help="Wait for the run to end, and show its steps.")] = True,
) -> None:
    """Start a run of the newest version, wait for it, and say what it found.

    Ctrl-C stops the waiting only. The exit status is 1 if the run failed or was terminated, or if the waiting ended
    before the run.
    """
    from pipelines.progress import follow_run

    spec = load_spec(loop)
    pipeline = _pipeline(spec, endpoint)
    name = f"{spec.name} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
    run_id = pipeline.start(name, "Started by `reviewloop pipeline run`.")
    link = pipeline.connection.run_link(run_id)
    console.line(f"Started run {run_id}")
    console.copyable(f"  {link}")
    if not wait:
        return
    try:
        outcome = follow_run(pipeline, run_id, _report)
    except KeyboardInterrupt:
        console.line("No longer waiting; the run goes on. To end it, choose Terminate on its page:")
        console.copyable(f"  {link}")
        raise typer.Exit(1) from None
    console.line(f"{outcome.verdict}: {outcome.sentence}")
    console.copyable(f"  {link}")
    if not outcome.good:
        raise typer.Exit(1)


@pipeline_app.command()
def schedule(
    cron: Annotated[
        str,
        typer.Option(
            help="When a run starts, in UTC: second minute hour day month weekday, or @daily, @every 6h.",
            metavar='"0 0 2 * * *"',
        ),
    ],
    loop: Loop = DEMO_SPEC,
    endpoint: Endpoint = None,
) -> None:
    """Start runs of the newest version at fixed times, instead of at those of an earlier schedule.

    A run that finds fewer than retrain.min_new_annotations new annotations trains nothing. What was missed while the
    server was down is not made up for.
    """
    from pipelines.cron import check_cron, next_times

    now = datetime.now(UTC)
    line = check_cron(cron, now)
    pipeline = _pipeline(load_spec(loop), endpoint)
    replaced = pipeline.schedule(line)
    console.line(f"{pipeline.name} runs at {line!r}" + (f"; replaced {_count(replaced)}" if replaced else ""))
    for time in next_times(line, now, 3):
        console.line(f"  {time:%Y-%m-%d %H:%M:%S} UTC")


@pipeline_app.command()
def unschedule(loop: Loop = DEMO_SPEC, endpoint: Endpoint = None) -> None:
    """Remove the schedule; runs that were started go on."""
    pipeline = _pipeline(load_spec(loop), endpoint)
    removed = pipeline.unschedule()
    console.line(f"Removed {_count(removed)} of {pipeline.name}" if removed else f"{pipeline.name} has no schedule")


@pipeline_app.command()
def status(loop: Loop = DEMO_SPEC, endpoint: Endpoint = None) -> None:
    """Show the pipeline's newest version, its schedule, its last runs, and the annotations since the last training.

    The annotations are counted where LABEL_STUDIO_API_KEY is set, at LABEL_STUDIO_URL or the address that the cluster
    uses, against the newest version in the object store.
    """
    spec = load_spec(loop)
    pipeline = _pipeline(spec, endpoint)
    newest = pipeline.versions(1)
    rows = [("pipeline", pipeline.name), ("newest version", newest[0].display_name if newest else "none")]
    rows += [("schedule", _next_run(recurring)) for recurring in pipeline.schedules()] or [("schedule", "none")]
    rows.append(("annotations since the last training", _new_annotations(spec)))
    for name, value in rows:
        console.rich.print(f"  [bold]{name:<36}[/]", end="")
        console.copyable(value)
    shown = [row for _, row in zip(range(RUNS_SHOWN), map(_run_row, pipeline.runs()), strict=False)]
    if shown:
        console.table(("last runs", "started", "took", "outcome"), shown)
    else:
        console.line("No run yet.")
    console.copyable(f"  {pipeline.link}")


def _pipeline(spec: LoopSpec, endpoint: str | None) -> Any:
    from pipelines.connection import Connection
    from pipelines.kubeflow import TrainingPipeline

    return TrainingPipeline(spec, Connection(endpoint))


def _report(step: str, text: str) -> None:
    console.line(f"{step:<11} {text}" if step else text)


def _count(schedules: int) -> str:
    return "the schedule" if schedules == 1 else f"{schedules} schedules"


def _next_run(recurring: Any) -> str:
    from pipelines.cron import CronError, next_times

    if str(recurring.status) != "ENABLED":
        return f"{recurring.display_name}, switched off in the dashboard"
    cron = recurring.trigger.cron_schedule.cron if recurring.trigger and recurring.trigger.cron_schedule else None
    if not cron:
        return f"{recurring.display_name}, made in the dashboard"
    try:
        return f"{cron}, next at {next_times(cron, datetime.now(UTC), 1)[0]:%Y-%m-%d %H:%M:%S} UTC"
    except CronError as error:
        return str(error)


def _run_row(run: Any) -> tuple[str, str, str, str]:
    from pipelines.kubeflow import ACTIVE_STATES
    from pipelines.progress import duration, outcome

    started = f"{run.created_at:%Y-%m-%d %H:%M:%S}"
    if run.state in ACTIVE_STATES:
        return run.display_name, started, duration(run.created_at, datetime.now(UTC)), run.state.lower()
    return run.display_name, started, duration(run.created_at, run.finished_at), outcome(run).verdict


def _new_annotations(spec: LoopSpec) -> str:
    from pipelines.retraining import annotations_trained_on

    url = os.environ.get(LABEL_STUDIO_URL_VARIABLE) or spec.cluster_label_studio_url
    try:
        task = task_type(spec.task.type, spec.task.labels)
        counts = ReviewProject(url, api_key_from_environment(), spec.name, task).counts()
        trained_on = annotations_trained_on(Registry(spec.cluster_registry_uri))
    except ReviewLoopError as error:
        return f"unknown: {error}"
    return f"{max(0, counts.annotations - trained_on)} of {spec.retrain.min_new_annotations} that start a training"
