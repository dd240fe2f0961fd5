"""The routing policy."""

from hypothesis import given
from hypothesis import strategies as st

from reviewloop.records import Prediction
from reviewloop.text_keys import content_key
from serving.review.routing import route

probabilities = st.floats(0.0, 1.0)


def prediction(score: float, threshold: float) -> Prediction:
    answer = {"label": "positive", "probabilities": {"negative": 1 - score, "positive": score}}
    return Prediction(answer, score, "v0001", threshold)


@given(probabilities, probabilities, st.text(), probabilities)
def test_low_confidence_is_always_routed_and_nothing_else_is_called_so(
    score: float, threshold: float, text: str, audit_rate: float
) -> None:
    routing = route(prediction(score, threshold), content_key(text), audit_rate, "sentiment")
    assert (routing.reason == "low_confidence") == (score < threshold)
    assert routing.routed == (routing.reason is not None)
    assert routing.propensity == (1.0 if score < threshold else audit_rate)


def test_the_audit_draws_the_share_it_says() -> None:
    keys = [content_key(f"text {number}") for number in range(20_000)]
    routed = [route(prediction(0.99, 0.5), key, 0.03, "sentiment").routed for key in keys]
    assert abs(sum(routed) / len(keys) - 0.03) < 0.004  # More than three standard errors.
    again = [route(prediction(0.7, 0.6), key, 0.03, "sentiment").routed for key in keys]
    assert routed == again  # The same texts, whatever the model says.
    other = [route(prediction(0.99, 0.5), key, 0.03, "topics").routed for key in keys]
    assert other != routed  # Another model's audit is drawn independently.


def test_a_rate_of_zero_or_one_is_exact() -> None:
    for number in range(500):
        key = content_key(f"text {number}")
        assert not route(prediction(0.9, 0.5), key, 0.0, "m").routed
        assert route(prediction(0.9, 0.5), key, 1.0, "m").routed
