"""Which example trains, which calibrates and which tests, decided by content alone."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from reviewloop.records import Example
from reviewloop.text_keys import content_key, near_duplicate_key, uniform_draw


@dataclass(slots=True)
class Splits:
    """Examples by use, and how many were left out for which reason."""

    train: list[Example] = field(default_factory=list)
    validation: list[Example] = field(default_factory=list)
    tests: dict[str, list[Example]] = field(default_factory=dict)
    duplicates: int = 0
    """Base examples whose text, but for case, space and punctuation, came earlier."""
    contradictions: list[str] = field(default_factory=list)
    """Content keys of base texts that came earlier with another label, which counts."""
    kept_from_training: int = 0
    """Base or reviewed examples dropped because their text, likewise, is in a test set."""


def split_examples(
    base: Iterable[Example],
    base_name: str,
    reviewed: Sequence[Example],
    machine: Iterable[Example],
    test_sets: dict[str, list[Example]],
    test_fraction: float,
    validation_fraction: float,
) -> Splits:
    """Split by content hash, so that a text keeps its place however the data around it change.

    All comparisons are by near-duplicate key: no text of any test set, nor a near-duplicate of one, is in
    ``train`` or ``validation``. A reviewed example replaces a base example with the same text. A text known from
    reviews alone trains; should the base data come to hold it too, it may move into the test set, but never out.
    ``machine`` are labels that no person gave: they train where nothing else says what the text is, and neither
    calibrate nor test.
    """
    splits = Splits(tests={name: _distinct(examples) for name, examples in test_sets.items()})
    base = list(base)
    distinct_base = _distinct(base)
    splits.duplicates = len(base) - len(distinct_base)
    labels = {e.text: e.label for e in reversed(base)}
    splits.contradictions = [content_key(e.text) for e in base if e.label != labels[e.text]]
    in_test = {near_duplicate_key(e.text) for examples in splits.tests.values() for e in examples}

    own_test, trainable = [], []
    for example in distinct_base:
        key = near_duplicate_key(example.text)
        if key in in_test:
            splits.kept_from_training += 1
        elif uniform_draw(key, "test") < test_fraction:
            own_test.append(example)
        else:
            trainable.append(example)
    splits.tests[base_name] = own_test
    in_test |= {near_duplicate_key(e.text) for e in own_test}

    distinct_reviewed = _distinct(reviewed)
    usable = [e for e in distinct_reviewed if near_duplicate_key(e.text) not in in_test]
    splits.kept_from_training += len(distinct_reviewed) - len(usable)
    for example in _distinct([*usable, *trainable]):
        calibrates = uniform_draw(near_duplicate_key(example.text), "validation") < validation_fraction
        (splits.validation if calibrates else splits.train).append(example)
    human = {near_duplicate_key(e.text) for e in (*splits.train, *splits.validation)} | in_test
    splits.train += [e for e in _distinct(machine) if near_duplicate_key(e.text) not in human]
    return splits


def _distinct(examples: Iterable[Example]) -> list[Example]:
    first: dict[str, Example] = {}
    for example in examples:
        first.setdefault(near_duplicate_key(example.text), example)
    return list(first.values())
