"""Single-label text classification: each text has exactly one of the labels."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from reviewloop.records import Label
from reviewloop.task_types.base import (
    PROBABILITY_TENSORS,
    Claim,
    ClassScore,
    ConfusionMatrix,
    Consensus,
    Counts,
    EncodedText,
    Probabilities,
    Reading,
    TaskType,
    Tensor,
    choices_config,
    choices_result,
    chosen_labels,
    indicator_scores,
    label_name,
    probability_tensors,
    unknown_labels,
)


class TextClassification(TaskType):
    """A label is a name. One ``Choices`` control with one choice a label; the digits 1 to 9 are its hotkeys.

    Confidence is the probability of the predicted label (least confidence: Lewis & Gale, SIGIR 1994).
    """

    name = "text-classification"
    metric = "accuracy"
    auto_model = "AutoModelForSequenceClassification"
    problem_type = "single_label_classification"
    answer_fields = frozenset({"label", "probabilities"})
    tensor_types = (("label", "BYTES", [-1]), *PROBABILITY_TENSORS)

    def parse_label(self, value: Any, text: str) -> Label:
        return label_name(value, self.labels)

    def names(self, label: Label) -> list[str]:
        return [label]

    def labeling_config(self, instructions: str) -> str:
        return choices_config(self.labels, instructions, choice="single-radio", required="true")

    def annotation_result(self, label: Label, text: str) -> list[dict[str, Any]]:
        return choices_result([label])

    def read_annotation(self, result: Sequence[dict[str, Any]], text: str) -> Reading:
        chosen = chosen_labels(result)
        if problems := unknown_labels(chosen, self.labels):
            return Reading(None, problems)
        if len(chosen) > 1:
            return Reading(None, (f"{len(chosen)} labels where one is allowed",))
        return Reading(chosen[0] if chosen else None)

    def consensus(self, answers: Sequence[Label]) -> Consensus:
        if not answers:
            raise ValueError("consensus needs at least one answer")
        votes = Counter(answers)
        most = max(votes.values())
        leaders = {label for label, count in votes.items() if count == most}
        label = next(answer for answer in answers if answer in leaders)
        return Consensus(label=label, tied=len(leaders) > 1, agreement=most / len(answers))

    def targets(self, label: Label, encoded: EncodedText) -> list[Any]:
        return [self.labels.index(label)]

    def predict(
        self, encoded: EncodedText, probabilities: Sequence[Probabilities], thresholds: Sequence[float]
    ) -> tuple[dict[str, Any], float]:
        values = probabilities[0].tolist()
        score = max(values)
        answer = {
            "label": self.labels[values.index(score)],
            "probabilities": dict(zip(self.labels, values, strict=True)),
        }
        return answer, score

    def answered(self, answer: dict[str, Any]) -> Label:
        return answer["label"]

    def tensors(self, answers: Sequence[dict[str, Any]]) -> list[Tensor]:
        names = [answer["label"] for answer in answers]
        return [("label", "BYTES", [len(answers)], names), *probability_tensors(answers)]

    def counts(self, truth: Label, predicted: Label) -> Counts:
        return Counts(1, 0, 0) if truth == predicted else Counts(0, 1, 1)

    def claims(self, truth: Label, answer: dict[str, Any]) -> list[Claim]:
        return [Claim(max(answer["probabilities"].values()), answer["label"] == truth)]

    def class_scores(self, truths: Sequence[Label], predicted: Sequence[Label]) -> dict[str, ClassScore]:
        known = np.array(self.labels)
        return indicator_scores(self.labels, np.array(truths)[:, None] == known, np.array(predicted)[:, None] == known)

    def confusion(self, truths: Sequence[Label], predicted: Sequence[Label]) -> ConfusionMatrix | None:
        from sklearn.metrics import confusion_matrix

        # A champion may know labels that the loop no longer has.
        names = [*self.labels, *sorted(set(predicted) - set(self.labels))]
        return ConfusionMatrix(names, confusion_matrix(truths, predicted, labels=names).tolist())

    def ranking(self, truth: Label, answer: dict[str, Any]) -> list[Claim]:
        return [Claim(answer["probabilities"].get(label, 0.0), label == truth) for label in self.labels]
