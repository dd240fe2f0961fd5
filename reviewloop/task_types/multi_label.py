"""Multi-label text classification: each text has any number of the labels, also none."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reviewloop.records import Label
from reviewloop.task_types.base import (
    PROBABILITY_TENSORS,
    Claim,
    ClassScore,
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

SEPARATOR = "|"
"""Between the labels of a text where a table has one cell for them."""


class MultiLabelClassification(TaskType):
    """A label is a list of names, in the order of the task's labels.

    Independent sigmoids, and a threshold for each label. Confidence is that of the least certain label: the
    probability that it is present where it is predicted, that it is absent where it is not.
    """

    name = "multi-label-classification"
    metric = "micro F1"
    auto_model = "AutoModelForSequenceClassification"
    problem_type = "multi_label_classification"
    activation = "sigmoid"
    answer_fields = frozenset({"labels", "probabilities"})
    tensor_types = (("predicted", "BOOL", [-1, -1]), *PROBABILITY_TENSORS)

    def parse_label(self, value: Any, text: str) -> Label:
        return self._ordered(label_name(name, self.labels) for name in self._given(value))

    def names(self, label: Label) -> list[str]:
        return list(label)

    def labeling_config(self, instructions: str) -> str:
        return choices_config(self.labels, instructions, choice="multiple")

    def annotation_result(self, label: Label, text: str) -> list[dict[str, Any]]:
        return choices_result(list(label))

    def read_annotation(self, result: Sequence[dict[str, Any]], text: str) -> Reading:
        chosen = chosen_labels(result)
        problems = unknown_labels(chosen, self.labels)
        known = self._ordered(name for name in chosen if name in self.labels)
        # Without the labels that had to be skipped, an empty set would say what nobody said.
        return Reading(None if problems and not known else known, problems)

    def consensus(self, answers: Sequence[Label]) -> Consensus:
        if not answers:
            raise ValueError("consensus needs at least one answer")
        votes = {label: sum(label in answer for answer in answers) for label in self.labels}
        half = len(answers) / 2
        agreed = [label for label, count in votes.items() if count > half or (count == half and label in answers[0])]
        return Consensus(
            label=agreed,
            tied=any(count == half for count in votes.values()),
            agreement=sum(answer == agreed for answer in answers) / len(answers),
        )

    def targets(self, label: Label, encoded: EncodedText) -> list[Any]:
        return [[float(name in label) for name in self.labels]]

    def predict(
        self, encoded: EncodedText, probabilities: Sequence[Probabilities], thresholds: Sequence[float]
    ) -> tuple[dict[str, Any], float]:
        values = dict(zip(self.labels, probabilities[0].tolist(), strict=True))
        predicted = [label for label, limit in zip(self.labels, thresholds, strict=True) if values[label] >= limit]
        return {"labels": predicted, "probabilities": values}, min(_certainties(predicted, values).values())

    def answered(self, answer: dict[str, Any]) -> Label:
        return self._ordered(answer["labels"]) if self.labels else answer["labels"]

    def tensors(self, answers: Sequence[dict[str, Any]]) -> list[Tensor]:
        columns = probability_tensors(answers)
        labels = columns[1][3]
        holds = [label in answer["labels"] for answer in answers for label in labels]
        return [("predicted", "BOOL", [len(answers), len(labels)], holds), *columns]

    def counts(self, truth: Label, predicted: Label) -> Counts:
        found = len(set(truth) & set(predicted))
        return Counts(found, len(predicted) - found, len(truth) - found)

    def claims(self, truth: Label, answer: dict[str, Any]) -> list[Claim]:
        certainties = _certainties(answer["labels"], answer["probabilities"])
        return [
            Claim(certainty, (label in truth) == (label in answer["labels"]))
            for label, certainty in certainties.items()
        ]

    def class_scores(self, truths: Sequence[Label], predicted: Sequence[Label]) -> dict[str, ClassScore]:
        return indicator_scores(self.labels, self._indicators(truths), self._indicators(predicted))

    def ranking(self, truth: Label, answer: dict[str, Any]) -> list[Claim]:
        return [Claim(answer["probabilities"].get(label, 0.0), label in truth) for label in self.labels]

    def _given(self, value: Any) -> list[Any]:
        if isinstance(value, list):
            return value
        if value is None or value == "":
            return []
        if not isinstance(value, str):
            raise ValueError(f"expected a list of labels, got {value!r}")
        if value in self.labels:
            return [value]
        if value.startswith("["):
            try:
                return list(json.loads(value))
            except (json.JSONDecodeError, TypeError):
                raise ValueError(f"expected a JSON list of labels, got {value!r}") from None
        return [name.strip() for name in value.split(SEPARATOR)]

    def _ordered(self, names: Any) -> list[str]:
        held = set(names)
        return [label for label in self.labels if label in held] + sorted(held - set(self.labels))

    def _indicators(self, labels: Sequence[Label]) -> NDArray[np.bool_]:
        return np.array([[name in label for name in self.labels] for label in labels], dtype=bool)


def _certainties(predicted: Sequence[str], probabilities: dict[str, float]) -> dict[str, float]:
    return {label: p if label in predicted else 1.0 - p for label, p in probabilities.items()}
