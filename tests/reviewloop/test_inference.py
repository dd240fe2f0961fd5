"""How a model directory is read, and that batching changes no answer."""

import itertools
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reviewloop.errors import ModelLoadError
from reviewloop.inference import InferenceSettings, TextClassifier, length_sorted_batches, write_version
from tests.tiny_model import LABELS, write_tiny_model

TEXTS = [
    "good",
    "the film was awful .",
    "",
    "this phone is great , and the battery works very well ! " * 3,
    "a story that i never love ?",
    "the the the " * 100,
]


@pytest.fixture(scope="module")
def classifier(tiny_model: Path) -> TextClassifier:
    """The tiny model, loaded."""
    return TextClassifier(tiny_model)


def test_a_text_gets_the_same_answer_alone_as_in_a_batch(classifier: TextClassifier) -> None:
    together = classifier.probabilities(TEXTS)
    alone = np.vstack([classifier.probabilities([text]) for text in TEXTS])
    assert np.abs(together - alone).max() < 1e-2
    one_padded_batch = classifier.forward(classifier.encode(TEXTS))
    assert np.abs(one_padded_batch - alone).max() < 1e-2


def test_answers_differ_between_texts_and_keep_their_order(classifier: TextClassifier) -> None:
    forwards, backwards = classifier.probabilities(TEXTS), classifier.probabilities(TEXTS[::-1])
    assert np.abs(forwards - backwards[::-1]).max() < 1e-2
    assert np.ptp(forwards[:, 0]) > 0.1


def test_probabilities_sum_to_one(classifier: TextClassifier) -> None:
    probabilities = classifier.probabilities(TEXTS)
    assert probabilities.shape == (len(TEXTS), len(LABELS))
    assert np.allclose(probabilities.sum(axis=1), 1.0, atol=1e-5)


def test_texts_are_cut_at_the_longest_length(classifier: TextClassifier) -> None:
    longest = classifier.settings.max_length
    assert [len(ids) for ids in classifier.encode(["good " * longest, "good"])] == [longest, 3]


def test_no_text_at_all_is_no_answer_at_all(classifier: TextClassifier) -> None:
    assert classifier.probabilities([]).shape == (0, len(LABELS))
    assert classifier.logits([]).shape == (0, len(LABELS))


def test_a_prediction_says_label_score_version_and_threshold(classifier: TextClassifier) -> None:
    prediction = classifier.prediction(np.array([0.2, 0.7, 0.1], dtype=np.float32))
    assert (prediction.label, prediction.model_version, prediction.threshold) == ("neutral", "v0001", 0.9)
    assert prediction.score == pytest.approx(0.7)
    assert prediction.probabilities == pytest.approx({"negative": 0.2, "neutral": 0.7, "positive": 0.1})


def test_temperature_changes_how_sure_but_not_of_what(tmp_path: Path) -> None:
    sharp, plain, soft = (
        TextClassifier(write_tiny_model(tmp_path / str(t), temperature=t)).probabilities(TEXTS) for t in (0.5, 1.0, 5.0)
    )
    assert (sharp.argmax(axis=1) == plain.argmax(axis=1)).all()
    assert (soft.argmax(axis=1) == plain.argmax(axis=1)).all()
    assert (sharp.max(axis=1) > plain.max(axis=1)).all()
    assert (soft.max(axis=1) < plain.max(axis=1)).all()


def test_logits_are_what_calibration_divides(tiny_model: Path, tmp_path: Path) -> None:
    calibrated = shutil.copytree(tiny_model, tmp_path / "model")
    InferenceSettings(LABELS, 64, temperature=2.0, threshold=0.9).save(calibrated)
    classifier = TextClassifier(calibrated)
    divided = np.exp(classifier.logits(TEXTS) / 2.0)
    assert np.allclose(classifier.probabilities(TEXTS), divided / divided.sum(axis=1, keepdims=True), atol=1e-5)
    assert np.allclose(classifier.logits(TEXTS), TextClassifier(tiny_model).logits(TEXTS))


@given(st.lists(st.integers(1, 600), max_size=80), st.integers(1, 2000))
def test_batches_cover_every_text_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = list(length_sorted_batches(lengths, budget))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[index] for index in batch) * len(batch) <= budget


@given(st.lists(st.integers(1, 600), min_size=2, max_size=40), st.integers(1, 2000))
def test_a_batch_ends_only_where_the_next_text_would_exceed_the_budget(lengths: list[int], budget: int) -> None:
    batches = list(length_sorted_batches(lengths, budget))
    for batch, following in itertools.pairwise(batches):
        assert lengths[following[0]] * (len(batch) + 1) > budget


def remove(*names: str) -> Callable[[Path], None]:
    """Damage: files are missing."""

    def damage(directory: Path) -> None:
        for name in names:
            (directory / name).unlink()

    return damage


def replace(name: str, content: bytes) -> Callable[[Path], None]:
    """Damage: a file holds something else."""
    return lambda directory: [(directory / name).write_bytes(content), None][1]


def cut(name: str) -> Callable[[Path], None]:
    """Damage: a download that was interrupted."""
    return lambda directory: [(directory / name).write_bytes((directory / name).read_bytes()[:-1000]), None][1]


def change(name: str, **fields: object) -> Callable[[Path], None]:
    """Damage: fields of a JSON file have other values, or are missing if None."""

    def damage(directory: Path) -> None:
        content = json.loads((directory / name).read_text(encoding="utf-8")) | fields
        kept = {key: value for key, value in content.items() if value is not None}
        (directory / name).write_text(json.dumps(kept), encoding="utf-8")

    return damage


TOKENIZER_FILES: Sequence[str] = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (remove("inference.json"), "inference.json is missing: expected a model directory written by the training"),
        (replace("inference.json", b"{"), "inference.json cannot be read: JSONDecodeError"),
        (change("inference.json", temperature=None), "inference.json cannot be read: KeyError.'temperature'"),
        (change("inference.json", labels=["a", "b"]), "has 3 outputs, but inference.json names 2 labels"),
        (remove("model.safetensors"), "is not a Hugging Face model directory: Error no file named model.safetensors"),
        (cut("model.safetensors"), "is not a Hugging Face model directory: Error while deserializing header"),
        (remove("config.json"), "is not a Hugging Face model directory: Unrecognized model"),
        (change("config.json", hidden_size=64), "is not a Hugging Face model directory"),
        (remove(*TOKENIZER_FILES), "has no tokenizer: expected a tokenizer.json"),
        (replace("version.json", b"[]"), "version.json cannot be read: TypeError"),
    ],
    ids=[
        "no settings",
        "settings cut",
        "no temperature",
        "too few labels",
        "no weights",
        "weights cut",
        "no config",
        "another architecture",
        "no tokenizer",
        "another version file",
    ],
)
def test_a_damaged_model_directory_is_a_sentence(
    tiny_model: Path, tmp_path: Path, damage: Callable[[Path], None], sentence: str
) -> None:
    directory = shutil.copytree(tiny_model, tmp_path / "model")
    damage(directory)
    with pytest.raises(ModelLoadError, match=sentence) as caught:
        TextClassifier(directory)
    assert str(directory) in str(caught.value)


def test_a_missing_directory_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"nowhere/inference\.json is missing"):
        TextClassifier(tmp_path / "nowhere")


def test_a_model_without_a_stamp_is_unregistered(tiny_model: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(tiny_model, tmp_path / "model")
    (directory / "version.json").unlink()
    assert TextClassifier(directory).version == "unregistered"
    write_version(directory, "v0042")
    assert TextClassifier(directory).version == "v0042"


def test_settings_come_back_as_they_went(tmp_path: Path) -> None:
    settings = InferenceSettings(("a", "ü", '"'), max_length=99, temperature=1.5, threshold=0.75)
    settings.save(tmp_path)
    assert InferenceSettings.load(tmp_path) == settings
