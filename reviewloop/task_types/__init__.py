"""Task types: what differs between kinds of labels, behind one interface."""

from reviewloop.task_types.base import Consensus, TaskType
from reviewloop.task_types.text_classification import TextClassification

__all__ = ["Consensus", "TaskType", "TextClassification", "task_type"]

_TASK_TYPES: dict[str, type[TaskType]] = {"text-classification": TextClassification}


def task_type(name: str, labels: tuple[str, ...]) -> TaskType:
    """The task type registered as ``name``, for these labels."""
    return _TASK_TYPES[name](labels)
