"""The dataset that travels between pipeline steps: a directory of JSON Lines splits and a summary.

train.jsonl  validation.jsonl  test-NAME.jsonl   examples: {"text", "label", "source"}
reviewed.jsonl                                   reviewed traffic: see ReviewedTraffic
dataset.json                                     counts and hashes
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reviewloop.records import Example, Label, ReviewReason

TEST_PREFIX = "test-"


@dataclass(frozen=True, slots=True)
class ReviewedTraffic:
    """What the serving model said of a text that people then labelled: the evidence on live accuracy."""

    label: Label
    """What the reviewers agreed on."""
    predicted: Label
    reason: ReviewReason
    weight: float
    """How many texts of the traffic this one stands for: 1 / (propensity x share of such tasks answered)."""
    model_version: str


def write_split(directory: Path, name: str, examples: Iterable[Example]) -> None:
    """Write one split."""
    _write(directory / f"{name}.jsonl", map(asdict, examples))


def read_split(directory: Path, name: str) -> list[Example]:
    """Read one split."""
    return [Example(**row) for row in _read(directory / f"{name}.jsonl")]


def write_reviewed_traffic(directory: Path, rows: Iterable[ReviewedTraffic]) -> None:
    """Write the evidence on live accuracy."""
    _write(directory / "reviewed.jsonl", map(asdict, rows))


def read_reviewed_traffic(directory: Path) -> list[ReviewedTraffic]:
    """Read the evidence on live accuracy."""
    return [ReviewedTraffic(**row) for row in _read(directory / "reviewed.jsonl")]


def test_set_names(directory: Path) -> list[str]:
    """The test sets of a dataset, in alphabetical order."""
    return sorted(p.stem.removeprefix(TEST_PREFIX) for p in directory.glob(f"{TEST_PREFIX}*.jsonl"))


def read_test_set(directory: Path, name: str) -> list[Example]:
    """Read one test set."""
    return read_split(directory, TEST_PREFIX + name)


def write_summary(directory: Path, summary: dict[str, Any]) -> None:
    """Write the counts and hashes that the manifest and the report show."""
    (directory / "dataset.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def read_summary(directory: Path) -> dict[str, Any]:
    """Read the counts and hashes."""
    content: dict[str, Any] = json.loads((directory / "dataset.json").read_text(encoding="utf-8"))
    return content


def dataset_hash(directory: Path) -> str:
    """SHA-256 over the names and contents of all splits: equal if and only if the data are."""
    digest = hashlib.sha256()
    for path in sorted(directory.glob("*.jsonl")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _read(path: Path) -> Sequence[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
