"""Fine-tuning for real: a tiny model, a hundred sentences, a second."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from components.evaluate.metrics import measure
from components.finetune.train import finetune_model
from reviewloop import dataset
from reviewloop.errors import DataError, ModelLoadError, SpecError
from reviewloop.inference import InferenceSettings, TextModel
from reviewloop.spec import ReviewSpec, TrainingSpec
from reviewloop.task_types import TaskType, task_type
from tests.components.conftest import Toy
from tests.components.toy_task import MULTI, SINGLE, TOKENS, TRAINING, toy_examples
from tests.tiny_model import LABELS

ONE_STEP = TrainingSpec(epochs=0.01, batch_size=8, max_length=32)

each_task = pytest.mark.parametrize("task", [SINGLE, MULTI, TOKENS], ids=lambda task: task.name)


def logits(model: Path, text: str = "the film was good") -> list[np.ndarray]:
    """What a model says of a text, uncalibrated."""
    loaded = TextModel(model)
    return loaded.logits(loaded.encode([text]))[0]


@each_task
def test_a_model_learns_what_it_is_shown(toy: Callable[[TaskType], Toy], task: TaskType) -> None:
    unseen = toy_examples(90, start=180, task=task)
    truths = [e.label for e in unseen]
    taught, untaught = (TextModel(path) for path in (toy(task).model, toy(task).untaught))
    learned, before = (measure(task, truths, m.predict([e.text for e in unseen])) for m in (taught, untaught))
    # By chance: a third where there is one label, two thirds where each of three holds half of the time.
    assert learned.score > 0.85 > before.score
    assert learned.exact > 0.7 > before.exact
    assert all(score.f1 > 0.7 for score in learned.classes.values())
    assert taught.version == "unregistered"


@each_task
def test_the_model_says_how_to_read_it(toy: Callable[[TaskType], Toy], task: TaskType) -> None:
    settings = InferenceSettings.load(toy(task).model)
    assert (settings.task, settings.labels, settings.max_length) == (task.name, LABELS, 32)
    assert 0.25 <= settings.temperature <= 10.0
    assert 0.0 < settings.threshold <= 1.0
    assert len(settings.label_thresholds) == (3 if task is MULTI else 0)
    assert all(0.0 < threshold < 1.0 for threshold in settings.label_thresholds)
    assert TextModel(toy(task).model)._model.config.id2label == dict(enumerate(task.outputs))


@each_task
def test_what_the_threshold_keeps_is_right_as_often_as_asked(toy: Callable[[TaskType], Toy], task: TaskType) -> None:
    model = TextModel(toy(task).model)
    validation = dataset.read_split(toy(task).dataset, "validation")
    predictions = model.predict([e.text for e in validation])
    kept = [
        task.answered(p.answer) == e.label
        for p, e in zip(predictions, validation, strict=True)
        if p.score >= model.settings.threshold
    ]
    assert len(kept) >= 20
    assert np.mean(kept) >= ReviewSpec().target_accuracy


@pytest.mark.parametrize("task", [MULTI, TOKENS], ids=lambda task: task.name)
def test_texts_of_any_length_can_be_learned_and_read(
    toy_dataset: Path, tiny_encoder: Path, tmp_path: Path, task: TaskType
) -> None:
    """Also those that are longer than what the model reads at once."""
    data = shutil.copytree(toy_dataset, tmp_path / "data")
    for split, start in (("train", 0), ("validation", 40)):
        dataset.write_split(data, split, toy_examples(40, start=start, task=task))
    training = ONE_STEP.model_copy(update={"max_length": 8, "epochs": 1})
    figures = finetune_model(data, str(tiny_encoder), task, training, ReviewSpec(), tmp_path / "model")
    assert figures["train_examples"] == 40
    model = TextModel(tmp_path / "model")
    assert {len(encoded.windows) > 1 for encoded in model.encode(["it was good " * 10])} == {task is TOKENS}


def test_the_same_seed_gives_the_same_model(toy_dataset: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    said = []
    for name, seed in (("one", 7), ("same", 7), ("other", 8)):
        training = ONE_STEP.model_copy(update={"seed": seed, "epochs": 1})
        finetune_model(toy_dataset, str(tiny_encoder), SINGLE, training, ReviewSpec(), tmp_path / name)
        said.append(logits(tmp_path / name)[0])
    assert np.allclose(said[0], said[1])
    assert not np.allclose(said[0], said[2])


def test_a_fixed_threshold_is_kept(toy_dataset: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    review = ReviewSpec(threshold=0.625)
    figures = finetune_model(toy_dataset, str(tiny_encoder), SINGLE, ONE_STEP, review, tmp_path / "model")
    assert InferenceSettings.load(tmp_path / "model").threshold == 0.625
    assert figures["review_threshold"] == 0.625


def test_the_target_accuracy_sets_the_threshold(toy_dataset: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    # A model after one step is right too seldom for any threshold: everything is reviewed.
    review = ReviewSpec(target_accuracy=0.999)
    finetune_model(toy_dataset, str(tiny_encoder), SINGLE, ONE_STEP, review, tmp_path / "model")
    assert InferenceSettings.load(tmp_path / "model").threshold == 1.0


def test_progress_and_figures_are_reported(toy_dataset: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    training = TRAINING.model_copy(update={"epochs": 2, "batch_size": 8})
    figures = finetune_model(
        toy_dataset, str(tiny_encoder), SINGLE, training, ReviewSpec(), tmp_path / "model", lines.append
    )
    assert lines[0].startswith("Fine-tuning on 120 examples for 2 epochs (")
    assert lines[-2].startswith("step 30/30, about 0 s left")
    assert 8 <= len(lines) <= 20
    assert f"on validation data {figures['validation_accuracy']:.3f} of the answers are right" in lines[-1]
    assert figures["train_examples"] == 120
    assert figures["train_loss"] > 0
    assert all(isinstance(value, float) for value in figures.values())


def test_a_base_model_made_for_other_labels_gets_a_new_head(
    toy_dataset: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    task = task_type("text-classification", (*LABELS, "mixed"))
    finetune_model(toy_dataset, str(tiny_encoder), task, ONE_STEP, ReviewSpec(), tmp_path / "model")
    assert [row.shape for row in logits(tmp_path / "model")] == [(4,)]


@pytest.mark.parametrize("base_model", ["nowhere/at-all", "/no/such/directory"])
def test_a_missing_base_model_says_what_to_point_to(toy_dataset: Path, tmp_path: Path, base_model: str) -> None:
    with pytest.raises(ModelLoadError, match=rf"{base_model}' cannot be loaded: .* Point base_model to a directory"):
        finetune_model(toy_dataset, base_model, SINGLE, ONE_STEP, ReviewSpec(), tmp_path / "model")


def test_a_base_model_whose_download_was_cut_is_a_sentence(
    toy_dataset: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    base_model = shutil.copytree(tiny_encoder, tmp_path / "base")
    weights = base_model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ModelLoadError, match=r"base' cannot be loaded: .* Point base_model to"):
        finetune_model(toy_dataset, str(base_model), SINGLE, ONE_STEP, ReviewSpec(), tmp_path / "model")


def test_a_base_model_without_a_tokenizer_is_not_trained_on_unknown_words(
    toy_dataset: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    base_model = shutil.copytree(tiny_encoder, tmp_path / "base", ignore=shutil.ignore_patterns("tok*", "vocab*"))
    with pytest.raises(ModelLoadError, match="has no tokenizer"):
        finetune_model(toy_dataset, str(base_model), SINGLE, ONE_STEP, ReviewSpec(), tmp_path / "model")


def test_a_longer_text_than_the_base_model_reads_is_refused_before_training(
    toy_dataset: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    training = ONE_STEP.model_copy(update={"max_length": 129})
    with pytest.raises(SpecError, match=r"training\.max_length: expected at most 128, .*, got 129\."):
        finetune_model(toy_dataset, str(tiny_encoder), SINGLE, training, ReviewSpec(), tmp_path / "model")


@pytest.mark.parametrize("empty", ["train", "validation"])
def test_an_empty_split_is_a_sentence(toy_dataset: Path, tiny_encoder: Path, tmp_path: Path, empty: str) -> None:
    data = shutil.copytree(toy_dataset, tmp_path / "data")
    dataset.write_split(data, empty, [])
    with pytest.raises(DataError, match="Expected training and validation examples, got"):
        finetune_model(data, str(tiny_encoder), SINGLE, ONE_STEP, ReviewSpec(), tmp_path / "model")
