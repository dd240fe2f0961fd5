"""Live accuracy, estimated from reviews of traffic whose true accuracy is known because it is simulated."""

import numpy as np
import pytest

from components.evaluate.live_accuracy import estimate_live_accuracy
from reviewloop.dataset import ReviewedTraffic

AUDIT_RATE = 0.1
THRESHOLD = 0.75


def simulated(seed: int, size: int = 4_000, answered: float = 1.0) -> tuple[list[ReviewedTraffic], float]:
    """The reviewed part of some traffic, and the accuracy of all of it. Surer predictions are right more often."""
    random = np.random.default_rng(seed)
    confidence = random.beta(4, 1, size)
    correct = random.random(size) < 0.3 + 0.65 * confidence
    low = confidence < THRESHOLD
    audited = ~low & (random.random(size) < AUDIT_RATE)
    # Reviewers have answered only some of the low-confidence tasks yet.
    low &= random.random(size) < answered
    rows = [
        ReviewedTraffic(
            label="good" if correct[i] else "bad",
            predicted="good",
            reason="low_confidence" if low[i] else "audit",
            weight=1 / answered if low[i] else 1 / AUDIT_RATE,
            model_version="v0001",
        )
        for i in np.flatnonzero(low | audited)
    ]
    return rows, float(correct.mean())


@pytest.mark.parametrize("answered", [1.0, 0.4])
def test_the_estimate_is_close_to_the_accuracy_of_all_traffic(answered: float) -> None:
    errors, naive_errors, inside = [], [], 0
    for seed in range(40):
        rows, truth = simulated(seed, answered=answered)
        live = estimate_live_accuracy(rows, "v0001", seed)
        assert live is not None
        errors.append(live.accuracy - truth)
        naive_errors.append(np.mean([r.predicted == r.label for r in rows if r.reason == "low_confidence"]) - truth)
        inside += live.low <= truth <= live.high
    assert abs(np.mean(errors)) < 0.01
    assert np.mean(naive_errors) < -0.1
    assert inside >= 35


def test_the_estimate_is_the_weighted_share_of_right_answers() -> None:
    def row(reason: str, right: bool, weight: float) -> ReviewedTraffic:
        return ReviewedTraffic("good", "good" if right else "bad", reason, weight, "v0001")  # type: ignore[arg-type]

    rows = [row("low_confidence", False, 1.0), row("low_confidence", True, 1.0), row("audit", True, 20.0)]
    rows.append(row("audit", False, 20.0))
    live = estimate_live_accuracy(rows, "v0001", seed=7)
    assert live is not None
    assert live.accuracy == pytest.approx((1 + 20) / 42)
    assert (live.reviewed, live.audited, live.traffic) == (4, 2, 42.0)
    assert live.low <= live.accuracy <= live.high


def test_other_versions_do_not_count() -> None:
    rows, _ = simulated(seed=0, size=500)
    others = [ReviewedTraffic("bad", "good", r.reason, r.weight, "v0002") for r in rows]
    assert estimate_live_accuracy([*rows, *others], "v0001", seed=7) == estimate_live_accuracy(rows, "v0001", seed=7)


@pytest.mark.parametrize("missing", ["audit", "low_confidence"])
def test_there_is_no_estimate_without_both_kinds(missing: str) -> None:
    rows, _ = simulated(seed=0, size=500)
    assert estimate_live_accuracy([r for r in rows if r.reason != missing], "v0001", seed=7) is None


def test_there_is_no_estimate_of_nothing() -> None:
    assert estimate_live_accuracy([], "", seed=7) is None
