"""The routing policy: pure functions of a prediction and the content key of its text."""

from reviewloop.records import Prediction, Routing
from reviewloop.text_keys import uniform_draw


def route(prediction: Prediction, key: str, audit_rate: float, model_name: str) -> Routing:
    """Decide whether a prediction goes to review.

    Below the threshold of the version that made it, it always does (least confidence: Lewis & Gale, SIGIR
    1994). Of the others, the share ``audit_rate`` does, drawn by ``key``: every replica and every repeat of a
    text draws alike, whatever the model says of it.
    """
    if prediction.score < prediction.threshold:
        return Routing(routed=True, reason="low_confidence", propensity=1.0)
    if uniform_draw(key, salt=f"audit:{model_name}") < audit_rate:
        return Routing(routed=True, reason="audit", propensity=audit_rate)
    return Routing(routed=False, reason=None, propensity=audit_rate)
