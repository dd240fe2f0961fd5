"""A task that a tiny model learns in a second: the last word of a sentence decides."""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np

from reviewloop import dataset
from reviewloop.records import Example
from reviewloop.spec import TrainingSpec
from tests.tiny_model import LABELS

DECIDING = {
    "negative": ("bad", "awful", "hate"),
    "neutral": ("okay", "fine", "works"),
    "positive": ("good", "great", "love"),
}
SUBJECTS = ("the", "a", "this", "that")
NOUNS = ("film", "movie", "story", "acting", "screen", "phone", "battery", "price", "product", "cable")

TRAINING = TrainingSpec(epochs=20, learning_rate=2e-3, batch_size=8, max_length=32)


def toy_examples(count: int, start: int = 0, source: str = "toy") -> list[Example]:
    """``count`` of the 360 sentences there are, in a fixed random order, from number ``start`` on."""
    sentences = [
        Example(f"{subject} {noun} was {word}", label, source)
        for label in LABELS
        for subject, noun, word in itertools.product(SUBJECTS, NOUNS, DECIDING[label])
    ]
    order = np.random.default_rng(0).permutation(len(sentences))
    return [sentences[index] for index in order[start : start + count]]


def write_toy_dataset(directory: Path, train: list[Example] | None = None) -> Path:
    """What the data_merge step would write: 120 sentences to learn from, 60 to calibrate, two test sets."""
    directory.mkdir(parents=True, exist_ok=True)
    splits = {
        "train": toy_examples(120) if train is None else train,
        "validation": toy_examples(60, start=120),
        "test-toy": toy_examples(90, start=180),
        "test-other": toy_examples(90, start=270),
    }
    for name, examples in splits.items():
        dataset.write_split(directory, name, examples)
    dataset.write_reviewed_traffic(directory, [])
    dataset.write_summary(directory, summary(directory, splits))
    return directory


def summary(directory: Path, splits: dict[str, list[Example]]) -> dict[str, object]:
    """The counts and hashes of a dataset without reviews."""
    return {
        "splits": {name: dict(Counter(e.label for e in examples)) for name, examples in splits.items()},
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
        "dataset_hash": dataset.dataset_hash(directory),
    }
