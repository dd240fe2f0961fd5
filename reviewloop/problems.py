"""What could not be used, counted and with where it was: nothing is left out without a word."""

from dataclasses import dataclass, field
from typing import Any

EMPTY_TEXT = "empty text"

MAX_PLACES = 20
"""Places kept of each kind; the rest are only counted."""


def problem_with_text(text: Any) -> str | None:
    """The kind of problem that makes ``text`` no text to label or learn from; None if there is none."""
    if not isinstance(text, str) or not text.strip():
        return EMPTY_TEXT
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "half a character (a lone surrogate)"
    return None


@dataclass(slots=True)
class _Kind:
    count: int = 0
    where: list[str] = field(default_factory=list)


class Problems:
    """Collects what was left out while reading, so that reading goes on."""

    def __init__(self) -> None:
        self._kinds: dict[str, _Kind] = {}

    def add(self, kind: str, where: str, detail: str = "") -> None:
        """Count one of ``kind`` at ``where`` (a task, an annotation, a row). ``detail`` must hold no text of a task."""
        found = self._kinds.setdefault(kind, _Kind())
        found.count += 1
        if len(found.where) < MAX_PLACES:
            found.where.append(f"{where}: {detail}" if detail else where)

    def summary(self) -> dict[str, dict[str, Any]]:
        """By kind, how often and where: ``{"count": 3, "where": ["task 7", ...]}``."""
        return {kind: {"count": found.count, "where": found.where} for kind, found in self._kinds.items()}
