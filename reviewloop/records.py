"""The records that travel round the loop: prediction, routing, review item, annotation, example."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

ReviewReason = Literal["low_confidence", "audit"]

MACHINE_CHECK = "machine_check"
"""The reason of a task that a machine label would have made needless: people's answer tells how often such err."""

Label = Any
"""What a text is labelled with, as JSON: the label's name (text-classification), a list of names
(multi-label-classification), or a list of ``{"start", "end", "label"}`` (token-classification). Equal labels
compare equal, because their task type keeps each in one order.
"""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says about one text.

    ``answer`` holds what its task type says (see :class:`reviewloop.task_types.TaskType`): ``label`` and
    ``probabilities``, ``labels`` and ``probabilities``, or ``entities``. ``score`` is the calibrated confidence in
    it, in [0, 1]. ``threshold`` is the confidence, fitted for this model version, below which a prediction goes
    to review.
    """

    answer: dict[str, Any]
    score: float
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
    prediction: dict[str, Any]
    """The prediction's answer."""
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
    label: Label
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
    label: Label
    source: str


@dataclass(frozen=True, slots=True)
class MachineLabel:
    """A prediction so sure that it was taken for a label without a person; ``score`` is its confidence."""

    key: str
    text: str
    label: Label
    score: float
    model_version: str
    accepted_at: str
