"""Review items as the serving side would make them."""

from typing import Any

from reviewloop.records import Label, ReviewItem
from reviewloop.task_types import TaskType
from reviewloop.text_keys import content_key


def review_item(text: str, label: str = "bad", **fields: Any) -> ReviewItem:
    """A routed text, predicted to be ``label`` by version v0001 with a confidence of 0.6."""
    defaults: dict[str, Any] = {
        "key": content_key(text),
        "text": text,
        "reason": "low_confidence",
        "confidence": 0.6,
        "propensity": 1.0,
        "model_version": "v0001",
        "prediction": {"label": label, "probabilities": {label: 0.6, "any other": 0.4}},
        "routed_at": "2026-01-01T00:00:00+00:00",
    }
    return ReviewItem(**defaults | fields)


def answer_of(task: TaskType, label: Label, text: str) -> dict[str, Any]:
    """What a prediction answers if it says ``label`` of ``text``."""
    if task.name == "token-classification":
        return {"entities": [e | {"text": text[e["start"] : e["end"]], "score": 0.9} for e in label]}
    probabilities = {name: 0.9 if name in task.names(label) else 0.1 for name in task.labels}
    field = "label" if task.name == "text-classification" else "labels"
    return {field: label, "probabilities": probabilities}
