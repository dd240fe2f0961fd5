"""The contract of every task type: labels keep their meaning from the reviewer to the model and back."""

import itertools
import json
import math
import uuid
from typing import Any
from xml.etree import ElementTree

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import expit, softmax

from reviewloop.label_studio import LabelStudioServer, ReviewProject
from reviewloop.problems import Problems
from reviewloop.records import Label
from reviewloop.task_types import TASK_TYPES, EncodedText, TaskType, task_type
from reviewloop.task_types.base import IGNORED_TARGET, Counts
from tests.conftest import LabelStudioProcess
from tests.reviewloop.review_items import answer_of, review_item
from tests.reviewloop.tokenizers import KINDS, fast_tokenizer

AWKWARD_LABELS = (
    "plain",
    'say "no"',
    "it's",
    "<b>&amp;",
    "two words",
    " edges ",
    "grüße 🎉 否定",
    "a,b;c/d",
    "$key",
    "B-hyphen-I",
)
AWKWARD_TEXTS = (
    "A plain sentence about a good film.",
    "👩‍👩‍👧 🎉 emoji 🏴󠁧󠁢󠁳󠁣󠁴󠁿 of many code points 🇩🇪",
    "Zoe\u0308 and cafe\u0301: letters with combining marks",
    "שלום עולם, \u200fمرحبا بالعالم from right to left",
    "several\nlines\r\nof text\n\nwith a blank one",
    ' <b>"markup"</b> & it\'s &amp; {{ x }} $text ',
    "नमस्ते दुनिया, 你好世界, 한국어",
    "tabs\tand  runs of   spaces\u00a0\u2028\u3000",
    "\\ backslashes \\n and %s {0} \u200b\u200d",
    "the end 🎉",
)

kinds = pytest.mark.parametrize("kind", TASK_TYPES)

# All that XML can hold, in which Label Studio keeps the labels.
names = st.one_of(
    st.sampled_from(AWKWARD_LABELS), st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn"]), min_size=1)
)
texts = st.one_of(
    st.sampled_from(AWKWARD_TEXTS), st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)
)


@st.composite
def tasks(draw: st.DrawFn, kind: str) -> TaskType:
    """A task of ``kind``, of up to twelve labels."""
    return task_type(kind, tuple(draw(st.lists(names, min_size=2, max_size=12, unique=True))))


@st.composite
def labels_of(draw: st.DrawFn, task: TaskType, text: str) -> Label:
    """A label that ``text`` may have."""
    if task.name == "text-classification":
        return draw(st.sampled_from(task.labels))
    if task.name == "multi-label-classification":
        chosen = draw(st.sets(st.sampled_from(task.labels)))
        return [name for name in task.labels if name in chosen]
    ends = draw(st.lists(st.integers(0, len(text)), unique=True, max_size=10).map(sorted))
    found = [(*span, draw(st.sampled_from((None, *task.labels)))) for span in itertools.pairwise(ends)]
    return [{"start": start, "end": end, "label": name} for start, end, name in found if name is not None]


@st.composite
def questions(draw: st.DrawFn, kind: str) -> tuple[TaskType, str, Label]:
    """A task, a text, and a label that it may have."""
    task, text = draw(tasks(kind)), draw(texts)
    return task, text, draw(labels_of(task, text))


@st.composite
def judged(draw: st.DrawFn, kind: str) -> tuple[TaskType, list[Label], list[Label]]:
    """A task, true labels of some texts, and predicted ones, which are often the same."""
    task = draw(tasks(kind))
    given_texts = draw(st.lists(texts, min_size=1, max_size=4))
    true = [draw(labels_of(task, text)) for text in given_texts]
    predicted = [
        draw(st.one_of(st.just(label), labels_of(task, t))) for label, t in zip(true, given_texts, strict=True)
    ]
    return task, true, predicted


# In Label Studio.


def awkward_label(task: TaskType, number: int, text: str) -> Label:
    """A label of ``text``; the numbers from 0 to 9 bring in all of the task's labels."""
    if task.name == "text-classification":
        return task.labels[number]
    if task.name == "multi-label-classification":
        return list(task.labels[: 2 * number])
    places = ((3 * i, 3 * i + 2 + i % 2) for i in range(number, 10))
    return [
        {"start": start, "end": end, "label": name}
        for (start, end), name in zip(places, task.labels, strict=False)
        if end <= len(text)
    ]


@kinds
def test_labels_come_back_from_label_studio_as_they_went(kind: str, label_studio: LabelStudioProcess) -> None:
    task = task_type(kind, AWKWARD_LABELS)
    server = LabelStudioServer(label_studio.url, label_studio.api_key)
    title = f"contract {uuid.uuid4().hex[:8]}"
    server.ensure_project(title, task, 'Is it <good> & "sound"? 🎉', annotations_per_task=1)
    project = ReviewProject(label_studio.url, label_studio.api_key, title, task)
    reviewer = server.ensure_reviewers(["reviewer@example.com"])["reviewer@example.com"]
    labels = [awkward_label(task, number, text) for number, text in enumerate(AWKWARD_TEXTS)]
    assert {name for label in labels for name in task.names(label)} == set(AWKWARD_LABELS)
    asked = list(zip(AWKWARD_TEXTS, labels, strict=True))
    task_ids = project.import_items(
        [review_item(text, prediction=answer_of(task, label, text)) for text, label in asked]
    )

    stored = httpx.get(
        f"{label_studio.url}/api/tasks",
        params={"project": project.id, "fields": "all", "page_size": 100},
        headers={"Authorization": f"Token {label_studio.api_key}"},
    ).json()["tasks"]
    by_id = {found["id"]: found for found in stored}
    for task_id, (text, label) in zip(task_ids, asked, strict=True):
        assert by_id[task_id]["data"]["text"] == text
        (prediction,) = by_id[task_id]["predictions"]
        # Label Studio gives an id to a region that has none.
        shown = [{key: region[key] for key in region if key != "id"} for region in prediction["result"]]
        assert shown == [
            {key: region[key] for key in region if key != "id"} for region in task.annotation_result(label, text)
        ]
        reading = task.read_annotation(prediction["result"], text)
        assert (reading.label, reading.problems) == (label, ())

    for task_id, (text, label) in zip(task_ids, asked, strict=True):
        project.annotate(task_id, text, label, reviewer)
    problems = Problems()
    answered = {t.task_id: (t.text, [a.label for a in t.annotations]) for t in project.tasks(problems)}
    assert [answered[task_id] for task_id in task_ids] == [(text, [label]) for text, label in asked]
    assert problems.summary() == {}


# On paper.


@kinds
@given(data=st.data())
def test_the_labeling_config_is_xml_that_offers_exactly_the_labels(kind: str, data: st.DataObject) -> None:
    task = data.draw(tasks(kind))
    config = ElementTree.fromstring(task.labeling_config('Good <or> "bad"?\nSay so.'))
    offered = [element for element in config.iter() if element.tag in ("Choice", "Label")]
    assert tuple(element.get("value") for element in offered) == task.labels
    hotkeys = [element.get("hotkey") for element in offered if element.get("hotkey")]
    assert len(hotkeys) == len(set(hotkeys)) == min(9, len(task.labels))
    assert [element.get("value") for element in config.iter("Header")] == ['Good <or> "bad"?\nSay so.']
    assert not list(ElementTree.fromstring(task.labeling_config("")).iter("Header"))
    (control,) = (e for e in config.iter() if e.get("name") == "label")
    (shown,) = (e for e in config.iter() if e.get("name") == "text")
    assert (control.get("toName"), shown.tag, shown.get("value")) == ("text", "Text", "$text")


@kinds
@given(data=st.data())
def test_an_annotation_is_read_back_as_the_label_it_was_made_from(kind: str, data: st.DataObject) -> None:
    task, text, label = data.draw(questions(kind))
    result = task.annotation_result(label, text)
    reading = task.read_annotation(json.loads(json.dumps(result)), text)
    assert (reading.label, reading.problems) == (label, ())


@kinds
@given(data=st.data())
def test_a_label_is_read_back_from_json(kind: str, data: st.DataObject) -> None:
    task, text, label = data.draw(questions(kind))
    assert task.parse_label(json.loads(json.dumps(label)), text) == label
    if kind != "text-classification":  # A cell of a table, where a single label stands without quotes.
        assert task.parse_label(json.dumps(label), text) == label


@kinds
@given(data=st.data())
def test_equal_answers_are_their_own_consensus(kind: str, data: st.DataObject) -> None:
    task, _, label = data.draw(questions(kind))
    consensus = task.consensus([label] * data.draw(st.integers(1, 5)))
    assert (consensus.label, consensus.tied, consensus.agreement) == (label, False, 1.0)


@kinds
@given(data=st.data())
def test_any_answers_have_a_consensus_that_is_a_label(kind: str, data: st.DataObject) -> None:
    task, text = data.draw(tasks(kind)), data.draw(texts)
    answers = data.draw(st.lists(labels_of(task, text), min_size=1, max_size=5))
    consensus = task.consensus(answers)
    assert task.parse_label(consensus.label, text) == consensus.label
    assert consensus.agreement == sum(answer == consensus.label for answer in answers) / len(answers)
    if len(answers) == 1:
        assert (consensus.label, consensus.tied) == (answers[0], False)
    if not consensus.tied:
        assert task.consensus(data.draw(st.permutations(answers))) == consensus


@kinds
def test_no_answer_has_no_consensus(kind: str) -> None:
    with pytest.raises(ValueError, match="at least one answer"):
        task_type(kind, AWKWARD_LABELS).consensus([])


# The model.


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A real one, of each kind."""
    return fast_tokenizer(request.param, tmp_path_factory.mktemp("tokenizer"))


MAX_LENGTH = 16
"""So short that the texts take several windows."""


def shapes(task: TaskType, encoded: EncodedText) -> list[tuple[int, ...]]:
    """The shapes of what the model gives for each window."""
    if task.name == "token-classification":
        return [(len(window), len(task.outputs)) for window in encoded.windows]
    return [(len(task.outputs),) for _ in encoded.windows]


def thresholds_of(task: TaskType, random: np.random.Generator) -> tuple[float, ...]:
    """Thresholds, where the task type has any."""
    return tuple(random.random(len(task.labels)).tolist()) if task.activation == "sigmoid" else ()


@kinds
@given(data=st.data())
def test_whatever_the_model_says_is_an_answer(kind: str, tokenizer: Any, data: st.DataObject) -> None:
    task = data.draw(tasks(kind))
    given_texts = data.draw(st.lists(texts, min_size=1, max_size=3))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    sharpness = data.draw(st.sampled_from([0.3, 3.0, 30.0]))
    answers = []
    for encoded in task.encode(tokenizer, given_texts, MAX_LENGTH):
        logits = [random.normal(scale=sharpness, size=shape).astype(np.float32) for shape in shapes(task, encoded)]
        answer, confidence = task.predict(
            encoded, [activated(task, values) for values in logits], thresholds_of(task, random)
        )
        assert type(confidence) is float
        assert 0.0 <= confidence <= 1.0
        label = task.answered(answer)
        assert task.parse_label(label, encoded.text) == label
        for claim in (*task.claims(label, answer), *task.ranking(label, answer)):
            assert 0.0 <= claim.confidence <= 1.0
        assert all(claim.correct for claim in task.claims(label, answer))
        assert answer.keys() == task.answer_fields
        assert json.loads(json.dumps(answer, allow_nan=False)) == answer
        answers.append(answer)

    tensors = task.tensors(answers)
    assert [(name, datatype, len(shape)) for name, datatype, shape, _ in tensors] == [
        (name, datatype, len(shape)) for name, datatype, shape in task.tensor_types
    ]
    for name, _, shape, values in tensors:
        assert len(values) == math.prod(shape)
        assert shape[0] == (len(task.labels) if name == "labels" else len(answers))
    assert json.loads(json.dumps(tensors, allow_nan=False)) == [list(tensor) for tensor in tensors]


def activated(task: TaskType, logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """The probabilities that these logits mean, in the precision of the model."""
    if task.activation == "sigmoid":
        return np.asarray(expit(logits), dtype=np.float32)
    return np.asarray(softmax(logits, axis=-1), dtype=np.float32)


@st.composite
def learnable_labels(draw: st.DrawFn, task: TaskType, encoded: EncodedText) -> Label:
    """A label that a model of tokens can say: entities begin and end where tokens do."""
    if task.name != "token-classification":
        return draw(labels_of(task, encoded.text))
    places = sorted({place for window in encoded.offsets for place in window if place[0] != place[1]})
    label, at, end = [], 0, 0
    while at < len(places):
        size = min(draw(st.integers(1, 6)), len(places) - at)
        name = draw(st.sampled_from((None, *task.labels)))
        if name is not None and places[at][0] >= end:
            end = places[at + size - 1][1]
            label.append({"start": places[at][0], "end": end, "label": name})
        at += size
    return label


def one_hot(task: TaskType, encoded: EncodedText, label: Label) -> list[NDArray[np.float32]]:
    """The probabilities of a model that has learned ``label`` and is sure of it."""
    random = np.random.default_rng(0)
    targets = task.targets(label, encoded)
    if task.activation == "sigmoid":
        return [np.array(target, dtype=np.float32) for target in targets]
    # Where nothing is to be learned, the model may say anything.
    rows = [
        np.where(np.array(target) == IGNORED_TARGET, random.integers(0, len(task.outputs), np.shape(target)), target)
        for target in targets
    ]
    return [np.eye(len(task.outputs), dtype=np.float32)[row] for row in rows]


@kinds
@given(data=st.data())
def test_a_model_that_has_learned_a_label_predicts_it(kind: str, tokenizer: Any, data: st.DataObject) -> None:
    task = data.draw(tasks(kind))
    # For tokens of words, of letters and of bytes this is several windows.
    text = " ".join(data.draw(st.lists(texts, min_size=1, max_size=6)))
    (encoded,) = task.encode(tokenizer, [text], MAX_LENGTH)
    label = data.draw(learnable_labels(task, encoded))
    assert all(len(window) <= MAX_LENGTH for window in encoded.windows)
    assert [np.shape(target) for target in task.targets(label, encoded)] == [
        shape if task.activation == "sigmoid" else shape[:-1] for shape in shapes(task, encoded)
    ]
    thresholds = [0.5] * len(task.labels) if task.activation == "sigmoid" else []
    answer, confidence = task.predict(encoded, one_hot(task, encoded, label), thresholds)
    assert task.answered(answer) == label
    assert confidence == 1.0


@kinds
def test_no_text_at_all_is_encoded_as_nothing(kind: str, tokenizer: Any) -> None:
    assert task_type(kind, AWKWARD_LABELS).encode(tokenizer, [], MAX_LENGTH) == []


# What a prediction is worth.


def parts(label: Label) -> set[Any]:
    """What a label holds, in a form that counts what is equal."""
    if isinstance(label, str):
        return {label}
    return {part if isinstance(part, str) else tuple(part.values()) for part in label}


@kinds
@given(data=st.data())
def test_a_label_has_no_errors_against_itself(kind: str, data: st.DataObject) -> None:
    task, _, label = data.draw(questions(kind))
    assert task.counts(label, label) == Counts(len(task.names(label)), 0, 0)


@kinds
@given(data=st.data())
def test_counts_and_class_scores_are_those_of_their_parts(kind: str, data: st.DataObject) -> None:
    task, true, predicted = data.draw(judged(kind))
    pairs = [(parts(truth), parts(answer)) for truth, answer in zip(true, predicted, strict=True)]
    for truth, answer, (whole, said) in zip(true, predicted, pairs, strict=True):
        assert task.counts(truth, answer) == Counts(len(whole & said), len(said - whole), len(whole - said))

    scores = task.class_scores(true, predicted)
    assert tuple(scores) == task.labels
    for name, score in scores.items():
        own = [[{p for p in side if name == (p if isinstance(p, str) else p[-1])} for side in pair] for pair in pairs]
        found, said, whole = (
            sum(map(len, sets)) for sets in ((t & p for t, p in own), (p for _, p in own), (t for t, _ in own))
        )
        assert score.support == whole
        assert score.precision == pytest.approx(found / said if said else 0.0)
        assert score.recall == pytest.approx(found / whole if whole else 0.0)
        assert score.f1 == pytest.approx(2 * found / (said + whole) if said + whole else 0.0)


@kinds
@given(data=st.data())
def test_a_confusion_matrix_holds_every_label_where_there_is_one(kind: str, data: st.DataObject) -> None:
    task, true, predicted = data.draw(judged(kind))
    confusion = task.confusion(true, predicted)
    if confusion is None:
        assert kind == "multi-label-classification"
        return
    columns = list(zip(*confusion.counts, strict=True))
    for index, name in enumerate(task.labels):
        assert confusion.names[index] == name
        assert sum(confusion.counts[index]) == sum(task.names(label).count(name) for label in true)
        assert sum(columns[index]) == sum(task.names(label).count(name) for label in predicted)
