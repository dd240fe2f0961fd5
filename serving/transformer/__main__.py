"""``python -m serving.transformer``: answer predictions, and route to review what the model is unsure of."""

import sys

from serving.lifecycle import exit_quietly_on_signals

PREDICTOR_TIMEOUT_S = 30


def main() -> int:
    """Run the transformer until it is told to stop; the exit status."""
    exit_quietly_on_signals()
    from kserve.predictor_config import PredictorConfig

    from reviewloop.spec import ReviewSpec
    from reviewloop.task_types import task_type
    from serving.review.arguments import OUTBOX_URL_VARIABLE, add_review_arguments, read_loop
    from serving.review.outbox import Outbox, OutboxError
    from serving.server import TextServer, argument_parser
    from serving.transformer.model import ReviewSettings, ReviewTransformer

    parser = argument_parser("python -m serving.transformer", "Route uncertain predictions to review.")
    parser.set_defaults(predictor_request_timeout_seconds=PREDICTOR_TIMEOUT_S)
    add_review_arguments(parser)
    parser.add_argument("--review", choices=("on", "off"), default="on", help="Whether anything is routed.")
    parser.add_argument(
        "--audit_rate", type=float, help="Share of the confident predictions reviewed too, 0 to 1. Left out, 0.03."
    )
    args = parser.parse_args()
    spec = read_loop(parser, args)
    if args.audit_rate is None:
        args.audit_rate = (spec.review if spec else ReviewSpec()).audit_rate
    if not args.predictor_host:
        parser.error("--predictor_host is required: the predictor's host and port.")
    if not 0.0 <= args.audit_rate <= 1.0:
        parser.error(f"--audit_rate must be between 0 and 1, got {args.audit_rate:g}.")
    review = None
    if args.review == "on":
        if not args.outbox_url:
            parser.error(f"--outbox_url, or {OUTBOX_URL_VARIABLE}, is required unless --review is off.")
        try:
            Outbox(args.outbox_url)
        except OutboxError as error:
            parser.error(str(error))
        review = ReviewSettings(args.outbox_url, args.audit_rate)
    task = task_type(args.task_type, labels=())
    predictor = PredictorConfig(
        predictor_host=args.predictor_host,
        predictor_use_ssl=args.predictor_use_ssl,
        predictor_request_timeout_seconds=args.predictor_request_timeout_seconds,
        predictor_health_check=args.enable_predictor_health_check,
    )
    TextServer(args).start([ReviewTransformer(args.model_name, task, predictor, review)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
