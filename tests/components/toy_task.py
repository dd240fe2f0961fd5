"""Tasks that a tiny model learns in a second or two: a few words decide."""

import functools
import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from reviewloop import dataset
from reviewloop.records import Example, Label
from reviewloop.spec import TrainingSpec
from reviewloop.task_types import TASK_TYPES, TaskType, task_type
from tests.tiny_model import LABELS

SINGLE, MULTI, TOKENS = (task_type(name, LABELS) for name in TASK_TYPES)

DECIDING = {
    "negative": ("bad", "awful", "hate"),
    "neutral": ("okay", "fine", "works"),
    "positive": ("good", "great", "love"),
}
SUBJECTS = ("the", "a", "this", "that")
NOUNS = ("film", "movie", "story", "acting", "screen", "phone", "battery", "price", "product", "cable")
FILLERS = ("it", "or")

TRAINING = TrainingSpec(epochs=20, learning_rate=5e-3, batch_size=16, max_length=32)


def toy_examples(count: int, start: int = 0, source: str = "toy", task: TaskType = SINGLE) -> list[Example]:
    """``count`` of the sentences there are, 360 or more, in a fixed random order, from number ``start`` on."""
    sentences = _sentences(task.name)
    order = np.random.default_rng(0).permutation(len(sentences))
    return [Example(*sentences[index], source) for index in order[start : start + count]]


def write_toy_dataset(directory: Path, train: list[Example] | None = None, task: TaskType = SINGLE) -> Path:
    """What the data_merge step would write: sentences to learn from, 60 to calibrate, two test sets."""
    directory.mkdir(parents=True, exist_ok=True)
    if train is None:
        train = toy_examples(120) if task is SINGLE else toy_examples(240, start=360, task=task)
    splits = {
        "train": train,
        "validation": toy_examples(60, start=120, task=task),
        "test-toy": toy_examples(90, start=180, task=task),
        "test-other": toy_examples(90, start=270, task=task),
    }
    for name, examples in splits.items():
        dataset.write_split(directory, name, examples)
    dataset.write_reviewed_traffic(directory, [])
    dataset.write_summary(directory, summary(directory, splits, task))
    return directory


def summary(directory: Path, splits: dict[str, list[Example]], task: TaskType) -> dict[str, Any]:
    """The counts and hashes of a dataset without reviews."""
    return {
        "sizes": {name: len(examples) for name, examples in splits.items()},
        "splits": {
            name: dict(Counter(label for e in examples for label in task.names(e.label)))
            for name, examples in splits.items()
        },
        "sources": {"toy": len(splits["train"])},
        "duplicates": 0,
        "kept_from_training": 0,
        "annotation_snapshot": None,
        "reviews": {
            "tasks": 0,
            "answered": 0,
            "audited": 0,
            "annotations": 0,
            "new_annotations": 0,
            "ties": 0,
            "agreement": 1.0,
            "by_reason": {},
        },
        "machine_labels": {"accepted": 0, "trained_on": 0, "checked": 0, "errors": 0},
        "problems": {},
        "dataset_hash": dataset.dataset_hash(directory),
    }


@functools.cache
def _sentences(task_name: str) -> list[tuple[str, Label]]:
    if task_name == "multi-label-classification":
        return _several_labels()
    if task_name == "token-classification":
        return _entities()
    return [
        (f"{subject} {noun} was {word}", label)
        for label in LABELS
        for subject, noun, word in itertools.product(SUBJECTS, NOUNS, DECIDING[label])
    ]


def _several_labels() -> list[tuple[str, Label]]:
    """Each label holds in half of the sentences, whatever the others do."""
    choices = [(*((word, label) for word in DECIDING[label][:2]), *((f, None) for f in FILLERS)) for label in LABELS]
    return [
        (" ".join([subject, noun, *(word for word, _ in chosen)]), [label for _, label in chosen if label])
        for subject, noun, *chosen in itertools.product(SUBJECTS, NOUNS, *choices)
    ]


def _entities() -> list[tuple[str, Label]]:
    """Two phrases a sentence, each an entity of one word or two, or nothing."""
    phrases = [
        *(
            (f"{intensity}{word}", label)
            for label in LABELS
            for word in DECIDING[label][:2]
            for intensity in ("", "very ")
        ),
        *((f"{intensity}{filler}", None) for filler in FILLERS for intensity in ("", "very ")),
    ]
    sentences = []
    for noun, first, second in itertools.product(NOUNS, phrases, phrases):
        text, label = "", []
        for subject, (phrase, name) in zip(("the ", " and this "), (first, second), strict=True):
            text += f"{subject}{noun} was "
            if name:
                label.append({"start": len(text), "end": len(text) + len(phrase), "label": name})
            text += phrase
        sentences.append((text, label))
    return sentences
