"""KFP component: fine-tune and calibrate a model."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def finetune(
    dataset: dsl.Input[dsl.Dataset],
    base_model: str,
    task_type: str,
    labels: list,
    epochs: float,
    learning_rate: float,
    batch_size: int,
    max_length: int,
    seed: int,
    review: dict,
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Fine-tune the base model on the training split; calibrate on the validation split."""
    from pathlib import Path

    from components.finetune.parallel import run_on_every_gpu
    from components.finetune.train import finetune_model
    from reviewloop.spec import ReviewSpec, TrainingSpec
    from reviewloop.task_types import TASK_TYPES

    results = run_on_every_gpu(
        finetune_model,
        dataset=Path(dataset.path),
        base_model=base_model,
        task=TASK_TYPES[task_type](tuple(labels)),
        training=TrainingSpec(
            epochs=epochs, learning_rate=learning_rate, batch_size=batch_size, max_length=max_length, seed=seed
        ),
        review=ReviewSpec.model_validate(review),
        output=Path(model.path),
    )
    for name, value in results.items():
        metrics.log_metric(name, value)
