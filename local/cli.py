"""The ``reviewloop`` command."""

import os
import signal
import sys
import threading
import webbrowser
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from local.assets import read_traffic
from local.command_options import DEMO_SPEC, Loop, console
from local.entity_demo import print_entity_outcome, run_entity_demo
from local.evaluations import print_evaluation
from local.loop_assets import ASSETS, load_loop_with_assets
from local.models_commands import models_app
from local.pipeline_commands import pipeline_app
from local.platform import Platform
from local.processes import stop_descendants
from local.sentiment_demo import print_sentiment_outcome, run_sentiment_demo
from local.simulated_review import answer_open_tasks, replayed_ratings
from local.status import print_status
from local.task_export import export_reviews
from local.task_import import Acceptance, Champion, ImportResult, TaskImport
from local.traffic import read_texts, send_traffic
from reviewloop.errors import ReviewLoopError
from reviewloop.label_studio import LabelStudioServer
from reviewloop.problems import Problems
from reviewloop.spec import load_spec
from reviewloop.task_files import read_tasks

LOOPS = Path("build/loops")
ENTITY_SPEC = Path("examples/entities.yaml")

INTERRUPTED = 130
"""The exit status after Ctrl-C or SIGTERM, by the shell's convention."""

INTERRUPT_TIMEOUT_S = 30.0
"""How long an interrupted command may take to clean up before it is ended."""

app = typer.Typer(
    help="A human-in-the-loop fine-tuning loop for Hugging Face text models: a model serves, what it is unsure of "
    "goes to people, what they answer retrains it, and a better model replaces it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(pipeline_app, name="pipeline")
app.add_typer(models_app, name="models")

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
    summary = run_sentiment_demo(load_spec(DEMO_SPEC), state, ASSETS, console)
    print_sentiment_outcome(summary, state, console)


@app.command("demo-ner")
def demo_ner(
    state: Annotated[Path, typer.Option(help="Emptied first; holds the report afterwards.")] = Path("build/demo-ner"),
) -> None:
    """Run the whole loop once round for named entities, on generated texts and with simulated reviewers."""
    summary = run_entity_demo(load_spec(ENTITY_SPEC), state, ASSETS, console)
    print_entity_outcome(summary, state, console)


@app.command()
def up(loop: Loop = DEMO_SPEC, state: State = None) -> None:
    """Start the parts that do not run, and leave them running; the first time, train and deploy the first model."""
    platform = _platform(loop, state)
    platform.start(console.line)
    if platform.registry.champion() is None and platform.spec.data.source:
        console.phase("Train the first model")
        platform.train(console.step)
    _print_addresses(platform)
    if platform.registry.champion() is None:
        console.line("There is no model yet: `reviewloop import` some tasks, review them, then `reviewloop train`.")


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
    server = _label_studio(platform)
    with console.progress("tasks answered") as progress:
        reviewers = platform.spec.review.annotations_per_task
        answers_of = replayed_ratings(read_traffic(ASSETS), reviewers)
        result = answer_open_tasks(server, platform.project, answers_of, reviewers, progress)
    console.line(f"{result.annotations} recorded human ratings answered {result.tasks} tasks.")
    if result.unknown:
        console.line(f"{result.unknown} tasks hold texts that have no recorded rating; review them in Label Studio.")


@app.command("import")
def import_tasks(
    uri: Annotated[str, typer.Argument(help="A file, directory, file:// or s3:// prefix.", metavar="URI")],
    loop: Loop = DEMO_SPEC,
    state: State = None,
    prelabel: Annotated[
        bool, typer.Option("--prelabel", help="Attach the champion's predictions, and queue the least certain first.")
    ] = False,
    accept_above: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            metavar="P",
            help="With --prelabel: take predictions of at least this confidence as machine labels instead of asking "
            "people. Training uses them only with data.machine_labels.",
        ),
    ] = None,
    check_share: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, metavar="SHARE", help="Of those, the share people label too, to measure the errors."
        ),
    ] = 0.05,
) -> None:
    """Load tasks into the review queue: Label Studio JSON or JSON_MIN, JSON Lines, CSV. Run again, it goes on."""
    if accept_above is not None and not prelabel:
        raise ReviewLoopError("--accept-above needs --prelabel: only a prediction can be accepted.")
    platform = _platform(loop, state)
    if prelabel and platform.registry.champion() is None:
        raise ReviewLoopError("--prelabel needs a model that serves, and there is none yet. Train one first.")
    spec = platform.spec
    result = ImportResult()
    tasks = read_tasks(uri, platform.task, result.problems, spec.data.text_field, spec.data.label_field)
    champion = Champion(platform.predictor_url, spec.name) if prelabel else None
    acceptance = Acceptance(accept_above, check_share) if accept_above is not None else None
    loader = TaskImport(_label_studio(platform), platform.project, platform.registry)
    with console.running_count("tasks read") as progress:
        loader.run(tasks, result, champion, acceptance, lambda so_far: progress(so_far.read))
    console.line(f"{result.imported} of {result.read} tasks imported; {result.known} were known already.")
    if acceptance:
        console.line(
            f"{result.accepted} predictions accepted as machine labels; {result.checked} more go to people as a check."
        )
    _print_problems(result.problems)


@app.command("export")
def export_tasks(
    uri: Annotated[str, typer.Argument(help="A directory, file:// or s3:// prefix.", metavar="URI")],
    loop: Loop = DEMO_SPEC,
    state: State = None,
) -> None:
    """Write what was reviewed: tasks.json in Label Studio's format, training.jsonl as data.source takes it."""
    platform = _platform(loop, state)
    result = export_reviews(_label_studio(platform), platform.project, uri)
    console.line(f"{result.tasks} reviewed tasks and {result.examples} training examples are in {uri}")
    _print_problems(result.problems)


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


def _label_studio(platform: Platform) -> LabelStudioServer:
    return LabelStudioServer(platform.label_studio_url, platform.credentials.api_key)


def _print_problems(problems: Problems) -> None:
    for kind, found in problems.summary().items():
        console.line(f"Left out: {found['count']} x {kind} ({', '.join(found['where'][:5])})")


def _platform(loop: Path, state: Path | None) -> Platform:
    spec = load_loop_with_assets(loop, console.line)
    return Platform(spec, state or LOOPS / spec.name)


def main() -> None:
    """Run the command; errors end it with a sentence, an interrupt with everything it started stopped."""
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        app()
    except ReviewLoopError as error:
        console.error(str(error))
        sys.exit(1)
    except SystemExit as leaving:
        if leaving.code == INTERRUPTED:
            _stop_everything()
        raise
    finally:
        # Whoever called this as a function goes on.
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    # Some library's cleanup may swallow the exception, and go on as if nothing had been asked.
    watchdog = threading.Timer(INTERRUPT_TIMEOUT_S, _leave)
    watchdog.daemon = True
    watchdog.start()
    raise KeyboardInterrupt


def _leave() -> None:
    _stop_everything()
    os._exit(INTERRUPTED)


def _stop_everything() -> None:
    stop_descendants()
    console.error("Interrupted; everything that this command started has been stopped.")
