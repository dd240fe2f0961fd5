"""A toy dataset and a model that has learned it."""

from pathlib import Path

import pytest

from components.finetune.train import finetune_model
from reviewloop.spec import ReviewSpec, TrainingSpec
from tests.components.toy_task import TRAINING, write_toy_dataset
from tests.tiny_model import LABELS


@pytest.fixture(scope="session")
def toy_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy task as the data_merge step would write it."""
    return write_toy_dataset(tmp_path_factory.mktemp("toy-dataset"))


@pytest.fixture(scope="session")
def toy_model(toy_dataset: Path, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows the toy task."""
    model = tmp_path_factory.mktemp("toy-model")
    finetune_model(toy_dataset, str(tiny_encoder), LABELS, TRAINING, ReviewSpec(), model)
    return model


@pytest.fixture(scope="session")
def untaught_model(toy_dataset: Path, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learned next to nothing."""
    model = tmp_path_factory.mktemp("untaught-model")
    training = TrainingSpec(epochs=0.01, batch_size=8, max_length=32)
    finetune_model(toy_dataset, str(tiny_encoder), LABELS, training, ReviewSpec(), model)
    return model
