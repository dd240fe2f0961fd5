"""Show the state of a platform."""

from contextlib import suppress

import httpx

from local.console import Console
from local.platform import Platform
from reviewloop.errors import LabelStudioError, PlatformError
from serving.review.outbox import Outbox


def print_status(platform: Platform, console: Console) -> None:
    """One line a fact; a part that does not answer is said to be down rather than left out."""
    running = [part.name for part in platform.running_parts()]
    versions = platform.registry.versions()
    rows = [("running", ", ".join(running) or "nothing; `reviewloop up` starts the platform")]
    rows.append(("serving version", _serving_version(platform)))
    if versions:
        newest = platform.registry.manifest(versions[-1])
        rows.append(("last verdict", f"{newest.version} {newest.verdict}, {newest.registered_at}"))
        trained_on = newest.lineage.annotations
    else:
        rows.append(("last verdict", "none: nothing was trained yet"))
        trained_on = 0
    outbox = Outbox(platform.outbox_url)
    queue = outbox.counts()
    outbox.close()
    rows.append(("queue depth", str(queue.depth)))
    rows.append(("queue age", f"{queue.oldest_age_s:.0f} s"))
    if queue.refused:
        rows.append(("refused by Label Studio", str(queue.refused)))
    try:
        counts = platform.project.counts()
        rows.append(("tasks waiting", f"{counts.tasks - counts.finished} of {counts.tasks}"))
        rows.append(("annotations since the last training", str(counts.annotations - trained_on)))
    except (LabelStudioError, PlatformError) as error:
        rows.append(("tasks waiting", str(error)))
    for name, value in rows:
        console.rich.print(f"  [bold]{name:<36}[/]{value}")


def _serving_version(platform: Platform) -> str:
    with suppress(httpx.HTTPError, PlatformError):
        response = httpx.post(
            f"{platform.predictor_url}/v1/models/{platform.spec.name}:predict",
            json={"instances": [platform.spec.probes[0]]},
            timeout=5.0,
        )
        if response.status_code == httpx.codes.OK:
            return str(response.json()["predictions"][0]["model_version"])
    return "none"
