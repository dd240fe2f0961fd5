"""Single-label text classification: each text has exactly one of the labels."""

from collections import Counter
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

from reviewloop.task_types.base import Consensus, TaskType

CONTROL_NAME = "label"
OBJECT_NAME = "text"
TEXT_STYLE = "font-size: 1.3em; line-height: 1.6; padding: 0.8em 0"


class TextClassification(TaskType):
    """One ``Choices`` control with one choice a label; the digits 1 to 9 are its hotkeys."""

    def labeling_config(self, instructions: str) -> str:
        view = ElementTree.Element("View")
        if instructions:
            ElementTree.SubElement(view, "Header", value=instructions.strip(), size="5")
        text = ElementTree.SubElement(view, "View", style=TEXT_STYLE)
        ElementTree.SubElement(text, "Text", name=OBJECT_NAME, value="$text")
        choices = ElementTree.SubElement(
            view,
            "Choices",
            name=CONTROL_NAME,
            toName=OBJECT_NAME,
            choice="single-radio",
            required="true",
            showInline="true",
        )
        for number, label in enumerate(self.labels, start=1):
            choice = ElementTree.SubElement(choices, "Choice", value=label)
            if number <= 9:
                choice.set("hotkey", str(number))
        ElementTree.indent(view)
        return ElementTree.tostring(view, encoding="unicode")

    def pre_annotation(self, label: str) -> list[dict[str, Any]]:
        return self.annotation_result(label)

    def annotation_result(self, label: str) -> list[dict[str, Any]]:
        return [
            {
                "from_name": CONTROL_NAME,
                "to_name": OBJECT_NAME,
                "type": "choices",
                "value": {"choices": [label]},
            }
        ]

    def annotated_label(self, result: Sequence[dict[str, Any]]) -> str | None:
        chosen = [
            choice
            for region in result
            if region.get("from_name") == CONTROL_NAME
            for choice in region.get("value", {}).get("choices", [])
        ]
        return chosen[0] if len(chosen) == 1 and chosen[0] in self.labels else None

    def consensus(self, answers: Sequence[str]) -> Consensus:
        if not answers:
            raise ValueError("consensus needs at least one answer")
        votes = Counter(answers)
        most = max(votes.values())
        leaders = {label for label, count in votes.items() if count == most}
        label = next(answer for answer in answers if answer in leaders)
        return Consensus(label=label, tied=len(leaders) > 1, agreement=most / len(answers))
