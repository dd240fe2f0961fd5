"""Temperature and threshold against data whose answers are known by construction."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import softmax

from components.finetune.calibration import fit_temperature, fit_threshold


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


def kept_accuracy(logits: NDArray[np.float32], labels: NDArray[np.int64], threshold: float) -> float:
    """How often the predictions that the threshold keeps are right."""
    probabilities = softmax(logits, axis=1)
    kept = probabilities.max(axis=1) >= threshold
    return float((probabilities.argmax(axis=1) == labels)[kept].mean())


@pytest.mark.parametrize("target", [0.85, 0.9, 0.97])
def test_the_predictions_kept_are_right_as_often_as_asked(target: float) -> None:
    logits, labels = synthetic(4_000, 1.0)
    threshold = fit_threshold(logits, labels, 1.0, target)
    assert 0.0 < threshold < 1.0
    assert kept_accuracy(logits, labels, threshold) >= target
    # On other data of the same kind, too.
    assert kept_accuracy(*synthetic(4_000, 1.0, seed=1), threshold) == pytest.approx(target, abs=0.03)


def test_the_threshold_is_the_lowest_that_will_do() -> None:
    logits, labels = synthetic(500, 1.0)
    threshold = fit_threshold(logits, labels, 1.0, 0.9)
    lower = [c for c in softmax(logits, axis=1).max(axis=1) if c < threshold]
    assert all(kept_accuracy(logits, labels, c) < 0.9 for c in lower)


def test_a_higher_target_keeps_less() -> None:
    logits, labels = synthetic(2_000, 1.0)
    thresholds = [fit_threshold(logits, labels, 1.0, target) for target in (0.7, 0.8, 0.9, 0.99)]
    assert thresholds == sorted(thresholds)


def test_everything_is_reviewed_where_no_threshold_reaches_the_target() -> None:
    logits, _ = synthetic(200, 1.0)
    assert fit_threshold(logits, logits.argmin(axis=1), 1.0, 0.9) == 1.0


def test_a_lucky_few_do_not_make_a_threshold() -> None:
    logits, _ = synthetic(200, 1.0)
    labels = logits.argmin(axis=1)
    surest = np.argsort(-softmax(logits, axis=1).max(axis=1))[:10]
    labels[surest] = logits.argmax(axis=1)[surest]
    assert fit_threshold(logits, labels, 1.0, 0.9) == 1.0


def test_predictions_that_are_equally_sure_are_kept_or_reviewed_together() -> None:
    logits = np.tile(np.array([[2.0, 0.0]], dtype=np.float32), (100, 1))
    labels = np.array([0] * 50 + [1] * 50)
    assert fit_threshold(logits, labels, 1.0, 0.9) == 1.0
    assert fit_threshold(logits, labels, 1.0, 0.5) == pytest.approx(softmax([2.0, 0.0])[0])
