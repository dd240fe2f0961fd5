"""What a model is worth on one test set."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import roc_curve

from reviewloop.records import Label, Prediction
from reviewloop.task_types import TaskType
from reviewloop.task_types.base import Claim, ClassScore, ConfusionMatrix, Counts

CALIBRATION_BINS = 10
ROC_POINTS = 100


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Claims whose confidence lies in (low, high]: how many, how sure on average, how often right."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class TestSetMetrics:
    """One model on one test set.

    ``score`` is the task type's metric, the micro-averaged F1; where each text has one label, it is the accuracy.
    ``exact`` is the share of texts whose answer is right in every part.
    """

    __test__ = False  # Not a test class, whatever pytest thinks of the name.

    size: int
    score: float
    macro_f1: float
    exact: float
    ece: float
    classes: dict[str, ClassScore]
    confusion: ConfusionMatrix | None
    reliability: list[ReliabilityBin]


def measure(task: TaskType, truths: Sequence[Label], predictions: Sequence[Prediction]) -> TestSetMetrics:
    """Metrics of calibrated predictions against the true labels."""
    answered = [task.answered(p.answer) for p in predictions]
    pairs = list(zip(truths, answered, strict=True))
    bins = reliability_bins(
        [claim for truth, p in zip(truths, predictions, strict=True) for claim in task.claims(truth, p.answer)]
    )
    classes = task.class_scores(truths, answered)
    return TestSetMetrics(
        size=len(pairs),
        score=micro_f1([task.counts(truth, answer) for truth, answer in pairs]),
        macro_f1=float(np.mean([score.f1 for score in classes.values()])),
        exact=sum(truth == answer for truth, answer in pairs) / len(pairs),
        ece=expected_calibration_error(bins),
        classes=classes,
        confusion=task.confusion(truths, answered),
        reliability=bins,
    )


def micro_f1(counts: Sequence[Counts]) -> float:
    """F1 over all predictions together; 1 if there was nothing to find and nothing was made up."""
    found = sum(c.true_positives for c in counts)
    wrong = sum(c.false_positives + c.false_negatives for c in counts)
    return 2 * found / (2 * found + wrong) if found + wrong else 1.0


def reliability_bins(claims: Sequence[Claim]) -> list[ReliabilityBin]:
    """Non-empty bins of equal width over the confidence of the claims."""
    confidence = np.array([claim.confidence for claim in claims])
    correct = np.array([claim.correct for claim in claims], dtype=bool)
    edges = np.linspace(0.0, 1.0, CALIBRATION_BINS + 1)
    members = np.clip(np.digitize(confidence, edges, right=True) - 1, 0, CALIBRATION_BINS - 1)
    return [
        ReliabilityBin(
            low=float(edges[i]),
            high=float(edges[i + 1]),
            count=int((members == i).sum()),
            confidence=float(confidence[members == i].mean()),
            accuracy=float(correct[members == i].mean()),
        )
        for i in range(CALIBRATION_BINS)
        if (members == i).any()
    ]


def expected_calibration_error(bins: list[ReliabilityBin]) -> float:
    """Mean gap between confidence and accuracy, weighted by bin size, in [0, 1]; 0 where nothing was claimed.

    Naeini, Cooper & Hauskrecht, "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015.
    """
    total = sum(b.count for b in bins)
    return sum(b.count * abs(b.confidence - b.accuracy) for b in bins) / total if total else 0.0


def roc(
    task: TaskType, truths: Sequence[Label], predictions: Sequence[Prediction]
) -> tuple[list[float], list[float], list[float]] | None:
    """False positive rates, true positive rates and thresholds, over all classes together (one-vs-rest).

    None where everything, or nothing, is true, and there is no curve.
    """
    claims = [claim for truth, p in zip(truths, predictions, strict=True) for claim in task.ranking(truth, p.answer)]
    if len({claim.correct for claim in claims}) < 2:
        return None
    false_positive, true_positive, thresholds = roc_curve(
        [claim.correct for claim in claims], [claim.confidence for claim in claims]
    )
    step = max(1, len(thresholds) // ROC_POINTS)
    keep = [*range(0, len(thresholds) - 1, step), len(thresholds) - 1]
    # scikit-learn starts with an infinite threshold, which no JSON can hold.
    return (
        [float(v) for v in false_positive[keep]],
        [float(v) for v in true_positive[keep]],
        [float(min(v, 1.0)) for v in thresholds[keep]],
    )
