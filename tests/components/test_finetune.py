"""Fine-tuning for real: a tiny model, a hundred sentences, a second."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from components.finetune.train import finetune_model
from reviewloop import dataset
from reviewloop.errors import DataError, ModelLoadError, SpecError
from reviewloop.inference import InferenceSettings, TextClassifier
from reviewloop.spec import ReviewSpec, TrainingSpec
from tests.components.toy_task import TRAINING, toy_examples
from tests.tiny_model import LABELS

ONE_STEP = TrainingSpec(epochs=0.01, batch_size=8, max_length=32)


def test_a_model_learns_what_it_is_shown(toy_model: Path) -> None:
    unseen = toy_examples(90, start=180)
    classifier = TextClassifier(toy_model)
    predicted = classifier.probabilities([e.text for e in unseen]).argmax(axis=1)
    assert np.mean([LABELS[p] == e.label for p, e in zip(predicted, unseen, strict=True)]) > 0.8
    assert classifier.version == "unregistered"


def test_the_model_says_how_to_read_it(toy_model: Path) -> None:
    settings = InferenceSettings.load(toy_model)
    assert (settings.labels, settings.max_length) == (LABELS, 32)
    assert 0.25 <= settings.temperature <= 10.0
    assert 0.0 < settings.threshold <= 1.0
    labels = TextClassifier(toy_model)._model.config.id2label
    assert labels == dict(enumerate(LABELS))


def test_the_same_seed_gives_the_same_model(toy_dataset: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    logits = []
    for name, seed in (("one", 7), ("same", 7), ("other", 8)):
        training = ONE_STEP.model_copy(update={"seed": seed, "epochs": 1})
        finetune_model(toy_dataset, str(tiny_encoder), LABELS, training, ReviewSpec(), tmp_path / name)
        logits.append(TextClassifier(tmp_path / name).logits(["the film was good"]))
    assert np.allclose(logits[0], logits[1])
    assert not np.allclose(logits[0], logits[2])


def test_a_fixed_threshold_is_kept(toy_dataset: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    review = ReviewSpec(threshold=0.625)
    figures = finetune_model(toy_dataset, str(tiny_encoder), LABELS, ONE_STEP, review, tmp_path / "model")
    assert InferenceSettings.load(tmp_path / "model").threshold == 0.625
    assert figures["review_threshold"] == 0.625


def test_the_target_accuracy_sets_the_threshold(toy_dataset: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    # A model after one step is right too seldom for any threshold: everything is reviewed.
    review = ReviewSpec(target_accuracy=0.999)
    finetune_model(toy_dataset, str(tiny_encoder), LABELS, ONE_STEP, review, tmp_path / "model")
    assert InferenceSettings.load(tmp_path / "model").threshold == 1.0


def test_progress_and_figures_are_reported(toy_dataset: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    training = TRAINING.model_copy(update={"epochs": 2})
    figures = finetune_model(
        toy_dataset, str(tiny_encoder), LABELS, training, ReviewSpec(), tmp_path / "model", lines.append
    )
    assert lines[0].startswith("Fine-tuning on 120 examples for 2 epochs (")
    assert lines[-2].startswith("step 30/30, about 0 s left")
    assert 8 <= len(lines) <= 20
    assert f"validation accuracy {figures['validation_accuracy']:.3f}" in lines[-1]
    assert figures["train_examples"] == 120
    assert figures["train_loss"] > 0
    assert all(isinstance(value, float) for value in figures.values())


def test_a_base_model_made_for_other_labels_gets_a_new_head(
    toy_dataset: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    labels = (*LABELS, "mixed")
    finetune_model(toy_dataset, str(tiny_encoder), labels, ONE_STEP, ReviewSpec(), tmp_path / "model")
    assert TextClassifier(tmp_path / "model").probabilities(["good"]).shape == (1, 4)


@pytest.mark.parametrize("base_model", ["nowhere/at-all", "/no/such/directory"])
def test_a_missing_base_model_says_what_to_point_to(toy_dataset: Path, tmp_path: Path, base_model: str) -> None:
    with pytest.raises(ModelLoadError, match=rf"{base_model}' cannot be loaded: .* Point base_model to a directory"):
        finetune_model(toy_dataset, base_model, LABELS, ONE_STEP, ReviewSpec(), tmp_path / "model")


def test_a_base_model_whose_download_was_cut_is_a_sentence(
    toy_dataset: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    base_model = shutil.copytree(tiny_encoder, tmp_path / "base")
    weights = base_model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ModelLoadError, match=r"base' cannot be loaded: .* Point base_model to"):
        finetune_model(toy_dataset, str(base_model), LABELS, ONE_STEP, ReviewSpec(), tmp_path / "model")


def test_a_base_model_without_a_tokenizer_is_not_trained_on_unknown_words(
    toy_dataset: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    base_model = shutil.copytree(tiny_encoder, tmp_path / "base", ignore=shutil.ignore_patterns("tok*", "vocab*"))
    with pytest.raises(ModelLoadError, match="has no tokenizer"):
        finetune_model(toy_dataset, str(base_model), LABELS, ONE_STEP, ReviewSpec(), tmp_path / "model")


def test_a_longer_text_than_the_base_model_reads_is_refused_before_training(
    toy_dataset: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    training = ONE_STEP.model_copy(update={"max_length": 129})
    with pytest.raises(SpecError, match=r"training\.max_length: expected at most 128, .*, got 129\."):
        finetune_model(toy_dataset, str(tiny_encoder), LABELS, training, ReviewSpec(), tmp_path / "model")


@pytest.mark.parametrize("empty", ["train", "validation"])
def test_an_empty_split_is_a_sentence(toy_dataset: Path, tiny_encoder: Path, tmp_path: Path, empty: str) -> None:
    data = shutil.copytree(toy_dataset, tmp_path / "data")
    dataset.write_split(data, empty, [])
    with pytest.raises(DataError, match="Expected training and validation examples, got"):
        finetune_model(data, str(tiny_encoder), LABELS, ONE_STEP, ReviewSpec(), tmp_path / "model")
