"""Temperature and thresholds against data whose answers are known by construction."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit, softmax

from components.finetune.calibration import fit_label_thresholds, fit_temperature, fit_threshold


def synthetic(size: int, temperature: float, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits, and labels drawn with the probabilities that these logits mean at ``temperature``."""
    random = np.random.default_rng(seed)
    logits = random.normal(scale=3.0, size=(size, 3)).astype(np.float32)
    chances = softmax(logits / temperature, axis=1).cumsum(axis=1)
    labels = (random.random((size, 1)) > chances).sum(axis=1).clip(max=2)
    return logits, labels.astype(np.int64)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 4.0])
def test_a_known_temperature_is_found(temperature: float) -> None:
    assert fit_temperature(*synthetic(8_000, temperature)) == pytest.approx(temperature, rel=0.1)


def test_the_temperature_stays_in_its_bounds_whatever_the_data() -> None:
    logits, _ = synthetic(200, 1.0)
    always_right = logits.argmax(axis=1)
    always_wrong = logits.argmin(axis=1)
    assert fit_temperature(logits, always_right) == pytest.approx(0.25, rel=0.05)
    assert fit_temperature(logits, always_wrong) == pytest.approx(10.0, rel=0.05)


def synthetic_labels(
    size: int, temperature: float, seed: int = 0, offset: float = 0.0
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Logits of three labels, and which hold, drawn with the probabilities these mean at ``temperature``.

    The greater ``offset``, the rarer the labels.
    """
    random = np.random.default_rng(seed)
    logits = random.normal(loc=-offset, scale=3.0, size=(size, 3)).astype(np.float32)
    return logits, (random.random((size, 3)) < expit(logits / temperature)).astype(np.float64)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 4.0])
def test_a_known_temperature_of_independent_labels_is_found(temperature: float) -> None:
    logits, targets = synthetic_labels(8_000, temperature)
    assert fit_temperature(logits, targets, "sigmoid") == pytest.approx(temperature, rel=0.1)


def test_one_label_alone_has_a_temperature() -> None:
    logits, targets = synthetic_labels(8_000, 2.0)
    assert fit_temperature(logits[:, :1], targets[:, :1], "sigmoid") == pytest.approx(2.0, rel=0.1)


def test_the_temperature_of_independent_labels_stays_in_its_bounds_whatever_the_data() -> None:
    logits, _ = synthetic_labels(200, 1.0)
    always_right = (logits > 0).astype(float)
    assert fit_temperature(logits, always_right, "sigmoid") == pytest.approx(0.25, rel=0.05)
    assert fit_temperature(logits, 1 - always_right, "sigmoid") == pytest.approx(10.0, rel=0.05)
    # Logits so large that the probability of a wrong answer is zero in any precision.
    assert 0.25 <= fit_temperature(logits * 1_000, 1 - always_right, "sigmoid") <= 10.0


def f1(logits: NDArray[np.float32], targets: NDArray[np.float64], label: int, threshold: float) -> float:
    """The F1 of a label that holds from ``threshold`` on."""
    true, predicted = targets[:, label] == 1, expit(logits[:, label]) >= threshold
    return float(2 * (true & predicted).sum() / (true.sum() + predicted.sum()))


@pytest.mark.parametrize("offset", [0.0, 4.0])
def test_each_label_gets_the_threshold_of_its_highest_f1(offset: float) -> None:
    logits, targets = synthetic_labels(300, 1.0, offset=offset)
    thresholds = fit_label_thresholds(logits, targets, 1.0)
    assert len(thresholds) == 3
    for label, threshold in enumerate(thresholds):
        best = max(f1(logits, targets, label, limit) for limit in expit(logits[:, label]))
        assert f1(logits, targets, label, threshold) == pytest.approx(best)


def test_the_best_threshold_of_a_calibrated_model_is_half_its_best_f1() -> None:
    # Lipton, Elkan & Naryanaswamy, theorem 1.
    logits, targets = synthetic_labels(20_000, 1.0, offset=2.0)
    for label, threshold in enumerate(fit_label_thresholds(logits, targets, 1.0)):
        assert threshold == pytest.approx(f1(logits, targets, label, threshold) / 2, abs=0.06)


def test_label_thresholds_are_probabilities_at_the_temperature() -> None:
    logits, targets = synthetic_labels(400, 1.0)
    cold, warm = (fit_label_thresholds(logits, targets, temperature) for temperature in (1.0, 3.0))
    for label in range(3):
        decided = [expit(logits[:, label] / t) >= limits[label] for t, limits in ((1.0, cold), (3.0, warm))]
        assert (decided[0] == decided[1]).all()
    assert cold != warm


def test_a_rounding_error_turns_no_decision() -> None:
    logits = np.array([[-2.0], [-1.0], [1.0], [2.0]], dtype=np.float32)
    (threshold,) = fit_label_thresholds(logits, np.array([[0.0], [0.0], [1.0], [1.0]]), 1.0)
    assert threshold == pytest.approx(0.5)  # Half-way between those of -1 and 1.
    (threshold,) = fit_label_thresholds(logits, np.ones((4, 1)), 1.0)
    assert 0.0 < threshold < expit(-2.0) - 0.01


def test_a_label_that_nothing_has_gets_the_default_threshold() -> None:
    logits, targets = synthetic_labels(50, 1.0)
    targets[:, 1] = 0.0
    assert fit_label_thresholds(logits, targets, 1.0)[1] == 0.5


def judged(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """How sure each prediction is, and whether it is right."""
    probabilities = softmax(logits.astype(np.float64), axis=1)
    return probabilities.max(axis=1), probabilities.argmax(axis=1) == labels


def kept_accuracy(confidence: NDArray[np.float64], correct: NDArray[np.bool_], threshold: float) -> float:
    """How often the predictions that the threshold keeps are right."""
    return float(correct[confidence >= threshold].mean())


@pytest.mark.parametrize("target", [0.85, 0.9, 0.97])
def test_the_predictions_kept_are_right_as_often_as_asked(target: float) -> None:
    confidence, correct = judged(*synthetic(4_000, 1.0))
    threshold = fit_threshold(confidence, correct, target)
    assert 0.0 < threshold < 1.0
    assert kept_accuracy(confidence, correct, threshold) >= target
    # On other data of the same kind, too.
    assert kept_accuracy(*judged(*synthetic(4_000, 1.0, seed=1)), threshold) == pytest.approx(target, abs=0.03)


def test_the_threshold_is_the_lowest_that_will_do() -> None:
    confidence, correct = judged(*synthetic(500, 1.0))
    threshold = fit_threshold(confidence, correct, 0.9)
    assert all(kept_accuracy(confidence, correct, lower) < 0.9 for lower in confidence[confidence < threshold])


def test_a_higher_target_keeps_less() -> None:
    confidence, correct = judged(*synthetic(2_000, 1.0))
    thresholds = [fit_threshold(confidence, correct, target) for target in (0.7, 0.8, 0.9, 0.99)]
    assert thresholds == sorted(thresholds)
    assert thresholds[0] < thresholds[-1]


def test_everything_is_reviewed_where_no_threshold_reaches_the_target() -> None:
    confidence, _ = judged(*synthetic(200, 1.0))
    assert fit_threshold(confidence, np.zeros(200, dtype=bool), 0.9) == 1.0


def test_a_lucky_few_do_not_make_a_threshold() -> None:
    confidence, _ = judged(*synthetic(200, 1.0))
    correct = np.zeros(200, dtype=bool)
    correct[np.argsort(-confidence)[:10]] = True
    assert fit_threshold(confidence, correct, 0.9) == 1.0


def test_predictions_that_are_equally_sure_are_kept_or_reviewed_together() -> None:
    confidence = np.full(100, 0.875)
    correct = np.array([True] * 50 + [False] * 50)
    assert fit_threshold(confidence, correct, 0.9) == 1.0
    assert fit_threshold(confidence, correct, 0.5) == 0.875
