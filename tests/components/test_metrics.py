"""Metrics against values computed by hand."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.evaluate.metrics import expected_calibration_error, measure, micro_f1, reliability_bins, roc
from reviewloop.records import Label, Prediction
from reviewloop.task_types import task_type
from reviewloop.task_types.base import Claim, Counts

LABELS = ("negative", "neutral", "positive")
SINGLE = task_type("text-classification", LABELS)
MULTI = task_type("multi-label-classification", LABELS)
TOKENS = task_type("token-classification", LABELS)


def prediction(answer: dict[str, Any]) -> Prediction:
    """A prediction that answers this."""
    return Prediction(answer, 0.5, "v0001", 0.9)


def single(*rows: list[float]) -> list[Prediction]:
    """A prediction for each row of probabilities."""
    return [
        prediction({"label": LABELS[row.index(max(row))], "probabilities": dict(zip(LABELS, row, strict=True))})
        for row in rows
    ]


# Two truly negative, one called neutral; one neutral, called positive; two positive, both found.
PREDICTIONS = single([0.68, 0.22, 0.1], [0.3, 0.58, 0.12], [0.05, 0.0, 0.95], [0.12, 0.0, 0.88], [0.2, 0.15, 0.65])
TRUTHS: list[Label] = ["negative", "negative", "neutral", "positive", "positive"]


def confusion(truths: list[Label], predictions: list[Prediction]) -> list[list[int]]:
    """Their confusion matrix, which has the order of the labels."""
    matrix = measure(SINGLE, truths, predictions).confusion
    assert matrix is not None
    assert matrix.names == list(LABELS)
    return matrix.counts


def test_confusion_has_true_labels_in_rows_and_predicted_ones_in_columns() -> None:
    assert confusion(TRUTHS, PREDICTIONS) == [[1, 1, 0], [0, 0, 1], [0, 0, 2]]


def test_accuracy_and_class_scores_are_those_computed_by_hand() -> None:
    measured = measure(SINGLE, TRUTHS, PREDICTIONS)
    assert (measured.size, measured.score, measured.exact) == (5, 3 / 5, 3 / 5)
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
    measured = measure(SINGLE, TRUTHS, PREDICTIONS)
    assert [(b.low, b.high, b.count, b.accuracy) for b in measured.reliability] == [
        (pytest.approx(0.5), pytest.approx(0.6), 1, 0.0),
        (pytest.approx(0.6), pytest.approx(0.7), 2, 1.0),
        (pytest.approx(0.8), pytest.approx(0.9), 1, 1.0),
        (pytest.approx(0.9), pytest.approx(1.0), 1, 0.0),
    ]
    by_hand = (0.58 + 2 * (1 - 0.665) + (1 - 0.88) + 0.95) / 5
    assert expected_calibration_error(measured.reliability) == pytest.approx(by_hand)
    assert measured.ece == pytest.approx(by_hand)


def test_a_class_without_examples_scores_zero_and_warns_nobody() -> None:
    measured = measure(SINGLE, TRUTHS[:2], PREDICTIONS[:2])
    assert measured.classes["positive"].support == 0
    assert measured.classes["positive"].f1 == 0.0
    assert confusion(TRUTHS[:2], PREDICTIONS[:2]) == [[1, 1, 0], [0, 0, 0], [0, 0, 0]]


def test_a_perfect_model_is_perfect_by_every_measure() -> None:
    predictions = single(*np.eye(3).tolist())
    measured = measure(SINGLE, list(LABELS), predictions)
    assert (measured.score, measured.macro_f1, measured.exact, measured.ece) == (1.0, 1.0, 1.0, 0.0)
    assert confusion(list(LABELS), predictions) == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_several_labels_are_measured_as_by_hand() -> None:
    # Of negative both are found and one is made up; of neutral one is missed; positive is nowhere.
    truths: list[Label] = [["negative"], ["negative", "neutral"], []]
    predictions = [
        prediction({"labels": labels, "probabilities": dict(zip(LABELS, row, strict=True))})
        for labels, row in (
            (["negative"], [0.95, 0.15, 0.02]),
            (["negative"], [0.85, 0.35, 0.02]),
            (["negative"], [0.65, 0.05, 0.02]),
        )
    ]
    measured = measure(MULTI, truths, predictions)
    assert measured.score == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert measured.exact == pytest.approx(1 / 3)
    negative, neutral, positive = (measured.classes[label] for label in LABELS)
    assert (negative.precision, negative.recall, negative.support) == (pytest.approx(2 / 3), 1.0, 2)
    assert (neutral.precision, neutral.recall, neutral.f1, neutral.support) == (0.0, 0.0, 0.0, 1)
    assert (positive.f1, positive.support) == (0.0, 0)
    assert measured.macro_f1 == pytest.approx(0.8 / 3)
    assert measured.confusion is None
    # Nine claims, each as sure as its label is present, or absent.
    assert [(b.count, b.confidence, b.accuracy) for b in measured.reliability] == [
        (2, pytest.approx(0.65), pytest.approx(0.0)),
        (2, pytest.approx(0.85), pytest.approx(1.0)),
        (5, pytest.approx((0.95 + 0.95 + 3 * 0.98) / 5), pytest.approx(1.0)),
    ]
    assert measured.ece == pytest.approx((2 * 0.65 + 2 * 0.15 + (0.05 + 0.05 + 3 * 0.02)) / 9)


def test_entities_are_measured_as_by_hand() -> None:
    def entity(start: int, end: int, label: str) -> dict[str, Any]:
        return {"start": start, "end": end, "label": label}

    truths: list[Label] = [[entity(0, 3, "negative"), entity(4, 8, "positive")], []]
    predictions = [
        prediction(
            {"entities": [entity(0, 3, "negative") | {"score": 0.85}, entity(4, 7, "positive") | {"score": 0.45}]}
        ),
        prediction({"entities": []}),
    ]
    measured = measure(TOKENS, truths, predictions)
    assert (measured.size, measured.score, measured.exact) == (2, 0.5, 0.5)
    assert [measured.classes[label].f1 for label in LABELS] == [1.0, 0.0, 0.0]
    assert [measured.classes[label].support for label in LABELS] == [1, 0, 1]
    assert measured.confusion is not None
    assert measured.confusion.names == [*LABELS, "(no entity)"]
    assert measured.confusion.counts == [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]
    assert [(b.count, b.confidence, b.accuracy) for b in measured.reliability] == [(1, 0.45, 0.0), (1, 0.85, 1.0)]
    assert measured.ece == pytest.approx((0.45 + 0.15) / 2)


def test_nothing_found_where_nothing_is_to_be_found_is_perfect() -> None:
    measured = measure(TOKENS, [[], []], [prediction({"entities": []})] * 2)
    assert (measured.score, measured.exact, measured.ece, measured.reliability) == (1.0, 1.0, 0.0, [])
    assert micro_f1([Counts(0, 0, 0)]) == 1.0
    assert micro_f1([Counts(0, 1, 0)]) == micro_f1([Counts(0, 0, 1)]) == 0.0


@st.composite
def answers(draw: st.DrawFn) -> tuple[list[Label], list[Prediction]]:
    """True labels, among which no class need be present, and predictions."""
    size = draw(st.integers(1, 300))
    random = np.random.default_rng(draw(st.integers(0, 10_000)))
    sharpness = draw(st.sampled_from([0.1, 1.0, 30.0]))
    probabilities = random.dirichlet([1 / sharpness] * 3, size).astype(np.float32)
    return [LABELS[index] for index in random.integers(0, 3, size)], single(*probabilities.tolist())


@given(answers())
def test_a_roc_curve_is_finite_and_rises_from_corner_to_corner(
    given_answers: tuple[list[Label], list[Prediction]],
) -> None:
    curve = roc(SINGLE, *given_answers)
    assert curve is not None
    false_positive, true_positive, thresholds = (np.array(values) for values in curve)
    assert len(false_positive) == len(true_positive) == len(thresholds) <= 202
    assert np.isfinite([false_positive, true_positive, thresholds]).all()
    assert (np.diff(false_positive) >= 0).all()
    assert (np.diff(true_positive) >= 0).all()
    assert (np.diff(thresholds) <= 0).all()
    assert (false_positive[0], true_positive[0]) == (0.0, 0.0)
    assert (false_positive[-1], true_positive[-1]) == (1.0, 1.0)


@pytest.mark.parametrize("truth", [[], list(LABELS)], ids=["nothing", "everything"])
def test_there_is_no_roc_curve_where_nothing_or_everything_is_true(truth: Label) -> None:
    answer = {"labels": ["neutral"], "probabilities": dict(zip(LABELS, (0.2, 0.9, 0.1), strict=True))}
    assert roc(MULTI, [truth], [prediction(answer)]) is None
    assert roc(TOKENS, [[]], [prediction({"entities": []})]) is None


@given(answers())
def test_every_claim_is_in_one_reliability_bin(given_answers: tuple[list[Label], list[Prediction]]) -> None:
    truths, predictions = given_answers
    claims = [c for truth, p in zip(truths, predictions, strict=True) for c in SINGLE.claims(truth, p.answer)]
    bins = reliability_bins(claims)
    assert sum(b.count for b in bins) == len(truths)
    assert all(b.low - 1e-6 <= b.confidence <= b.high + 1e-6 for b in bins)
    right = sum(b.count * b.accuracy for b in bins) / len(truths)
    assert right == pytest.approx(measure(SINGLE, truths, predictions).score)
    assert 0.0 <= expected_calibration_error(bins) <= 1.0


def test_claims_at_the_ends_of_the_scale_are_in_the_bins_at_its_ends() -> None:
    bins = reliability_bins([Claim(0.0, False), Claim(0.1, False), Claim(1.0, True)])
    assert [(b.low, b.count) for b in bins] == [(0.0, 2), (pytest.approx(0.9), 1)]
    assert reliability_bins([]) == []
