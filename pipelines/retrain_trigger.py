"""The retrain trigger: starts a run of the training pipeline when enough annotations are new.

``python -m pipelines.retrain_trigger --loop FILE`` runs one. It polls Label Studio; a webhook only makes it look
sooner.
"""

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from pipelines.connection import Connection
from pipelines.kubeflow import TrainingPipeline
from pipelines.retraining import Retraining, logger
from pipelines.webhook import SECRET_HEADER, listening
from reviewloop.errors import ReviewLoopError
from reviewloop.label_studio import API_KEY_VARIABLE, ReviewProject, api_key_from_environment
from reviewloop.registry import Registry
from reviewloop.spec import load_spec
from reviewloop.task_types import task_type

SECRET_VARIABLE = "RETRAIN_WEBHOOK_SECRET"  # noqa: S105 - the variable's name

SHORTEST_WAIT_S = 5.0
"""Between two looks, however many webhook requests come."""


def watch(
    look: Callable[[], float],
    poll_s: float,
    hint: threading.Event,
    stopping: threading.Event,
    shortest_wait_s: float = SHORTEST_WAIT_S,
) -> None:
    """Look again and again until ``stopping``: after ``poll_s``, sooner if ``look`` says so, or at a ``hint``."""
    trouble = ""
    while not stopping.is_set():
        hint.clear()
        wait_s = poll_s
        try:
            wait_s = min(poll_s, look())
            if trouble:
                logger.info("Everything answers again.")
            trouble = ""
        except ReviewLoopError as error:
            if str(error) != trouble:
                logger.warning("%s Looking again later.", error)
            trouble = str(error)
        if not stopping.wait(shortest_wait_s):
            hint.wait(max(0.0, wait_s - shortest_wait_s))


def main() -> int:
    """Run a trigger until it is told to stop; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.retrain_trigger",
        description="Start a run of the training pipeline when enough annotations are new.",
        epilog=f"The Label Studio API key is read from {API_KEY_VARIABLE}, what a webhook must send in the header "
        f"{SECRET_HEADER} from {SECRET_VARIABLE}; without it every webhook request is refused.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--loop", type=Path, required=True, help="The loop spec.")
    parser.add_argument("--endpoint", help="Where Kubeflow Pipelines answers; left out, KF_PIPELINES_ENDPOINT.")
    parser.add_argument("--host", default="0.0.0.0", help="Address to listen on.")  # noqa: S104 - a pod's
    parser.add_argument("--port", type=int, default=8080, help="Port of /webhook, /healthz and /metrics.")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logger.setLevel(logging.INFO)
    hint, stopping = threading.Event(), threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()
        hint.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        spec = load_spec(args.loop)
        task = task_type(spec.task.type, spec.task.labels)
        retraining = Retraining(
            spec.retrain,
            ReviewProject(spec.cluster_label_studio_url, api_key_from_environment(), spec.name, task),
            Registry(spec.cluster_registry_uri),
            TrainingPipeline(spec, Connection(args.endpoint)),
        )
    except ReviewLoopError as error:
        parser.error(str(error))
    with listening(args.host, args.port, os.environ.get(SECRET_VARIABLE, ""), hint.set) as port:
        logger.info("Watching the annotations of %r; listening on port %d.", spec.name, port)
        watch(retraining.look, spec.retrain.poll_s, hint, stopping)
    return 0


if __name__ == "__main__":
    sys.exit(main())
