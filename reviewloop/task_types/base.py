"""The interface every task type implements."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Consensus:
    """What several reviewers' answers come to. ``tied`` is true if the vote alone did not decide."""

    label: str
    tied: bool
    agreement: float
    """Share of the answers that equal ``label``, in (0, 1]."""


class TaskType(ABC):
    """How labels of one kind are shown to reviewers, read back, and agreed on."""

    def __init__(self, labels: tuple[str, ...]) -> None:
        self.labels = labels

    @abstractmethod
    def labeling_config(self, instructions: str) -> str:
        """The Label Studio labeling configuration (XML) for this task's labels."""

    @abstractmethod
    def pre_annotation(self, label: str) -> list[dict[str, Any]]:
        """The ``result`` of a Label Studio prediction that proposes ``label``."""

    @abstractmethod
    def annotation_result(self, label: str) -> list[dict[str, Any]]:
        """The ``result`` of a Label Studio annotation that says ``label``."""

    @abstractmethod
    def annotated_label(self, result: Sequence[dict[str, Any]]) -> str | None:
        """The label an annotation's ``result`` says, or None if it is empty or names none of our labels."""

    @abstractmethod
    def consensus(self, answers: Sequence[str]) -> Consensus:
        """What the answers, in the order they were recorded, come to.

        Raises:
            ValueError: there is no answer.
        """
