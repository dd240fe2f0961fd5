"""Metrics against values computed by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.evaluate.metrics import expected_calibration_error, measure, micro_roc_curve, reliability_bins

LABELS = ("negative", "neutral", "positive")
# Two truly negative, one called neutral; one neutral, called positive; two positive, both found.
PROBABILITIES = np.array(
    [[0.68, 0.22, 0.1], [0.3, 0.58, 0.12], [0.05, 0.0, 0.95], [0.12, 0.0, 0.88], [0.2, 0.15, 0.65]], dtype=np.float32
)
TARGETS = np.array([0, 0, 1, 2, 2])


def test_confusion_has_true_labels_in_rows_and_predicted_ones_in_columns() -> None:
    assert measure(PROBABILITIES, TARGETS, LABELS).confusion == [[1, 1, 0], [0, 0, 1], [0, 0, 2]]


def test_accuracy_and_class_scores_are_those_computed_by_hand() -> None:
    measured = measure(PROBABILITIES, TARGETS, LABELS)
    assert (measured.size, measured.accuracy) == (5, pytest.approx(3 / 5))
    negative, neutral, positive = (measured.classes[label] for label in LABELS)
    assert (negative.precision, negative.recall, negative.support) == (1.0, 0.5, 2)
    assert negative.f1 == pytest.approx(2 / 3)
    assert (neutral.precision, neutral.recall, neutral.f1, neutral.support) == (0.0, 0.0, 0.0, 1)
    assert (positive.precision, positive.recall, positive.support) == (pytest.approx(2 / 3), 1.0, 2)
    assert positive.f1 == pytest.approx(0.8)
    assert measured.macro_f1 == pytest.approx((2 / 3 + 0.0 + 0.8) / 3)


def test_calibration_error_is_that_computed_by_hand() -> None:
    # Bins: (0.5, 0.6] one wrong at 0.58; (0.6, 0.7] two right at 0.68 and 0.65; (0.8, 0.9] one right at 0.88;
    # (0.9, 1.0] one wrong at 0.95.
    bins = reliability_bins(PROBABILITIES, TARGETS)
    assert [(b.low, b.high, b.count, b.accuracy) for b in bins] == [
        (pytest.approx(0.5), pytest.approx(0.6), 1, 0.0),
        (pytest.approx(0.6), pytest.approx(0.7), 2, 1.0),
        (pytest.approx(0.8), pytest.approx(0.9), 1, 1.0),
        (pytest.approx(0.9), pytest.approx(1.0), 1, 0.0),
    ]
    by_hand = (0.58 + 2 * (1 - 0.665) + (1 - 0.88) + 0.95) / 5
    assert expected_calibration_error(bins) == pytest.approx(by_hand)
    assert measure(PROBABILITIES, TARGETS, LABELS).ece == pytest.approx(by_hand)


def test_a_class_without_examples_scores_zero_and_warns_nobody() -> None:
    measured = measure(PROBABILITIES[:2], np.array([0, 0]), LABELS)
    assert measured.classes["positive"].support == 0
    assert measured.classes["positive"].f1 == 0.0
    assert measured.confusion == [[1, 1, 0], [0, 0, 0], [0, 0, 0]]


def test_a_perfect_model_is_perfect_by_every_measure() -> None:
    measured = measure(np.eye(3, dtype=np.float32), np.array([0, 1, 2]), LABELS)
    assert (measured.accuracy, measured.macro_f1, measured.ece) == (1.0, 1.0, 0.0)
    assert measured.confusion == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


@st.composite
def answers(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, and targets among which no class need be present."""
    size = draw(st.integers(1, 300))
    random = np.random.default_rng(draw(st.integers(0, 10_000)))
    sharpness = draw(st.sampled_from([0.1, 1.0, 30.0]))
    return random.dirichlet([1 / sharpness] * 3, size).astype(np.float32), random.integers(0, 3, size)


@given(answers())
def test_a_roc_curve_is_finite_and_rises_from_corner_to_corner(given_answers: tuple[np.ndarray, np.ndarray]) -> None:
    false_positive, true_positive, thresholds = (np.array(v) for v in micro_roc_curve(*given_answers))
    assert len(false_positive) == len(true_positive) == len(thresholds) <= 202
    assert np.isfinite([false_positive, true_positive, thresholds]).all()
    assert (np.diff(false_positive) >= 0).all()
    assert (np.diff(true_positive) >= 0).all()
    assert (np.diff(thresholds) <= 0).all()
    assert (false_positive[0], true_positive[0]) == (0.0, 0.0)
    assert (false_positive[-1], true_positive[-1]) == (1.0, 1.0)


@given(answers())
def test_every_prediction_is_in_one_reliability_bin(given_answers: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, targets = given_answers
    bins = reliability_bins(probabilities, targets)
    assert sum(b.count for b in bins) == len(targets)
    assert all(b.low - 1e-6 <= b.confidence <= b.high + 1e-6 for b in bins)
    right = sum(b.count * b.accuracy for b in bins) / len(targets)
    assert right == pytest.approx((probabilities.argmax(axis=1) == targets).mean())
    assert 0.0 <= expected_calibration_error(bins) <= 1.0
