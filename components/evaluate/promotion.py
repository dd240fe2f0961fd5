"""Whether a challenger has earned its promotion: a paired interval, and floors that must not give way."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.evaluate.metrics import TestSetMetrics
from reviewloop.registry import Verdict
from reviewloop.spec import PromotionSpec

RESAMPLES = 10_000
MIN_CLASS_SUPPORT = 30
"""A class with fewer test examples is too noisy to veto."""


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Challenger's accuracy minus champion's on the same examples, with its bootstrap interval."""

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
    champion_correct: NDArray[np.bool_], challenger_correct: NDArray[np.bool_], confidence: float, seed: int
) -> PairedDifference:
    """The difference in accuracy and its percentile interval over paired resamples of the examples.

    Only how many examples each model alone gets right matters, so resamples are drawn from the multinomial over
    lost, same and won. Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13; for comparing
    two systems: Koehn, "Statistical Significance Tests for Machine Translation Evaluation", EMNLP 2004.
    """
    size = len(champion_correct)
    won = int((challenger_correct & ~champion_correct).sum())
    lost = int((champion_correct & ~challenger_correct).sum())
    draws = np.random.default_rng(seed).multinomial(
        size, [lost / size, (size - won - lost) / size, won / size], size=RESAMPLES
    )
    deltas = (draws[:, 2] - draws[:, 0]) / size
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(deltas, [tail, 1.0 - tail])
    return PairedDifference((won - lost) / size, float(low), float(high), confidence)


def decide(
    primary: str,
    differences: Mapping[str, PairedDifference],
    champion: Mapping[str, TestSetMetrics],
    challenger: Mapping[str, TestSetMetrics],
    rule: PromotionSpec,
) -> Decision:
    """Promote the challenger if it is better on ``primary`` and gives no floor away anywhere."""
    difference = differences[primary]
    interval = f"[{difference.low:+.3f}, {difference.high:+.3f}]"
    refusals = []
    if difference.low <= rule.min_gain:
        refusals.append(
            f"On {primary} the accuracy changes by {difference.delta:+.3f}, but the {rule.confidence:.0%} interval "
            f"{interval} does not lie above {rule.min_gain:+.3f}."
        )
    for name, other in differences.items():
        if name != primary and other.delta < -rule.max_drop:
            refusals.append(
                f"On {name} the accuracy falls by {-other.delta:.3f}, more than the {rule.max_drop:.3f} allowed."
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
            f"On {primary} the accuracy changes by {difference.delta:+.3f}, {rule.confidence:.0%} interval "
            f"{interval}; no other test set and no class falls further than allowed.",
        ),
    )
