"""The records that travel round the loop: prediction, routing, review item, annotation, example."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

ReviewReason = Literal["low_confidence", "audit"]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says about one text.

    ``probabilities`` maps every label to its calibrated probability (they sum to 1), ``score`` is the
    probability of ``label``. ``threshold`` is the confidence, fitted for this model version, below which a
    prediction goes to review.
    """

    label: str
    score: float
    probabilities: dict[str, float]
    model_version: str
    threshold: float


@dataclass(frozen=True, slots=True)
class Routing:
    """Whether a prediction goes to review, why, and with what probability it was chosen.

    ``propensity`` is the inclusion probability in (0, 1]: 1 for a low-confidence prediction, the audit rate for
    the others, also for those that the draw left out. Its inverse weights a reviewed item when live accuracy is
    estimated (Horvitz & Thompson, JASA 1952).
    """

    routed: bool
    reason: ReviewReason | None
    propensity: float


@dataclass(frozen=True, slots=True)
class ReviewItem:
    """One text on its way to the reviewers, with everything that must travel with it."""

    key: str
    text: str
    reason: ReviewReason
    confidence: float
    propensity: float
    model_version: str
    prediction: dict[str, float]
    """Calibrated probability by label."""
    routed_at: str
    """ISO 8601, UTC."""

    def metadata(self) -> dict[str, Any]:
        """All but the text, as it goes into the ``meta`` of the Label Studio task."""
        meta = asdict(self)
        del meta["text"]
        return meta


@dataclass(frozen=True, slots=True)
class Annotation:
    """One reviewer's answer to one task."""

    id: int
    reviewer: int
    label: str
    updated_at: str


@dataclass(frozen=True, slots=True)
class ReviewTask:
    """A Label Studio task with its usable answers, in the order they were recorded (by annotation id).

    ``item`` holds the routing metadata of :class:`ReviewItem`, empty for a task that the loop did not make.
    """

    task_id: int
    text: str
    annotations: tuple[Annotation, ...]
    item: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Example:
    """A labelled text. ``source`` says where it came from: the data's name, or ``reviews``."""

    text: str
    label: str
    source: str
