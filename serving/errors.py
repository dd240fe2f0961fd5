"""What a request can be refused with. Every message is a sentence for the caller, and never repeats a text.

ReviewLoopError
└── ServingError             answered with its HTTP status
    ├── InvalidRequest       400: the request must change
    │   ├── RequestTooLarge  413: a limit is exceeded
    │   └── UnknownModel     404: no such model here
    ├── BadUpstream          502: the predictor answered something that is not a prediction
    └── Unavailable          503 with Retry-After: the same request can succeed later
"""

from reviewloop.errors import ReviewLoopError


class ServingError(ReviewLoopError):
    """Base of the errors that a client sees; ``status`` is the HTTP status they are answered with."""

    status = 500
    retry_after_s: int | None = None


class InvalidRequest(ServingError):
    """The request is malformed. ``status`` may be narrowed when the predictor's own refusal is passed on."""

    status = 400

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status or type(self).status


class RequestTooLarge(InvalidRequest):
    """The request exceeds one of the limits in :mod:`serving.protocol`."""

    status = 413


class UnknownModel(InvalidRequest):
    """The path names a model that this server does not have."""

    status = 404


class BadUpstream(ServingError):
    """The predictor answered 200 with something else than predictions."""

    status = 502


class Unavailable(ServingError):
    """The server cannot answer now: it is loading, overloaded, or its predictor is down."""

    status = 503
    retry_after_s = 1
