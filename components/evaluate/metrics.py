"""What a model is worth on one test set."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support, roc_curve

CALIBRATION_BINS = 10
ROC_POINTS = 100


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Predictions whose confidence lies in (low, high]: how many, how sure on average, how often right."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One class, in [0, 1] each; ``support`` is its number of test examples."""

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True, slots=True)
class TestSetMetrics:
    """One model on one test set. ``confusion`` counts, rows are true labels, columns predicted ones."""

    __test__ = False  # Not a test class, whatever pytest thinks of the name.

    size: int
    accuracy: float
    macro_f1: float
    ece: float
    classes: dict[str, ClassScore]
    confusion: list[list[int]]
    reliability: list[ReliabilityBin]


def measure(probabilities: NDArray[np.float32], targets: NDArray[np.int64], labels: tuple[str, ...]) -> TestSetMetrics:
    """Metrics of calibrated ``probabilities``, shape (examples, classes), against true class indices."""
    predicted = probabilities.argmax(axis=1)
    indices = list(range(len(labels)))
    precision, recall, f1, support = precision_recall_fscore_support(
        targets, predicted, labels=indices, zero_division=0.0
    )
    bins = reliability_bins(probabilities, targets)
    return TestSetMetrics(
        size=len(targets),
        accuracy=float((predicted == targets).mean()),
        macro_f1=float(np.mean(f1)),
        ece=expected_calibration_error(bins),
        classes={
            label: ClassScore(float(precision[i]), float(recall[i]), float(f1[i]), int(support[i]))
            for i, label in enumerate(labels)
        },
        confusion=confusion_matrix(targets, predicted, labels=indices).tolist(),
        reliability=bins,
    )


def reliability_bins(probabilities: NDArray[np.float32], targets: NDArray[np.int64]) -> list[ReliabilityBin]:
    """Non-empty bins of equal width over the confidence of the predicted class."""
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == targets
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
    """Mean gap between confidence and accuracy, weighted by bin size, in [0, 1].

    Naeini, Cooper & Hauskrecht, "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015.
    """
    total = sum(b.count for b in bins)
    return sum(b.count * abs(b.confidence - b.accuracy) for b in bins) / total


def micro_roc_curve(
    probabilities: NDArray[np.float32], targets: NDArray[np.int64]
) -> tuple[list[float], list[float], list[float]]:
    """False positive rates, true positive rates and thresholds, one-vs-rest over all classes together."""
    one_hot = np.eye(probabilities.shape[1], dtype=np.int64)[targets]
    false_positive, true_positive, thresholds = roc_curve(one_hot.ravel(), probabilities.ravel())
    step = max(1, len(thresholds) // ROC_POINTS)
    keep = [*range(0, len(thresholds) - 1, step), len(thresholds) - 1]
    # scikit-learn starts with an infinite threshold, which no JSON can hold.
    return (
        [float(v) for v in false_positive[keep]],
        [float(v) for v in true_positive[keep]],
        [float(min(v, 1.0)) for v in thresholds[keep]],
    )
