"""The command-line arguments that the transformer and the dispatcher share: which loop, and where its outbox is."""

import argparse
import os
from pathlib import Path

from reviewloop.errors import SpecError
from reviewloop.spec import LoopSpec, load_spec
from reviewloop.task_types import TASK_TYPES

OUTBOX_URL_VARIABLE = "REVIEWLOOP_OUTBOX_URL"
"""An address with a password belongs in the environment: every user of a machine can read its command lines."""


def add_review_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--loop``, ``--task_type`` and ``--outbox_url``."""
    parser.add_argument(
        "--loop", type=Path, metavar="FILE", help="The loop's loop.yaml; what it says need not be said here again."
    )
    parser.add_argument(
        "--task_type", choices=TASK_TYPES, help="What the model predicts. Left out, text-classification."
    )
    parser.add_argument(
        "--outbox_url",
        help=f"SQLAlchemy URL of the outbox, such as sqlite:////data/outbox.db. Left out, ${OUTBOX_URL_VARIABLE}.",
    )


def read_loop(parser: argparse.ArgumentParser, args: argparse.Namespace) -> LoopSpec | None:
    """The loop of ``--loop``, None without it; completes ``task_type`` and ``outbox_url`` in ``args``.

    Ends the program with a sentence where the loop's file is not valid.
    """
    args.outbox_url = args.outbox_url or os.environ.get(OUTBOX_URL_VARIABLE)
    try:
        spec = load_spec(args.loop) if args.loop else None
    except SpecError as error:
        parser.error(str(error))
    args.task_type = args.task_type or (spec.task.type if spec else "text-classification")
    return spec
