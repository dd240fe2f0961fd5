"""Fine-tuning in several processes, as on several GPUs: here two on the processor."""

from pathlib import Path

import pytest

from components.finetune.parallel import run_on_every_gpu
from components.finetune.train import finetune_model
from reviewloop.errors import ModelLoadError
from reviewloop.inference import TextModel
from reviewloop.spec import ReviewSpec
from tests.components.toy_task import SINGLE, TRAINING


def test_two_processes_train_one_model_and_the_first_writes_it(
    toy_dataset: Path, tiny_encoder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    figures = run_on_every_gpu(
        finetune_model,
        processes=2,
        dataset=toy_dataset,
        base_model=str(tiny_encoder),
        task=SINGLE,
        training=TRAINING,
        review=ReviewSpec(),
        output=tmp_path / "model",
    )
    assert figures["train_examples"] == 120
    assert figures["validation_accuracy"] > 0.8  # A third by chance.
    model = TextModel(tmp_path / "model")
    assert model.predict(["the film was good"])[0].score > 0
    assert not (tmp_path / "model" / "trainer").exists()
    said = capfd.readouterr().out
    assert "for 20 epochs (2 x cpu" in said
    # 120 examples in steps of 16, eight from each process: as many steps as one process would take.
    assert said.count("step 160/160") == 1


def test_an_error_of_ours_arrives_as_it_was_raised(toy_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="'/no/such/directory' cannot be loaded"):
        run_on_every_gpu(
            finetune_model,
            processes=2,
            dataset=toy_dataset,
            base_model="/no/such/directory",
            task=SINGLE,
            training=TRAINING,
            review=ReviewSpec(),
            output=tmp_path / "model",
        )
