"""What each task type makes of labels, answers and annotations; what all share is in test_task_type_contract.py."""

from typing import Any

import numpy as np
import pytest

from reviewloop.records import Label
from reviewloop.task_types import TASK_TYPES, EncodedText, Reading, TaskType, task_type

SINGLE = task_type("text-classification", ("bad", "fine", "good"))
MULTI = task_type("multi-label-classification", ("bad", "fine", "good"))
TOKENS = task_type("token-classification", ("bad", "fine", "good"))
TEXT = "0123456789"


def spans(*places: tuple[int, int] | tuple[int, int, str]) -> Label:
    """Entities, of the label ``bad`` where none is given."""
    return [{"start": start, "end": end, "label": (*label, "bad")[0]} for start, end, *label in places]


# Labels in data.


@pytest.mark.parametrize(
    ("task", "value", "label"),
    [
        (SINGLE, "good", "good"),
        (SINGLE, 1, "fine"),
        (SINGLE, "2", "good"),
        (MULTI, ["good", "bad"], ["bad", "good"]),
        (MULTI, ["good", "good", 1], ["fine", "good"]),
        (MULTI, "good|bad", ["bad", "good"]),
        (MULTI, " good | bad ", ["bad", "good"]),
        (MULTI, '["good", "bad"]', ["bad", "good"]),
        (MULTI, "fine", ["fine"]),
        (MULTI, "", []),
        (MULTI, None, []),
        (MULTI, [], []),
        (TOKENS, spans((4, 6), (0, 2, "good")), spans((0, 2, "good"), (4, 6))),
        (TOKENS, '[{"start": 0, "end": 10, "label": "fine", "score": 1}]', spans((0, 10, "fine"))),
        (TOKENS, spans((0, 2), (2, 4)), spans((0, 2), (2, 4))),
        (TOKENS, "", []),
        (TOKENS, [], []),
    ],
)
def test_a_label_is_read_from_data(task: TaskType, value: Any, label: Label) -> None:
    assert task.parse_label(value, TEXT) == label


def test_a_label_with_the_separator_in_its_name_is_meant_by_its_name() -> None:
    task = task_type("multi-label-classification", ("a|b", "a", "[x]"))
    assert task.parse_label("a|b", TEXT) == ["a|b"]
    assert task.parse_label("[x]", TEXT) == ["[x]"]
    assert task.parse_label('["a|b", "[x]"]', TEXT) == ["a|b", "[x]"]


def test_a_label_named_by_a_number_is_meant_by_its_name() -> None:
    single, multi = (task_type(kind, ("1", "0")) for kind in ("text-classification", "multi-label-classification"))
    assert [single.parse_label(value, TEXT) for value in ("1", "0", 1, 0)] == ["1", "0", "0", "1"]
    assert [multi.parse_label(value, TEXT) for value in ("1", "0", [1], [0])] == [["1"], ["0"], ["0"], ["1"]]


@pytest.mark.parametrize(
    ("task", "value", "sentence"),
    [
        (SINGLE, "great", "expected one of bad, fine, good, got 'great'"),
        (SINGLE, 3, "expected one of bad, fine, good, got 3"),
        (SINGLE, None, "expected one of bad, fine, good, got None"),
        (SINGLE, ["good"], r"expected one of bad, fine, good, got \['good'\]"),
        (SINGLE, True, "got True"),
        (MULTI, ["good", "great"], "expected one of bad, fine, good, got 'great'"),
        (MULTI, "good|great", "got 'great'"),
        (MULTI, "good,bad", "got 'good,bad'"),
        (MULTI, {"good": 1}, r"expected a list of labels, got \{'good': 1\}"),
        (MULTI, 1, "expected a list of labels, got 1"),
        (MULTI, "[good]", r"expected a JSON list of labels, got '\[good\]'"),
        (MULTI, [["good"]], r"got \['good'\]"),
        (TOKENS, None, "expected a list of entities, got None"),
        (TOKENS, "bad", "expected a JSON list of entities, got 'bad'"),
        (TOKENS, '{"start": 0}', r"expected a list of entities, got \{'start': 0\}"),
        (TOKENS, [[0, 2, "bad"]], r"expected an entity with start, end and label, got \[0, 2, 'bad'\]"),
        (TOKENS, [{"start": 0, "label": "bad"}], "region 0-None has no whole numbers for its ends"),
        (TOKENS, [{"start": 0, "end": "2", "label": "bad"}], "region 0-'2' has no whole numbers for its ends"),
        (TOKENS, spans((0, 11)), "region 0-11 lies outside the text of 10 characters"),
        (TOKENS, spans((-1, 1)), "region -1-1 lies outside the text of 10 characters"),
        (TOKENS, spans((3, 3)), "region 3-3 lies outside the text"),
        (TOKENS, spans((0, 2, "great")), "unknown label 'great'"),
        (TOKENS, [{"start": 0, "end": 2}], "unknown label None"),
        (TOKENS, spans((4, 6), (0, 5)), r"do not overlap, got \(0, 5, 'bad'\) and \(4, 6, 'bad'\)"),
        (TOKENS, spans((0, 2), (0, 2)), "do not overlap"),
    ],
)
def test_a_value_that_is_no_label_is_answered_with_what_was_expected(task: TaskType, value: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        task.parse_label(value, TEXT)


def test_the_names_of_a_label_are_those_it_holds_as_often_as_it_holds_them() -> None:
    assert SINGLE.names("good") == ["good"]
    assert MULTI.names(["bad", "good"]) == ["bad", "good"]
    assert TOKENS.names(spans((0, 2, "good"), (4, 6, "good"))) == ["good", "good"]


def test_a_task_type_is_known_by_its_name_and_its_answers_by_their_fields() -> None:
    assert all(kind.name == name for name, kind in TASK_TYPES.items())
    assert len({kind.answer_fields for kind in TASK_TYPES.values()}) == len(TASK_TYPES)


# What annotations say.


def choices(*names: str) -> dict[str, Any]:
    """A region with these choices."""
    return {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": list(names)}}


def region(start: Any, end: Any, *names: str) -> dict[str, Any]:
    """A region with these labels, or without any."""
    value = {"start": start, "end": end, "text": "any"} | ({"labels": list(names)} if names else {})
    return {"id": "x", "from_name": "label", "to_name": "text", "type": "labels", "value": value}


COMMENT = {"from_name": "comment", "to_name": "text", "type": "textarea", "value": {"text": ["bad"]}}
RELATION = {"from_id": "x", "to_id": "y", "type": "relation", "direction": "right"}


@pytest.mark.parametrize(
    ("task", "result", "reading"),
    [
        (SINGLE, [choices("good")], Reading("good")),
        (SINGLE, [COMMENT, choices("good")], Reading("good")),
        (SINGLE, [], Reading(None)),
        (SINGLE, [COMMENT], Reading(None)),
        (SINGLE, [choices()], Reading(None)),
        (SINGLE, [choices("great")], Reading(None, ("unknown label 'great'",))),
        (SINGLE, [choices("good", "bad")], Reading(None, ("2 labels where one is allowed",))),
        (MULTI, [choices("good", "bad")], Reading(["bad", "good"])),
        (MULTI, [choices("good"), choices("bad")], Reading(["bad", "good"])),
        (MULTI, [], Reading([])),
        (MULTI, [choices("great", "good", "great")], Reading(["good"], ("unknown label 'great'",))),
        (MULTI, [choices("great")], Reading(None, ("unknown label 'great'",))),
        (
            TOKENS,
            [region(4, 6, "good"), RELATION, COMMENT, region(0, 2, "bad")],
            Reading(spans((0, 2), (4, 6, "good"))),
        ),
        (TOKENS, [], Reading([])),
        (TOKENS, [region(0, 2, "bad"), region(2, 4, "bad")], Reading(spans((0, 2), (2, 4)))),
        (TOKENS, [region(0, 2, "great")], Reading(None, ("unknown label 'great'",))),
        (TOKENS, [region(0, 2)], Reading(None, ("unknown label None",))),
        (TOKENS, [region(0, 2, "bad", "good")], Reading(None, ("unknown label ['bad', 'good']",))),
        (
            TOKENS,
            [region(0, 11, "bad"), region(0, 2, "good")],
            Reading(spans((0, 2, "good")), ("region 0-11 lies outside the text of 10 characters",)),
        ),
        (
            TOKENS,
            [region(0, 5, "bad"), region(4, 6, "good"), region(7, 9, "good")],
            Reading(spans((0, 5), (7, 9, "good")), ("region 4-6 overlaps another",)),
        ),
        (TOKENS, [region(0, 5, "bad"), region(0, 5, "good")], Reading(spans((0, 5)), ("region 0-5 overlaps another",))),
        (
            TOKENS,
            [region("0", None, "bad")],
            Reading(None, ("region '0'-None has no whole numbers for its ends",)),
        ),
    ],
)
def test_an_annotation_says_what_is_usable_of_it_and_what_is_not(
    task: TaskType, result: list[dict[str, Any]], reading: Reading
) -> None:
    assert task.read_annotation(result, TEXT) == reading


# What several answers come to.


@pytest.mark.parametrize(
    ("task", "answers", "label", "tied", "agreement"),
    [
        (SINGLE, ["bad", "good", "bad"], "bad", False, 2 / 3),
        (SINGLE, ["good", "bad", "bad"], "bad", False, 2 / 3),
        (SINGLE, ["good", "bad"], "good", True, 0.5),
        (SINGLE, ["bad", "good"], "bad", True, 0.5),
        (SINGLE, ["fine", "good", "bad", "bad", "good"], "good", True, 0.4),
        (MULTI, [["bad"], ["bad", "good"], ["good"]], ["bad", "good"], False, 1 / 3),
        (MULTI, [["bad"], ["fine"], ["good"]], [], False, 0.0),
        (MULTI, [["bad"], ["bad", "good"]], ["bad"], True, 0.5),
        (MULTI, [["bad", "good"], ["bad"]], ["bad", "good"], True, 0.5),
        (MULTI, [[], ["bad"]], [], True, 0.5),
        (MULTI, [[], [], ["bad"]], [], False, 2 / 3),
        (TOKENS, [spans((0, 2)), spans((0, 2), (4, 6)), spans((4, 6))], spans((0, 2), (4, 6)), False, 1 / 3),
        (TOKENS, [spans((0, 2)), spans((0, 3)), spans((0, 3))], spans((0, 3)), False, 2 / 3),
        (TOKENS, [spans((0, 2)), spans((0, 2, "good"))], spans((0, 2)), True, 0.5),
        (TOKENS, [spans((0, 3)), spans((0, 2), (2, 3))], spans((0, 3)), True, 0.5),
        (TOKENS, [spans((0, 2), (2, 3)), spans((0, 3))], spans((0, 2), (2, 3)), True, 0.5),
        (TOKENS, [spans((0, 2)), spans((1, 3)), spans((2, 4))], [], False, 0.0),
    ],
)
def test_the_majority_wins_and_a_tie_goes_to_the_answer_recorded_first(
    task: TaskType, answers: list[Label], label: Label, tied: bool, agreement: float
) -> None:
    consensus = task.consensus(answers)
    assert (consensus.label, consensus.tied) == (label, tied)
    assert consensus.agreement == pytest.approx(agreement)


# What a prediction is worth.


def test_confidence_in_several_labels_is_that_of_the_least_certain_one() -> None:
    encoded = EncodedText(TEXT, [[0]], [])
    for probabilities, predicted, confidence in (
        ([0.9, 0.2, 0.7], ["bad", "good"], 0.7),
        ([0.9, 0.45, 0.7], ["bad", "good"], 0.55),
        ([0.1, 0.2, 0.05], [], 0.8),
    ):
        answer, score = MULTI.predict(encoded, [np.array(probabilities, dtype=np.float32)], [0.5, 0.5, 0.6])
        assert answer["labels"] == predicted
        assert score == pytest.approx(confidence)


def test_a_label_holds_from_its_own_threshold_on() -> None:
    encoded = EncodedText(TEXT, [[0]], [])
    answer, score = MULTI.predict(encoded, [np.full(3, 0.25, dtype=np.float32)], [0.2, 0.25, 0.3])
    assert answer["labels"] == ["bad", "fine"]
    assert score == pytest.approx(0.25)


def test_what_a_former_models_labels_say_is_wrong_and_no_more() -> None:
    single = {"label": "gone", "probabilities": {"gone": 0.7, "bad": 0.3}}
    assert [claim.correct for claim in SINGLE.claims("bad", single)] == [False]
    assert [claim.confidence for claim in SINGLE.ranking("bad", single)] == [0.3, 0.0, 0.0]
    assert SINGLE.confusion(["bad"], ["gone"]).names == ["bad", "fine", "good", "gone"]  # type: ignore[union-attr]
    multi = {"labels": ["gone", "bad"], "probabilities": {"gone": 0.7, "bad": 0.6}}
    assert MULTI.answered(multi) == ["bad", "gone"]
    counts = MULTI.counts(["bad"], MULTI.answered(multi))
    assert (counts.true_positives, counts.false_positives, counts.false_negatives) == (1, 1, 0)
    assert MULTI.class_scores([["bad"]], [["bad", "gone"]])["bad"].f1 == 1.0
    assert TOKENS.class_scores([spans((0, 2))], [spans((0, 2), (3, 4, "gone"))])["bad"].f1 == 1.0


def test_texts_answered_by_models_of_different_labels_share_the_columns_of_the_first() -> None:
    answers = [
        {"labels": ["good"], "probabilities": {"bad": 0.1, "good": 0.9}},
        {"labels": ["new"], "probabilities": {"good": 0.2, "new": 0.8}},
    ]
    tensors = {name: (shape, values) for name, _, shape, values in MULTI.tensors(answers)}
    assert tensors["labels"] == ([2], ["bad", "good"])
    assert tensors["probabilities"] == ([2, 2], [0.1, 0.9, 0.0, 0.2])
    assert tensors["predicted"] == ([2, 2], [False, True, False, False])
