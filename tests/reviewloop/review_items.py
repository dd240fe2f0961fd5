"""Review items as the serving side would make them."""

from typing import Any

from reviewloop.records import ReviewItem
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
        "prediction": {label: 0.6, "any other": 0.4},
        "routed_at": "2026-01-01T00:00:00+00:00",
    }
    return ReviewItem(**defaults | fields)
