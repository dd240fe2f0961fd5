"""The interface every task type implements: all that differs between kinds of labels."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from reviewloop.records import Label

CONTROL_NAME = "label"
OBJECT_NAME = "text"
TEXT_STYLE = "font-size: 1.3em; line-height: 1.6; padding: 0.8em 0; white-space: pre-wrap"
HOTKEYS = "123456789"
COLOURS = ("#2f6db5", "#c2571a", "#237a4b", "#8a3fa0", "#b3372f", "#0f7f8a", "#7a6a12", "#5a5fc7", "#a8326e", "#4d6b2f")
"""Dark enough for white text on them, and apart from each other also for the colour-blind."""

IGNORED_TARGET = -100
"""What torch's cross-entropy leaves out of the loss."""

Probabilities = NDArray[np.float32]
TensorType = tuple[str, str, list[int]]
"""Name, datatype and shape of a V2 output; -1 stands for any size."""

Tensor = tuple[str, str, list[int], list[Any]]
"""Name, datatype, shape and data of a V2 output."""

PROBABILITY_TENSORS: tuple[TensorType, ...] = (("probabilities", "FP32", [-1, -1]), ("labels", "BYTES", [-1]))
"""What :func:`probability_tensors` makes."""


@dataclass(frozen=True, slots=True)
class Consensus:
    """What several reviewers' answers come to. ``tied`` is true if the vote alone did not decide."""

    label: Label
    tied: bool
    agreement: float
    """Share of the answers that equal ``label``, in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What an annotation says: a label, or None if it says nothing usable; and what of it had to be skipped."""

    label: Label | None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EncodedText:
    """A text as the model reads it: token ids, in one window or several overlapping ones.

    ``offsets`` are the characters (start, end) that each token of each window stands for, empty where the task
    type does not need them; a special token stands for none, (0, 0).
    """

    text: str
    windows: list[list[int]]
    offsets: list[list[tuple[int, int]]]


@dataclass(frozen=True, slots=True)
class Claim:
    """One thing that a prediction asserts: how sure it is, in [0, 1], and whether it is so."""

    confidence: float
    correct: bool


@dataclass(frozen=True, slots=True)
class Counts:
    """True positives, false positives and false negatives of one prediction."""

    true_positives: int
    false_positives: int
    false_negatives: int


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One class, in [0, 1] each; ``support`` is its number of true instances."""

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True, slots=True)
class ConfusionMatrix:
    """Counts; rows are true classes, columns predicted ones, both in the order of ``names``."""

    names: list[str]
    counts: list[list[int]]


class TaskType(ABC):
    """How labels of one kind are shown to reviewers, read back, agreed on, learnt, predicted and measured.

    An *answer* is what a prediction says in the V1 protocol, without its score and version.
    """

    name: ClassVar[str]
    metric: ClassVar[str]
    """What the micro-averaged F1 of this task is called; with one label a text, it is the accuracy."""
    auto_model: ClassVar[str]
    """The transformers class that gives the model its head."""
    problem_type: ClassVar[str | None] = None
    """The loss, as transformers' model configuration names it."""
    collator: ClassVar[str] = "DataCollatorWithPadding"
    """The transformers class that makes a training batch."""
    activation: ClassVar[Literal["softmax", "sigmoid"]] = "softmax"
    reads_to_end: ClassVar[bool] = False
    """Whether a text longer than the model reads goes through it in several windows, instead of being cut."""
    answer_fields: ClassVar[frozenset[str]]
    """The fields of an answer, by which those of different task types are told apart."""
    tensor_types: ClassVar[tuple[TensorType, ...]]
    """What :meth:`tensors` makes."""

    def __init__(self, labels: tuple[str, ...]) -> None:
        self.labels = labels

    # Labels as data.

    @abstractmethod
    def parse_label(self, value: Any, text: str) -> Label:
        """The label of ``text`` that a row of base data gives as ``value``.

        Raises:
            ValueError: says what was expected and what came.
        """

    @abstractmethod
    def names(self, label: Label) -> list[str]:
        """The names of our labels that ``label`` holds, repeated as often as it holds them."""

    # People.

    @abstractmethod
    def labeling_config(self, instructions: str) -> str:
        """The Label Studio labeling configuration (XML) for this task's labels."""

    @abstractmethod
    def annotation_result(self, label: Label, text: str) -> list[dict[str, Any]]:
        """The ``result`` of a Label Studio annotation, or prediction, that says ``label`` of ``text``."""

    @abstractmethod
    def read_annotation(self, result: Sequence[dict[str, Any]], text: str) -> Reading:
        """What an annotation's ``result`` says of ``text``."""

    @abstractmethod
    def consensus(self, answers: Sequence[Label]) -> Consensus:
        """What the answers, in the order they were recorded, come to.

        Raises:
            ValueError: there is no answer.
        """

    # The model.

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the model's outputs, in their order."""
        return self.labels

    def encode(self, tokenizer: Any, texts: Sequence[str], max_length: int) -> list[EncodedText]:
        """Each text as the model reads it: here the first ``max_length`` tokens. Not safe between threads."""
        if not texts:
            return []
        encoded = tokenizer(list(texts), truncation=True, max_length=max_length, return_attention_mask=False)
        return [EncodedText(text, [ids], []) for text, ids in zip(texts, encoded["input_ids"], strict=True)]

    @abstractmethod
    def targets(self, label: Label, encoded: EncodedText) -> list[Any]:
        """What the model should say of each window: the ``labels`` of its training example."""

    @abstractmethod
    def predict(
        self, encoded: EncodedText, probabilities: Sequence[Probabilities], thresholds: Sequence[float]
    ) -> tuple[dict[str, Any], float]:
        """The answer, and the confidence in it in [0, 1], from the calibrated probabilities of each window.

        ``thresholds`` are the probabilities from which on a label holds, in the order of ``labels``; empty where
        the task type has none.
        """

    @abstractmethod
    def answered(self, answer: dict[str, Any]) -> Label:
        """The label that ``answer`` gives."""

    @abstractmethod
    def tensors(self, answers: Sequence[dict[str, Any]]) -> list[Tensor]:
        """The answers as V2 outputs, the first dimension of each but ``labels`` over the texts."""

    # What a prediction is worth.

    @abstractmethod
    def counts(self, truth: Label, predicted: Label) -> Counts:
        """What of ``truth`` was found, what was made up, and what was missed."""

    @abstractmethod
    def claims(self, truth: Label, answer: dict[str, Any]) -> list[Claim]:
        """What a prediction asserts, for calibration."""

    @abstractmethod
    def class_scores(self, truths: Sequence[Label], predicted: Sequence[Label]) -> dict[str, ClassScore]:
        """Precision, recall and F1 of each label."""

    def confusion(self, truths: Sequence[Label], predicted: Sequence[Label]) -> ConfusionMatrix | None:
        """Which label was taken for which, or None where that has no meaning."""
        return None

    def ranking(self, truth: Label, answer: dict[str, Any]) -> list[Claim]:
        """What the ROC curve is drawn over."""
        return self.claims(truth, answer)


def text_view(instructions: str) -> tuple[ElementTree.Element, ElementTree.Element]:
    """The labeling configuration that all task types share, and the view its ``Text`` belongs into."""
    root = ElementTree.Element("View")
    if instructions:
        ElementTree.SubElement(root, "Header", value=instructions.strip(), size="5")
    return root, ElementTree.SubElement(root, "View", style=TEXT_STYLE)


def render_config(root: ElementTree.Element) -> str:
    """The configuration as XML."""
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode")


def choices_config(labels: tuple[str, ...], instructions: str, **attributes: str) -> str:
    """A labeling configuration with one choice a label."""
    root, view = text_view(instructions)
    ElementTree.SubElement(view, "Text", name=OBJECT_NAME, value="$text")
    shared = {"name": CONTROL_NAME, "toName": OBJECT_NAME, "showInline": "true"}
    choices = ElementTree.SubElement(root, "Choices", shared | attributes)
    for number, label in enumerate(labels):
        choice = ElementTree.SubElement(choices, "Choice", value=label, background=COLOURS[number % len(COLOURS)])
        if number < len(HOTKEYS):
            choice.set("hotkey", HOTKEYS[number])
    return render_config(root)


def chosen_labels(result: Sequence[dict[str, Any]]) -> list[str]:
    """The choices that an annotation's ``result`` holds for our control."""
    return [
        choice
        for region in result
        if region.get("from_name") == CONTROL_NAME
        for choice in region.get("value", {}).get("choices", [])
    ]


def choices_result(chosen: list[str]) -> list[dict[str, Any]]:
    """The ``result`` that makes these choices."""
    if not chosen:
        return []
    return [
        {"from_name": CONTROL_NAME, "to_name": OBJECT_NAME, "type": "choices", "value": {"choices": chosen}},
    ]


def label_name(value: Any, labels: tuple[str, ...]) -> str:
    """The label that ``value`` names, or gives as an index into ``labels``.

    Raises:
        ValueError: there is no such label.
    """
    index = str(value)
    if value not in labels and index.isdecimal() and int(index) < len(labels):
        return labels[int(index)]
    if value not in labels:
        raise ValueError(f"expected one of {', '.join(labels)}, got {value!r}")
    return str(value)


def unknown_labels(names: Sequence[str], labels: tuple[str, ...]) -> tuple[str, ...]:
    """A sentence for each name that is not one of ``labels``."""
    return tuple(f"unknown label {name!r}" for name in dict.fromkeys(names) if name not in labels)


def probability_tensors(answers: Sequence[dict[str, Any]]) -> list[Tensor]:
    """``probabilities``, and ``labels`` that names its columns.

    While a new version swaps in, one request may be answered by two, which need not share all labels.
    """
    labels = list(answers[0]["probabilities"])
    rows = [answer["probabilities"].get(label, 0.0) for answer in answers for label in labels]
    return [
        ("probabilities", "FP32", [len(answers), len(labels)], rows),
        ("labels", "BYTES", [len(labels)], labels),
    ]


def indicator_scores(
    labels: tuple[str, ...], truths: NDArray[np.bool_], predicted: NDArray[np.bool_]
) -> dict[str, ClassScore]:
    """Scores of each label from indicator matrices, shape (texts, labels)."""
    from sklearn.metrics import precision_recall_fscore_support

    scores = {}
    for column, label in enumerate(labels):
        true = truths[:, column]
        precision, recall, f1, _ = precision_recall_fscore_support(
            true, predicted[:, column], average="binary", zero_division=0.0
        )
        scores[label] = ClassScore(float(precision), float(recall), float(f1), int(true.sum()))
    return scores
