"""How a model directory is read, and that batching changes no answer."""

import itertools
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from reviewloop.errors import ModelLoadError
from reviewloop.inference import InferenceSettings, TextModel, length_sorted_batches, write_version
from reviewloop.records import Prediction
from reviewloop.task_types import TASK_TYPES
from tests.tiny_model import ENTITY_WORDS, write_tiny_model

TEXTS = [
    "good",
    "the film was awful .",
    "",
    "this phone is great , and the battery works very well ! " * 3,
    "a story that i never love ?",
    "the the the " * 100,
]


@pytest.fixture(scope="module")
def models(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, TextModel]:
    """A tiny model of each task type, loaded."""
    others = [name for name in TASK_TYPES if name != "text-classification"]
    made = {name: TextModel(write_tiny_model(tmp_path_factory.mktemp(name), task=name)) for name in others}
    return {"text-classification": TextModel(tiny_model), **made}


@pytest.fixture(params=TASK_TYPES)
def model(request: pytest.FixtureRequest, models: dict[str, TextModel]) -> TextModel:
    return models[request.param]


@pytest.fixture
def classifier(models: dict[str, TextModel]) -> TextModel:
    """The one that says one label a text."""
    return models["text-classification"]


def probabilities(predictions: Sequence[Prediction]) -> NDArray[np.float64]:
    return np.array([list(prediction.answer["probabilities"].values()) for prediction in predictions])


def logits(model: TextModel) -> NDArray[np.float32]:
    return np.array([windows[0] for windows in model.logits(model.encode(TEXTS))])


def test_a_window_gets_the_same_probabilities_alone_as_in_a_batch(model: TextModel) -> None:
    windows = [window for text in model.encode(TEXTS) for window in text.windows]
    together = model.forward(windows)
    alone = [model.forward([window])[0] for window in windows]
    for window, one, two in zip(windows, alone, together, strict=True):
        assert one.shape == two.shape
        assert one.shape in {(len(model.task.outputs),), (len(window), len(model.task.outputs))}
        assert np.abs(one - two).max() < 1e-2


def test_a_text_gets_the_same_answer_alone_as_in_a_batch(model: TextModel) -> None:
    forwards, backwards = model.predict(TEXTS), model.predict(TEXTS[::-1])
    alone = [model.predict([text])[0] for text in TEXTS]
    for predictions in (forwards, backwards[::-1]):
        if model.settings.task == "token-classification":
            assert [model.task.answered(p.answer) for p in predictions] == [
                model.task.answered(p.answer) for p in alone
            ]
            assert [p.score for p in predictions] == pytest.approx([p.score for p in alone], abs=1e-2)
        else:
            assert np.abs(probabilities(predictions) - probabilities(alone)).max() < 1e-2


def test_answers_differ_between_texts(classifier: TextModel) -> None:
    assert np.ptp(probabilities(classifier.predict(TEXTS))[:, 0]) > 0.1


def test_probabilities_sum_to_one_where_one_class_holds(model: TextModel) -> None:
    for window in (window for text in model.encode(TEXTS) for window in text.windows):
        values = model.forward([window])[0]
        assert ((values > 0.0) & (values < 1.0)).all()
        sums_to_one = np.allclose(values.sum(axis=-1), 1.0, atol=1e-5)
        assert sums_to_one == (model.task.activation == "softmax")


def test_a_text_that_is_too_long_is_cut_or_read_in_windows(model: TextModel) -> None:
    longest = model.settings.max_length
    long, short, empty = model.encode(["good " * 4 * longest, "good", ""])
    assert [len(window) for window in (*short.windows, *empty.windows)] == [3, 2]
    assert max(map(len, long.windows)) == longest
    assert sum(map(len, long.windows)) >= 4 * longest if model.task.reads_to_end else len(long.windows) == 1


def test_no_text_at_all_is_no_answer_at_all(model: TextModel) -> None:
    assert model.predict([]) == []
    assert model.logits(model.encode([])) == []


def test_a_prediction_says_answer_score_version_and_threshold(classifier: TextModel) -> None:
    (encoded,) = classifier.encode(["good"])
    prediction = classifier.prediction(encoded, [np.array([0.2, 0.7, 0.1], dtype=np.float32)])
    assert (prediction.model_version, prediction.threshold) == ("v0001", 0.9)
    assert prediction.score == pytest.approx(0.7)
    assert prediction.answer["label"] == "neutral"
    assert prediction.answer["probabilities"] == pytest.approx({"negative": 0.2, "neutral": 0.7, "positive": 0.1})


def test_entities_are_found_in_all_windows(models: dict[str, TextModel]) -> None:
    for length in range(0, 300, 7):
        text = f"great {'film ' * length}awful {'film ' * length}okay"
        (prediction,) = models["token-classification"].predict([text])
        found = [(entity["text"], entity["label"]) for entity in prediction.answer["entities"]]
        assert found == [(word, ENTITY_WORDS[word]) for word in ("great", "awful", "okay")]


def test_temperature_changes_how_sure_but_not_of_what(tmp_path: Path) -> None:
    sharp, plain, soft = (
        probabilities(TextModel(write_tiny_model(tmp_path / str(t), temperature=t)).predict(TEXTS))
        for t in (0.5, 1.0, 5.0)
    )
    assert (sharp.argmax(axis=1) == plain.argmax(axis=1)).all()
    assert (soft.argmax(axis=1) == plain.argmax(axis=1)).all()
    assert (sharp.max(axis=1) > plain.max(axis=1)).all()
    assert (soft.max(axis=1) < plain.max(axis=1)).all()


def test_logits_are_what_calibration_divides(tiny_model: Path, tmp_path: Path) -> None:
    calibrated = shutil.copytree(tiny_model, tmp_path / "model")
    replace(InferenceSettings.load(tiny_model), temperature=2.0).save(calibrated)
    classifier = TextModel(calibrated)
    divided = np.exp(logits(classifier) / 2.0)
    softmax = divided / divided.sum(axis=1, keepdims=True)
    assert np.allclose(probabilities(classifier.predict(TEXTS)), softmax, atol=1e-5)
    assert np.allclose(logits(classifier), logits(TextModel(tiny_model)))


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


def overwrite(name: str, content: bytes) -> Callable[[Path], None]:
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
        (overwrite("inference.json", b"{"), "inference.json cannot be read: JSONDecodeError"),
        (change("inference.json", temperature=None), "inference.json cannot be read: KeyError.'temperature'"),
        (change("inference.json", labels=["a", "b"]), "has 3 outputs, but text-classification with the 2"),
        (change("inference.json", task="translation"), "inference.json cannot be read: .*no task type 'translation'"),
        (remove("model.safetensors"), "is not a Hugging Face model directory: Error no file named model.safetensors"),
        (cut("model.safetensors"), "is not a Hugging Face model directory: Error while deserializing header"),
        (remove("config.json"), "is not a Hugging Face model directory: Unrecognized model"),
        (change("config.json", hidden_size=64), "is not a Hugging Face model directory"),
        (remove(*TOKENIZER_FILES), "has no tokenizer: expected a tokenizer.json"),
        (overwrite("version.json", b"[]"), "version.json cannot be read: TypeError"),
    ],
    ids=[
        "no settings",
        "settings cut",
        "no temperature",
        "too few labels",
        "another task type",
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
        TextModel(directory)
    assert str(directory) in str(caught.value)


def test_a_missing_directory_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"nowhere/inference\.json is missing"):
        TextModel(tmp_path / "nowhere")


def test_a_model_without_a_stamp_is_unregistered(tiny_model: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(tiny_model, tmp_path / "model")
    (directory / "version.json").unlink()
    assert TextModel(directory).version == "unregistered"
    write_version(directory, "v0042")
    assert TextModel(directory).version == "v0042"


def test_settings_come_back_as_they_went(tmp_path: Path) -> None:
    settings = InferenceSettings("multi-label-classification", ("a", "ü", '"'), 99, 1.5, 0.75, (0.5, 0.25, 0.125))
    settings.save(tmp_path)
    assert InferenceSettings.load(tmp_path) == settings
