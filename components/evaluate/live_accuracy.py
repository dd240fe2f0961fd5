"""The accuracy of the serving model on the traffic it really got, estimated from reviewed predictions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reviewloop.dataset import ReviewedTraffic

RESAMPLES = 2_000


@dataclass(frozen=True, slots=True)
class LiveAccuracy:
    """An estimate for one model version, with its 95% bootstrap interval.

    ``traffic`` is the number of distinct texts that the reviewed ones stand for.
    """

    model_version: str
    accuracy: float
    low: float
    high: float
    reviewed: int
    audited: int
    traffic: float


def estimate_live_accuracy(rows: Sequence[ReviewedTraffic], model_version: str, seed: int) -> LiveAccuracy | None:
    """Weight every reviewed prediction of ``model_version`` by the inverse of its inclusion probability.

    The low-confidence predictions alone would make the model look worse than it is; weighting them together with
    the audit sample of the confident ones does not. The ratio form of Horvitz & Thompson's estimator (Hájek
    1971; Särndal, Swensson & Wretman, "Model Assisted Survey Sampling", 1992, section 5.7). The interval
    resamples low-confidence and audited rows apart. None without both kinds.
    """
    strata = [
        [row for row in rows if row.model_version == model_version and row.reason == reason]
        for reason in ("low_confidence", "audit")
    ]
    if not all(strata):
        return None
    weights = [np.array([row.weight for row in stratum]) for stratum in strata]
    correct = [np.array([row.predicted == row.label for row in stratum], dtype=float) for stratum in strata]
    random = np.random.default_rng(seed)
    numerator, denominator = np.zeros(RESAMPLES), np.zeros(RESAMPLES)
    for weight, right in zip(weights, correct, strict=True):
        chosen = random.integers(0, len(weight), size=(RESAMPLES, len(weight)))
        numerator += (weight * right)[chosen].sum(axis=1)
        denominator += weight[chosen].sum(axis=1)
    total = sum(float(w.sum()) for w in weights)
    right_total = sum(float((w * r).sum()) for w, r in zip(weights, correct, strict=True))
    low, high = np.quantile(numerator / denominator, [0.025, 0.975])
    return LiveAccuracy(
        model_version=model_version,
        accuracy=right_total / total,
        low=float(low),
        high=float(high),
        reviewed=sum(map(len, strata)),
        audited=len(strata[1]),
        traffic=total,
    )
