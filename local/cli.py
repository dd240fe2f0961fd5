"""The ``reviewloop`` command."""

import signal
import sys
import webbrowser
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from local.assets import fetch_assets, read_traffic
from local.console import Console
from local.demo import print_outcome, run_demo
from local.evaluations import print_evaluation
from local.platform import Platform
from local.processes import stop_descendants
from local.review_replay import replay_ratings
from local.status import print_status
from local.traffic import read_texts, send_traffic
from reviewloop.errors import ReviewLoopError
from reviewloop.label_studio import LabelStudioServer
from reviewloop.spec import load_spec

ASSETS = Path("build/assets")
LOOPS = Path("build/loops")
DEMO_SPEC = Path("examples/sentiment.yaml")

INTERRUPTED = 130
"""The exit status after Ctrl-C or SIGTERM, by the shell's convention."""

app = typer.Typer(
    help="A human-in-the-loop fine-tuning loop for Hugging Face text models: a model serves, what it is unsure of "
    "goes to people, what they answer retrains it, and a better model replaces it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
pipeline_app = typer.Typer(help="The training pipeline on Kubeflow Pipelines.", no_args_is_help=True)
app.add_typer(pipeline_app, name="pipeline")
console = Console()

Loop = Annotated[Path, typer.Option("--loop", help="The loop spec.", metavar="FILE")]
State = Annotated[
    Path | None,
    typer.Option(
        "--state",
        help="Where the platform keeps everything; default build/loops/NAME, by the loop's name.",
        metavar="DIRECTORY",
    ),
]


@app.command()
def demo(
    state: Annotated[Path, typer.Option(help="Emptied first; holds the report afterwards.")] = Path("build/demo"),
) -> None:
    """Run the whole loop once round, with real parts, and show the difference."""
    summary = run_demo(load_spec(DEMO_SPEC), state, ASSETS, console)
    print_outcome(summary, state, console)


@app.command()
def up(loop: Loop = DEMO_SPEC, state: State = None) -> None:
    """Start the parts that do not run, and leave them running; the first time, train and deploy the first model."""
    platform = _platform(loop, state)
    platform.start(console.line)
    if platform.registry.champion() is None:
        console.phase("Train the first model")
        platform.train(console.step)
    _print_addresses(platform)


@app.command()
def down(loop: Loop = DEMO_SPEC, state: State = None) -> None:
    """Stop the platform. What it keeps stays, and the next `up` finds it again."""
    platform = _platform(loop, state)
    stopped = platform.stop()
    console.line(f"Stopped {', '.join(stopped)}." if stopped else f"Nothing runs in {platform.directory}.")


@app.command()
def status(loop: Loop = DEMO_SPEC, state: State = None) -> None:
    """Show the serving version, the review queue, the reviewers' progress and the last verdict."""
    print_status(_platform(loop, state), console)


@app.command()
def traffic(
    loop: Loop = DEMO_SPEC,
    state: State = None,
    file: Annotated[
        Path | None, typer.Option(help="Texts: .jsonl, or one a line. Left out, the demo's Amazon sentences.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Send at most so many texts.")] = 500,
) -> None:
    """Send texts to the endpoint, single and batched, V1 and V2."""
    platform = _platform(loop, state)
    spec = platform.spec
    texts = read_texts(file, spec.data.text_field) if file else [s.text for s in read_traffic(ASSETS)]
    with console.progress("texts answered") as progress:
        done = 0

        def count(more: int) -> None:
            nonlocal done
            done += more
            progress(done, min(limit, len(texts)))

        result = send_traffic(texts[:limit], platform.endpoint, spec.name, count)
    routed = ", ".join(f"{n} {reason.replace('_', ' ')}" for reason, n in result.routed.items()) or "none"
    console.line(f"{result.texts} texts in {result.requests} requests, {result.failed} failed; to review: {routed}.")
    if result.failed:
        raise ReviewLoopError(f"{result.failed} requests failed, the first with: {result.failures[0]}")


@app.command()
def review(
    replay: Annotated[bool, typer.Option("--replay", help="Answer from the demo's recorded human ratings.")] = False,
    loop: Loop = DEMO_SPEC,
    state: State = None,
) -> None:
    """Open the review queue in a browser, or with --replay answer it from recorded human ratings."""
    platform = _platform(loop, state)
    if not replay:
        url = f"{platform.label_studio_url}/projects/{platform.project.id}/data"
        console.line(f"Review at {url} as {platform.credentials.email}, password {platform.credentials.password}")
        with suppress(webbrowser.Error):
            webbrowser.open(url)
        return
    server = LabelStudioServer(platform.label_studio_url, platform.credentials.api_key)
    with console.progress("tasks answered") as progress:
        result = replay_ratings(
            server, platform.project, read_traffic(ASSETS), platform.spec.review.annotations_per_task, progress
        )
    console.line(f"{result.annotations} recorded human ratings answered {result.tasks} tasks.")
    if result.unrated:
        console.line(f"{result.unrated} tasks hold texts that have no recorded rating; review them in Label Studio.")


@app.command()
def train(
    loop: Loop = DEMO_SPEC,
    state: State = None,
    min_new_annotations: Annotated[
        int | None, typer.Option(min=0, help="Train if at least so many annotations are new; default from the loop.")
    ] = None,
) -> None:
    """Run the training pipeline here: merge, fine-tune, evaluate, register, and deploy if it is better."""
    platform = _platform(loop, state)
    parameters = {} if min_new_annotations is None else {"min_new_annotations": min_new_annotations}
    version = platform.train(console.step, **parameters)
    if version:
        print_evaluation(platform.registry.manifest(version), console)


@app.command()
def report(
    loop: Loop = DEMO_SPEC,
    state: State = None,
    version: Annotated[str | None, typer.Option(help="Left out, the newest.")] = None,
    output: Annotated[Path, typer.Option(help="The HTML file to write.")] = Path("build/report.html"),
) -> None:
    """Write a version's report: one HTML page that needs no network."""
    registry = _platform(loop, state).registry
    versions = registry.versions()
    if not versions:
        raise ReviewLoopError(f"No version is registered in {registry.uri} yet. `reviewloop up` trains the first.")
    output.parent.mkdir(parents=True, exist_ok=True)
    chosen = version or versions[-1]
    registry.manifest(chosen)
    output.write_bytes(registry.report(chosen))
    console.line(f"The report on {chosen} is in {output}")


@pipeline_app.command("compile")
def compile_pipeline(
    loop: Loop = DEMO_SPEC,
    output: Annotated[Path, typer.Option(help="The IR YAML file to write.")] = Path("build/pipeline.yaml"),
) -> None:
    """Compile the training pipeline to IR YAML, with the loop's settings as its parameters' defaults."""
    from pipelines.compilation import compile_training_pipeline

    compile_training_pipeline(load_spec(loop), output)
    console.line(f"Compiled to {output}")


def _print_addresses(platform: Platform) -> None:
    login = platform.credentials
    console.phase("The platform is running")
    console.line(f"Label Studio  {platform.label_studio_url}   login {login.email}   password {login.password}")
    console.line(f"Endpoint      {platform.endpoint}/v1/models/{platform.spec.name}:predict")
    console.line("Try it:")
    console.copyable(
        f"curl -s {platform.endpoint}/v1/models/{platform.spec.name}:predict "
        """-H 'Content-Type: application/json' -d '{"instances": ["It works, I suppose."]}'"""
    )
    console.line("`reviewloop status` shows how it is, `reviewloop down` stops it; give them the same options as this.")


def _platform(loop: Path, state: Path | None) -> Platform:
    spec = load_spec(loop)
    if Path(spec.base_model).is_relative_to(ASSETS):
        fetch_assets(ASSETS, console.line)
    return Platform(spec, state or LOOPS / spec.name)


def main() -> None:
    """Run the command; errors end it with a sentence, an interrupt with everything it started stopped."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except ReviewLoopError as error:
        console.error(str(error))
        sys.exit(1)
    except SystemExit as leaving:
        if leaving.code == INTERRUPTED:
            stop_descendants()
            console.error("Interrupted; everything that this command started has been stopped.")
        raise


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
