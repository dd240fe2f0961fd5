"""Toy datasets, and models that have learned them or next to nothing."""

import functools
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from components.finetune.train import finetune_model
from reviewloop.spec import ReviewSpec, TrainingSpec
from reviewloop.task_types import TaskType
from tests.components.toy_task import SINGLE, TRAINING, write_toy_dataset


@dataclass(frozen=True)
class Toy:
    """The toy task of a task type as the data_merge step would write it, and the models it makes."""

    task: TaskType
    dataset: Path
    train: Callable[[TrainingSpec], Path]
    """A model trained like this; trained once."""

    @property
    def model(self) -> Path:
        """A model that knows the toy task."""
        return self.train(TRAINING)

    @property
    def untaught(self) -> Path:
        """A model that has learned next to nothing."""
        return self.train(TrainingSpec(epochs=0.01, batch_size=8, max_length=32))


@pytest.fixture(scope="session")
def toy_encoder(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model that learns fast: all but its words counts for little at first."""
    directory = shutil.copytree(tiny_encoder, tmp_path_factory.mktemp("toy-encoder"), dirs_exist_ok=True)
    model = AutoModel.from_pretrained(directory)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "LayerNorm" not in name and "word_embeddings" not in name:
                weights *= 0.3
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def toy(toy_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[TaskType], Toy]:
    """The toy of a task type."""

    @functools.cache
    def make(task: TaskType) -> Toy:
        data = write_toy_dataset(tmp_path_factory.mktemp("toy-dataset"), task=task)

        @functools.cache
        def train(training: TrainingSpec) -> Path:
            model = tmp_path_factory.mktemp("toy-model")
            finetune_model(data, str(toy_encoder), task, training, ReviewSpec(), model)
            return model

        return Toy(task, data, train)

    return make


@pytest.fixture(scope="session")
def toy_dataset(toy: Callable[[TaskType], Toy]) -> Path:
    """The toy task of text classification."""
    return toy(SINGLE).dataset


@pytest.fixture(scope="session")
def toy_model(toy: Callable[[TaskType], Toy]) -> Path:
    """A model that knows it."""
    return toy(SINGLE).model


@pytest.fixture(scope="session")
def untaught_model(toy: Callable[[TaskType], Toy]) -> Path:
    """A model that has learned next to nothing of it."""
    return toy(SINGLE).untaught
