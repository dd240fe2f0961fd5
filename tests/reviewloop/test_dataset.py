"""The dataset directory between the pipeline's steps."""

import os
import time
from pathlib import Path

import pytest

from reviewloop import dataset
from reviewloop.dataset import ReviewedTraffic
from reviewloop.records import Example

EXAMPLES = [
    Example("plain", "good", "base"),
    Example('quotes " and \\ and\nlines\r\u2028 of text', "bad", "reviews"),
    Example("grüße 🎉 नमस्ते \x00", "good", "base"),
]
OTHER_EXAMPLES = [
    Example("several labels", ["bad", "good"], "base"),
    Example("no label", [], "base"),
    Example("entities 🎉", [{"start": 9, "end": 10, "label": "good"}], "reviews"),
]
TRAFFIC = [
    ReviewedTraffic(label="good", predicted="bad", reason="audit", weight=33.3, model_version="v0002"),
    ReviewedTraffic(label=["good"], predicted=[], reason="low_confidence", weight=1.0, model_version="v0002"),
]


def test_splits_and_traffic_come_back_as_they_went(tmp_path: Path) -> None:
    dataset.write_split(tmp_path, "train", EXAMPLES)
    dataset.write_reviewed_traffic(tmp_path, TRAFFIC)
    dataset.write_summary(tmp_path, {"splits": {"train": {"good": 2}}})
    dataset.write_split(tmp_path, "validation", OTHER_EXAMPLES)
    assert dataset.read_split(tmp_path, "train") == EXAMPLES
    assert dataset.read_split(tmp_path, "validation") == OTHER_EXAMPLES
    assert dataset.read_reviewed_traffic(tmp_path) == TRAFFIC
    assert dataset.read_summary(tmp_path) == {"splits": {"train": {"good": 2}}}


def test_test_sets_are_found_by_name_and_nothing_else_is_one(tmp_path: Path) -> None:
    for name in ("train", "validation", "test-movies", "test-amazon"):
        dataset.write_split(tmp_path, name, EXAMPLES[:1])
    assert dataset.test_set_names(tmp_path) == ["amazon", "movies"]
    assert dataset.read_test_set(tmp_path, "amazon") == EXAMPLES[:1]


def test_the_hash_is_of_the_data_alone(tmp_path: Path) -> None:
    hashes = []
    for name in ("one", "other"):
        directory = tmp_path / name
        directory.mkdir()
        dataset.write_split(directory, "train", EXAMPLES)
        dataset.write_split(directory, "test-base", EXAMPLES[:1])
        dataset.write_summary(directory, {"written by": name})
        os.utime(directory / "train.jsonl", (time.time(), 0))
        hashes.append(dataset.dataset_hash(directory))
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize(
    ("split", "examples"),
    [
        ("train", EXAMPLES[::-1]),
        ("train", [Example("plain", "bad", "base"), *EXAMPLES[1:]]),
        ("train", EXAMPLES[:2]),
        ("validation", []),
    ],
    ids=["order", "a label", "one fewer", "an empty split"],
)
def test_any_change_of_the_data_changes_the_hash(tmp_path: Path, split: str, examples: list[Example]) -> None:
    dataset.write_split(tmp_path, "train", EXAMPLES)
    before = dataset.dataset_hash(tmp_path)
    dataset.write_split(tmp_path, split, examples)
    assert dataset.dataset_hash(tmp_path) != before


def test_the_hash_of_known_data_never_changes(tmp_path: Path) -> None:
    dataset.write_split(tmp_path, "train", EXAMPLES)
    assert dataset.dataset_hash(tmp_path) == "deb99623d320370992402d7d592481f684f82c458958a679d6d53731472324cc"
