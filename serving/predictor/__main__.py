"""``python -m serving.predictor``: serve one model directory."""

import logging
import sys
from pathlib import Path

from serving.lifecycle import exit_quietly_on_signals


def main() -> int:
    """Run the predictor until it is told to stop; the exit status."""
    exit_quietly_on_signals()
    from serving.predictor.model import TextPredictor
    from serving.server import TextServer, argument_parser

    parser = argument_parser("python -m serving.predictor", "Serve a fine-tuned text model.")
    parser.add_argument(
        "--model_dir",
        type=Path,
        default=Path("/mnt/models"),
        help="The model directory; it may be empty at first, or a link that a rollout points elsewhere.",
    )
    args = parser.parse_args()
    if args.workers != 1:
        parser.error("--workers must be 1: one process batches across all requests. Run more replicas instead.")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    TextServer(args).start([TextPredictor(args.model_name, args.model_dir)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
