"""Task types: what differs between kinds of labels, behind one interface."""

from reviewloop.task_types.base import Consensus, EncodedText, Reading, TaskType
from reviewloop.task_types.multi_label import MultiLabelClassification
from reviewloop.task_types.text_classification import TextClassification
from reviewloop.task_types.token_classification import TokenClassification

__all__ = ["TASK_TYPES", "Consensus", "EncodedText", "Reading", "TaskType", "task_type"]

TASK_TYPES: dict[str, type[TaskType]] = {
    kind.name: kind for kind in (TextClassification, MultiLabelClassification, TokenClassification)
}
"""Every task type by the name that ``task.type`` in loop.yaml gives it: a new one is registered here."""


def task_type(name: str, labels: tuple[str, ...]) -> TaskType:
    """The task type registered as ``name``, for these labels."""
    return TASK_TYPES[name](labels)
