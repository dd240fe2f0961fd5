"""The dispatcher: moves review items from the outbox into Label Studio, exactly once in effect.

``python -m serving.review.dispatcher`` runs one. Label Studio never deduplicates, and may finish an import
whose answer never came, so rows of an import with an unknown outcome are looked up by key before they are sent again.
"""

import argparse
import logging
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Protocol

from reviewloop.errors import LabelStudioError, LabelStudioUnavailable, ReviewLoopError
from reviewloop.records import ReviewItem
from serving.lifecycle import exit_quietly_on_signals
from serving.review.outbox import Outbox, OutboxError, WriterLockLost
from serving.review.single_writer import run_alone

FIRST_BACKOFF_S = 0.25

logger = logging.getLogger("serving.review.dispatcher")


class ReviewTasks(Protocol):
    """What the dispatcher needs of :class:`reviewloop.label_studio.ReviewProject`."""

    def import_items(self, items: Sequence[ReviewItem]) -> list[int]:
        """Make one task an item, in one request; the task ids in the same order."""

    def find_tasks(self, keys: Sequence[str]) -> dict[str, list[int]]:
        """The ids of the tasks that carry these keys; a key without a task is left out."""


@dataclass(frozen=True, slots=True)
class DispatchSettings:
    """How many rows travel together, and how long the dispatcher waits for what (seconds)."""

    batch_size: int = 100
    poll_s: float = 0.5
    """Between looks into an empty outbox."""
    settle_s: float = 5.0
    """Until an import of unknown outcome is taken to have ended in Label Studio, one way or the other."""
    max_backoff_s: float = 10.0
    """Between attempts while Label Studio does not answer; every wait is drawn from the upper half."""


class Dispatcher:
    """Delivers rows until it is told to stop. There must be only one an outbox: see :func:`run_alone`."""

    def __init__(
        self,
        outbox: Outbox,
        tasks: ReviewTasks,
        settings: DispatchSettings,
        stopping: threading.Event,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        """``prepare`` is called before the first delivery, and again while Label Studio does not answer it."""
        self._prepare = prepare
        self._outbox = outbox
        self._tasks = tasks
        self._settings = settings
        self._stopping = stopping
        # A predecessor may have died a moment ago with an import under way.
        self._unknown_since = time.monotonic()
        self._failures = 0

    def run(self, once: bool = False) -> None:
        """Deliver until ``stopping`` is set or, with ``once``, until the outbox is empty.

        Raises:
            WriterLockLost: another dispatcher may deliver by now.
        """
        while not self._stopping.is_set():
            try:
                if self._prepare:
                    self._prepare()
                    self._prepare = None
                delivered = self._step()
            except WriterLockLost:
                raise
            except (LabelStudioError, OutboxError) as error:
                self._back_off(error)
                continue
            self._recovered()
            if not delivered:
                if once:
                    return
                self._stopping.wait(self._settings.poll_s)

    def _step(self) -> bool:
        if unknown := self._outbox.in_flight():
            settled = self._unknown_since + self._settings.settle_s
            if not self._stopping.wait(max(0.0, settled - time.monotonic())):
                self._outbox.release(self._deliver_found(unknown))
            return True
        items = self._outbox.claim(self._settings.batch_size)
        if items:
            self._import(items)
        return bool(items)

    def _import(self, items: Sequence[ReviewItem]) -> None:
        try:
            task_ids = self._tasks.import_items(items)
        except LabelStudioUnavailable:
            self._unknown_since = time.monotonic()
            raise
        except LabelStudioError as error:
            self._isolate(items, error)
            return
        if len(task_ids) == len(items):
            self._outbox.deliver({item.key: task_id for item, task_id in zip(items, task_ids, strict=True)})

    def _isolate(self, items: Sequence[ReviewItem], refusal: LabelStudioError) -> None:
        """Find the item that Label Studio refuses by halves, and deliver the others.

        Looking the items up first also tells a refused item from a refused dispatcher: with a wrong API key or
        without its project, Label Studio refuses the look-up as well, and no item is to blame.
        """
        missing = set(self._deliver_found([item.key for item in items]))
        rest = [item for item in items if item.key in missing]
        if len(items) == 1 and rest:
            self._outbox.refuse(rest[0].key, str(refusal))
            logger.error("Label Studio refused item %s; the outbox holds its reason.", rest[0].key)
            return
        middle = (len(rest) + 1) // 2
        for half in (rest[:middle], rest[middle:]):
            if half:
                self._outbox.confirm_session()
                self._import(half)

    def _deliver_found(self, keys: Sequence[str]) -> list[str]:
        """Mark those that are in Label Studio as delivered; the others."""
        found = self._tasks.find_tasks(keys)
        self._outbox.deliver({key: min(task_ids) for key, task_ids in found.items()})
        return [key for key in keys if key not in found]

    def _back_off(self, error: ReviewLoopError) -> None:
        if self._failures == 0:
            logger.warning("%s Items wait in the outbox until that works again.", error)
        ceiling = min(self._settings.max_backoff_s, FIRST_BACKOFF_S * 2**self._failures)
        self._failures = min(self._failures + 1, 30)
        self._stopping.wait(ceiling * random.uniform(0.5, 1.0))

    def _recovered(self) -> None:
        if self._failures:
            logger.info("Items are delivered again.")
        self._failures = 0


def main() -> int:
    """Run a dispatcher until it is told to stop; the exit status."""
    exit_quietly_on_signals()
    from reviewloop.task_types import task_type
    from serving.review.arguments import OUTBOX_URL_VARIABLE, add_review_arguments, read_loop

    defaults = DispatchSettings()
    parser = argparse.ArgumentParser(
        prog="python -m serving.review.dispatcher",
        description="Deliver review items from the outbox to Label Studio.",
        epilog="The Label Studio API key is read from LABEL_STUDIO_API_KEY.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_review_arguments(parser)
    parser.add_argument("--label_studio_url", help="Where Label Studio answers. Left out, as the loop says.")
    parser.add_argument("--project", help="Title of the Label Studio project. Left out, the loop's name.")
    parser.add_argument("--batch_size", type=int, default=defaults.batch_size, help="Items an import.")
    parser.add_argument(
        "--settle_s",
        type=float,
        default=defaults.settle_s,
        help="Until an import of unknown outcome has ended.",
    )
    parser.add_argument("--max_backoff_s", type=float, default=defaults.max_backoff_s, help="Between attempts.")
    parser.add_argument("--once", action="store_true", help="End when the outbox is empty.")
    args = parser.parse_args()
    spec = read_loop(parser, args)
    title = args.project or (spec.name if spec else None)
    label_studio_url = args.label_studio_url or (spec.cluster_label_studio_url if spec else None)
    if not title or not label_studio_url:
        parser.error("--loop is required, or both --project and --label_studio_url.")
    if not args.outbox_url:
        parser.error(f"--outbox_url, or {OUTBOX_URL_VARIABLE}, is required.")
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("serving").setLevel(logging.INFO)

    from reviewloop.label_studio import LabelStudioServer, ReviewProject, api_key_from_environment

    try:
        outbox = Outbox(args.outbox_url)
        task = task_type(args.task_type, labels=spec.task.labels if spec else ())
        api_key = api_key_from_environment()
        project = ReviewProject(label_studio_url, api_key, title, task)
    except ReviewLoopError as error:
        parser.error(str(error))
    settings = DispatchSettings(batch_size=args.batch_size, settle_s=args.settle_s, max_backoff_s=args.max_backoff_s)
    stopping = threading.Event()

    def make_project() -> None:
        if spec and not args.project:
            LabelStudioServer(label_studio_url, api_key).ensure_project(
                title, task, spec.task.instructions, spec.review.annotations_per_task
            )

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)

    def deliver() -> None:
        logger.info("Delivering to project %r at %s.", title, label_studio_url)
        Dispatcher(outbox, project, settings, stopping, make_project).run(args.once)

    run_alone(outbox, stopping, deliver)
    outbox.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
