"""Temperature scaling and the review threshold, both fitted on validation data."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

MIN_KEPT = 20
"""A threshold is not judged on fewer predictions than this."""


def fit_temperature(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """The temperature in [0.25, 10] that minimises the negative log-likelihood of ``labels``.

    ``logits`` has shape (examples, classes), ``labels`` holds class indices. Dividing logits by it leaves every
    predicted class as it is (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017).
    """
    rows = np.arange(len(labels))

    def negative_log_likelihood(log_temperature: float) -> float:
        return float(-log_softmax(logits / np.exp(log_temperature), axis=1)[rows, labels].mean())

    found = minimize_scalar(negative_log_likelihood, bounds=(np.log(0.25), np.log(10.0)), method="bounded")
    return float(np.exp(found.x))


def fit_threshold(
    logits: NDArray[np.float32], labels: NDArray[np.int64], temperature: float, target_accuracy: float
) -> float:
    """The lowest confidence at which predictions kept are right at least ``target_accuracy`` of the time.

    Predictions below it are reviewed. 1.0 (review everything) if no threshold reaches the target. The
    risk-coverage trade-off of Geifman & El-Yaniv, "Selective Classification for Deep Neural Networks",
    NeurIPS 2017, without their confidence bound.
    """
    probabilities = softmax(logits / temperature, axis=1)
    confidence = probabilities.max(axis=1)
    order = np.argsort(-confidence)
    descending = confidence[order]
    kept = np.arange(1, len(order) + 1)
    accuracy = np.cumsum(probabilities.argmax(axis=1)[order] == labels[order]) / kept
    # A threshold keeps all predictions of the same confidence, or none.
    last_of_equals = np.append(descending[1:] < descending[:-1], True)
    reached = np.flatnonzero((accuracy >= target_accuracy) & (kept >= min(MIN_KEPT, len(order))) & last_of_equals)
    return float(descending[reached[-1]]) if len(reached) else 1.0
