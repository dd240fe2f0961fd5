"""Whether a challenger has earned its promotion: a paired interval, and floors that must not give way."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from components.evaluate.metrics import TestSetMetrics
from reviewloop.registry import Verdict
from reviewloop.spec import PromotionSpec
from reviewloop.task_types.base import Counts

RESAMPLES = 10_000
PARTS = 20
MIN_CLASS_SUPPORT = 30
"""A class with fewer test examples is too noisy to veto."""


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Challenger's score minus champion's on the same examples, with its bootstrap interval."""

    delta: float
    low: float
    high: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdict and the sentences that justify it."""

    verdict: Verdict
    reasons: tuple[str, ...]


def paired_bootstrap(
    champion: Sequence[Counts], challenger: Sequence[Counts], confidence: float, seed: int
) -> PairedDifference:
    """The difference in micro-averaged F1 and its percentile interval over paired resamples of the examples.

    Only how many examples have the same counts for both models matters, so resamples are drawn from the
    multinomial over those. Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13; for comparing
    two systems: Koehn, "Statistical Significance Tests for Machine Translation Evaluation", EMNLP 2004.
    """
    rows = np.array([(*astuple(old), *astuple(new)) for old, new in zip(champion, challenger, strict=True)])
    kinds, numbers = np.unique(rows, axis=0, return_counts=True)
    random = np.random.default_rng(seed)
    # In parts, because there may be as many kinds as examples.
    draws = (random.multinomial(len(rows), numbers / len(rows), size=RESAMPLES // PARTS) for _ in range(PARTS))
    totals = np.concatenate([part @ kinds for part in draws])
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(_differences(totals), [tail, 1.0 - tail])
    delta = _differences(rows.sum(axis=0, keepdims=True))[0]
    return PairedDifference(float(delta), float(low), float(high), confidence)


def _differences(totals: NDArray[np.int64]) -> NDArray[np.float64]:
    """Challenger's F1 minus champion's from summed counts, shape (resamples, 6)."""
    return _f1(totals[:, 3:]) - _f1(totals[:, :3])


def _f1(totals: NDArray[np.int64]) -> NDArray[np.float64]:
    found, wrong = 2.0 * totals[:, 0], totals[:, 1] + totals[:, 2]
    scores: NDArray[np.float64] = np.divide(found, found + wrong, out=np.ones(len(totals)), where=found + wrong > 0)
    return scores


def decide(
    primary: str,
    differences: Mapping[str, PairedDifference],
    champion: Mapping[str, TestSetMetrics],
    challenger: Mapping[str, TestSetMetrics],
    rule: PromotionSpec,
    metric: str,
) -> Decision:
    """Promote the challenger if it is better on ``primary`` and gives no floor away anywhere."""
    difference = differences[primary]
    interval = f"[{difference.low:+.3f}, {difference.high:+.3f}]"
    refusals = []
    if difference.low <= rule.min_gain:
        refusals.append(
            f"On {primary} the {metric} changes by {difference.delta:+.3f}, but the {rule.confidence:.0%} interval "
            f"{interval} does not lie above {rule.min_gain:+.3f}."
        )
    for name, other in differences.items():
        if name != primary and other.delta < -rule.max_drop:
            refusals.append(
                f"On {name} the {metric} falls by {-other.delta:.3f}, more than the {rule.max_drop:.3f} allowed."
            )
    for name in challenger:
        for label, score in challenger[name].classes.items():
            drop = champion[name].classes[label].f1 - score.f1
            if score.support >= MIN_CLASS_SUPPORT and drop > rule.max_class_drop:
                refusals.append(
                    f"On {name} the F1 of class {label} falls by {drop:.3f}, more than the "
                    f"{rule.max_class_drop:.3f} allowed."
                )
    if refusals:
        return Decision("refused", tuple(refusals))
    return Decision(
        "promoted",
        (
            f"On {primary} the {metric} changes by {difference.delta:+.3f}, {rule.confidence:.0%} interval "
            f"{interval}; no other test set and no class falls further than allowed.",
        ),
    )
