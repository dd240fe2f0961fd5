"""Temperature scaling, label thresholds and the review threshold, all fitted on validation data."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit, log_softmax
from sklearn.metrics import precision_recall_curve

MIN_KEPT = 20
"""A threshold is not judged on fewer predictions than this."""

DEFAULT_LABEL_THRESHOLD = 0.5
"""For a label that no validation text has."""


def fit_temperature(
    logits: NDArray[np.float32],
    targets: NDArray[np.int64] | NDArray[np.float64],
    activation: Literal["softmax", "sigmoid"] = "softmax",
) -> float:
    """The temperature in [0.25, 10] that minimises the negative log-likelihood of ``targets``.

    ``logits`` has shape (examples, outputs). For softmax, ``targets`` holds class indices; for sigmoid, zeros and
    ones in the shape of ``logits``. Dividing logits by it leaves every predicted class as it is (Guo et al., "On
    Calibration of Modern Neural Networks", ICML 2017).
    """

    def negative_log_likelihood(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        if activation == "sigmoid":
            return float(-(targets * log_expit(scaled) + (1 - targets) * log_expit(-scaled)).mean())
        return float(-log_softmax(scaled, axis=1)[np.arange(len(targets)), targets].mean())

    found = minimize_scalar(negative_log_likelihood, bounds=(np.log(0.25), np.log(10.0)), method="bounded")
    return float(np.exp(found.x))


def fit_label_thresholds(
    logits: NDArray[np.float32], targets: NDArray[np.float64], temperature: float
) -> tuple[float, ...]:
    """For each label, the probability at or above which calling it present gives the highest F1.

    Lipton, Elkan & Naryanaswamy, "Optimal Thresholding of Classifiers to Maximize F1 Measure", ECML PKDD 2014.
    ``logits`` and ``targets`` have shape (examples, labels).
    """
    thresholds = []
    for column in range(logits.shape[1]):
        true = targets[:, column]
        if not true.any():
            thresholds.append(DEFAULT_LABEL_THRESHOLD)
            continue
        precision, recall, limits = precision_recall_curve(true, expit(logits[:, column] / temperature))
        total = precision[:-1] + recall[:-1]
        f1 = np.divide(2 * precision[:-1] * recall[:-1], total, out=np.zeros_like(total), where=total > 0)
        best = int(f1.argmax())
        # Half-way to the next lower probability, so that a rounding error does not turn the decision.
        lower = limits[best - 1] if best else 0.0
        thresholds.append(float((limits[best] + lower) / 2))
    return tuple(thresholds)


def fit_threshold(confidence: NDArray[np.float64], correct: NDArray[np.bool_], target_accuracy: float) -> float:
    """The lowest confidence at which predictions kept are right at least ``target_accuracy`` of the time.

    Predictions below it are reviewed. 1.0 (review everything) if no threshold reaches the target. The
    risk-coverage trade-off of Geifman & El-Yaniv, "Selective Classification for Deep Neural Networks",
    NeurIPS 2017, without their confidence bound.
    """
    order = np.argsort(-confidence)
    descending = confidence[order]
    kept = np.arange(1, len(order) + 1)
    accuracy = np.cumsum(correct[order]) / kept
    # A threshold keeps all predictions of the same confidence, or none.
    last_of_equals = np.append(descending[1:] < descending[:-1], True)
    reached = np.flatnonzero((accuracy >= target_accuracy) & (kept >= min(MIN_KEPT, len(order))) & last_of_equals)
    return float(descending[reached[-1]]) if len(reached) else 1.0
