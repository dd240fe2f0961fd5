"""Entities: from tokens to characters and back, whatever the tokenizer, over as many windows as a text needs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from reviewloop.records import Label
from reviewloop.task_types import EncodedText, task_type
from reviewloop.task_types.base import IGNORED_TARGET
from tests.reviewloop.tokenizers import KINDS, fast_tokenizer

TASK = task_type("token-classification", ("PER", "LOC"))
OUTSIDE, B_PER, I_PER, B_LOC, I_LOC = range(5)
MAX_LENGTH = 16

Probabilities = NDArray[np.float32]


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A real one, of each kind."""
    return fast_tokenizer(request.param, tmp_path_factory.mktemp("tokenizer"))


def entity(start: int, end: int, label: str = "PER") -> dict[str, Any]:
    """An entity of a label."""
    return {"start": start, "end": end, "label": label}


def sure(targets: Sequence[Sequence[int]]) -> list[Probabilities]:
    """The probabilities of a model that says these tags."""
    return [np.eye(5, dtype=np.float32)[np.maximum(tags, 0)] for tags in targets]


def words(*tags: Sequence[float]) -> tuple[EncodedText, list[Probabilities]]:
    """A text of words of two letters with a space between, each a token, and the probabilities of its tags."""
    text = " ".join(["ab"] * len(tags))
    places = [(3 * number, 3 * number + 2) for number in range(len(tags))]
    window = [(0, 0), *places, (0, 0)]
    rows = [[0.0, 1.0, 0.0, 0.0, 0.0], *tags, [0.0, 1.0, 0.0, 0.0, 0.0]]  # What special tokens say is nothing.
    return EncodedText(text, [list(range(len(window)))], [window]), [np.array(rows, dtype=np.float32)]


# Tokens and characters.


def test_the_outputs_are_outside_and_two_for_each_label() -> None:
    assert TASK.outputs == ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def test_an_entity_begins_once_and_special_tokens_are_not_learned() -> None:
    encoded, _ = words(*[[1, 0, 0, 0, 0]] * 6)
    label = [entity(0, 5), entity(6, 8), entity(12, 17, "LOC")]
    assert TASK.targets(label, encoded) == [
        [IGNORED_TARGET, B_PER, I_PER, B_PER, OUTSIDE, B_LOC, I_LOC, IGNORED_TARGET],
    ]


def test_a_window_that_begins_within_an_entity_goes_on_with_it(tokenizer: Any) -> None:
    text = "good " * 30
    (encoded,) = TASK.encode(tokenizer, [text], MAX_LENGTH)
    first, *others = TASK.targets([entity(0, len(text))], encoded)
    assert first.count(B_PER) == 1
    assert len(others) >= 2
    assert {tag for tags in others for tag in tags} == {I_PER, IGNORED_TARGET}


@pytest.mark.parametrize(
    ("start", "end"), [(2, 8), (3, 8), (3, 9), (2, 9)], ids=["before", "exact", "behind", "both sides"]
)
def test_white_space_marked_beside_a_word_does_not_matter(tokenizer: Any, start: int, end: int) -> None:
    text = "a  works \n fine"
    (encoded,) = TASK.encode(tokenizer, [text], MAX_LENGTH)
    answer, _ = TASK.predict(encoded, sure(TASK.targets([entity(start, end)], encoded)), [])
    assert [(e["start"], e["end"], e["text"]) for e in answer["entities"]] == [(3, 8, "works")]


@given(data=st.data())
def test_words_can_be_learned_with_every_tokenizer(tokenizer: Any, data: st.DataObject) -> None:
    alphabet = st.characters(exclude_categories=["Z", "C", "M"])  # A tokenizer may drop a mark behind a letter.
    pieces = data.draw(st.lists(st.text(alphabet, min_size=1, max_size=8), min_size=1, max_size=40))
    text, label, chosen = "", [], data.draw(st.sets(st.integers(0, len(pieces) - 1)))
    for number, piece in enumerate(pieces):
        if number in chosen:
            label.append(entity(len(text), len(text) + len(piece), data.draw(st.sampled_from(TASK.labels))))
        text += piece + data.draw(st.sampled_from((" ", "  ", "\n", " \t", "\u00a0")))
    (encoded,) = TASK.encode(tokenizer, [text], MAX_LENGTH)
    answer, confidence = TASK.predict(encoded, sure(TASK.targets(label, encoded)), [])
    assert TASK.answered(answer) == label
    assert [e["text"] for e in answer["entities"]] == [piece for i, piece in enumerate(pieces) if i in chosen]
    assert confidence == 1.0


# Windows.


@pytest.mark.parametrize("separator", [" ", " 🎉 ", "\n\n"], ids=["words", "emoji", "lines"])
@pytest.mark.parametrize("max_length", [8, 16, 37])
def test_every_word_of_a_long_text_is_found_once(tokenizer: Any, max_length: int, separator: str) -> None:
    for count in range(1, 60):
        pieces = ["good", "film"] * count
        text = separator.join(pieces)
        label: Label = [
            entity(number * (4 + len(separator)), number * (4 + len(separator)) + 4, TASK.labels[number % 2])
            for number in range(len(pieces))
        ]
        (encoded,) = TASK.encode(tokenizer, [text], max_length)
        answer, _ = TASK.predict(encoded, sure(TASK.targets(label, encoded)), [])
        assert TASK.answered(answer) == label
    assert len(encoded.windows) > 3


def test_texts_do_not_mix_their_windows(tokenizer: Any) -> None:
    texts = ["good " * 40, "", "film", "the price was awful " * 9]
    together = TASK.encode(tokenizer, texts, MAX_LENGTH)
    assert together == [TASK.encode(tokenizer, [text], MAX_LENGTH)[0] for text in texts]
    assert [encoded.text for encoded in together] == texts


def test_where_windows_overlap_each_gives_what_it_sees_more_around_of() -> None:
    text = "abcdefghij"
    places = [(number, number + 1) for number in range(10)]
    # Two windows share four characters, and disagree on all of them.
    encoded = EncodedText(text, [[0] * 7, [0] * 7], [places[:7], places[3:]])
    says = [np.eye(5, dtype=np.float32)[[tag] * 7] for tag in (I_PER, I_LOC)]
    answer, _ = TASK.predict(encoded, says, [])
    assert TASK.answered(answer) == [entity(0, 5), entity(5, 10, "LOC")]


# Confidence.


def test_an_entity_is_as_sure_as_its_least_sure_token() -> None:
    encoded, probabilities = words([0.05, 0.9, 0.05, 0, 0], [0.3, 0.2, 0.5, 0, 0], [1, 0, 0, 0, 0])
    answer, confidence = TASK.predict(encoded, probabilities, [])
    assert answer["entities"] == [entity(0, 5) | {"text": "ab ab", "score": pytest.approx(0.7)}]
    assert confidence == pytest.approx(0.7)


def test_confidence_is_that_of_the_least_certain_entity() -> None:
    encoded, probabilities = words([0, 1, 0, 0, 0], [1, 0, 0, 0, 0], [0.4, 0, 0, 0.6, 0])
    answer, confidence = TASK.predict(encoded, probabilities, [])
    assert [e["score"] for e in answer["entities"]] == pytest.approx([1.0, 0.6])
    assert confidence == pytest.approx(0.6)


def test_confidence_covers_the_likeliest_entity_that_is_not_predicted() -> None:
    encoded, probabilities = words([0, 1, 0, 0, 0], [0.6, 0, 0, 0.25, 0.15], [0.9, 0.1, 0, 0, 0])
    answer, confidence = TASK.predict(encoded, probabilities, [])
    assert len(answer["entities"]) == 1
    assert confidence == pytest.approx(0.6)


def test_a_text_without_entities_is_as_sure_as_there_is_none() -> None:
    encoded, probabilities = words([0.8, 0.1, 0.1, 0, 0], [0.95, 0, 0, 0.05, 0])
    answer, confidence = TASK.predict(encoded, probabilities, [])
    assert answer == {"entities": []}
    assert confidence == pytest.approx(0.8)


def test_a_text_without_tokens_has_no_entities(tokenizer: Any) -> None:
    for text in ("", " ", "\n\t "):
        (encoded,) = TASK.encode(tokenizer, [text], MAX_LENGTH)
        random = np.random.default_rng(0)
        rows = [random.dirichlet([1.0] * 5, len(window)).astype(np.float32) for window in encoded.windows]
        assert TASK.predict(encoded, rows, []) == ({"entities": []}, 1.0)


# Neighbours.


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ((B_PER, B_PER), [entity(0, 2), entity(3, 5)]),
        ((B_PER, I_PER), [entity(0, 5)]),
        ((I_PER, I_PER), [entity(0, 5)]),
        ((B_PER, B_LOC), [entity(0, 2), entity(3, 5, "LOC")]),
        ((B_PER, I_LOC), [entity(0, 2), entity(3, 5, "LOC")]),
        ((B_PER, OUTSIDE, I_PER), [entity(0, 2), entity(6, 8)]),
    ],
)
def test_neighbours_are_one_entity_or_two(tags: tuple[int, ...], expected: Label) -> None:
    encoded, probabilities = words(*np.eye(5, dtype=np.float32)[list(tags)].tolist())
    answer, _ = TASK.predict(encoded, probabilities, [])
    assert TASK.answered(answer) == expected


def test_the_tokens_of_one_character_are_in_one_entity_at_most() -> None:
    encoded = EncodedText("🎉!", [[0] * 4], [[(0, 1), (0, 1), (0, 1), (1, 2)]])
    for tags in np.ndindex(5, 5, 5, 5):
        answer, _ = TASK.predict(encoded, sure([tags]), [])
        label = TASK.answered(answer)
        assert TASK.parse_label(label, encoded.text) == label


# What counts as right.


def test_an_entity_is_right_with_its_exact_place_and_label() -> None:
    truth = [entity(0, 2), entity(3, 5), entity(6, 8, "LOC")]
    predicted = [entity(0, 2), entity(3, 8), entity(6, 8, "PER")]
    counts = TASK.counts(truth, predicted)
    assert (counts.true_positives, counts.false_positives, counts.false_negatives) == (1, 2, 2)
    scores = TASK.class_scores([truth], [predicted])
    assert (scores["PER"].precision, scores["PER"].recall, scores["PER"].support) == (pytest.approx(1 / 3), 0.5, 2)
    assert (scores["LOC"].precision, scores["LOC"].recall, scores["LOC"].support) == (0.0, 0.0, 1)


def test_confusion_is_between_entities_at_the_same_place_or_none() -> None:
    truth = [entity(0, 2), entity(3, 5), entity(6, 8, "LOC")]
    predicted = [entity(0, 2), entity(3, 5, "LOC"), entity(9, 11, "AGE")]  # A label that only a former model had.
    confusion = TASK.confusion([truth], [predicted])
    assert confusion is not None
    assert confusion.names == ["PER", "LOC", "AGE", "(no entity)"]
    assert confusion.counts == [[1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 1, 0]]


def test_a_claim_is_one_entity() -> None:
    answer = {"entities": [entity(0, 2) | {"score": 0.9}, entity(3, 5) | {"score": 0.6}]}
    claims = TASK.claims([entity(0, 2), entity(6, 8)], answer)
    assert [(claim.confidence, claim.correct) for claim in claims] == [(0.9, True), (0.6, False)]
