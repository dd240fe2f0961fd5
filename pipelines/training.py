"""The training pipeline: data_merge -> finetune -> evaluate -> register -> deploy."""

from collections.abc import Callable
from typing import Any

from kfp import dsl
from pydantic import BaseModel

from components.data_merge.component import data_merge
from components.deploy.component import deploy
from components.evaluate.component import evaluate
from components.finetune.component import finetune
from components.register.component import register
from reviewloop.spec import LoopSpec

IDLE_THREADS_SLEEP = ("OMP_WAIT_POLICY", "PASSIVE")
"""Torch's threads spin while they wait; on cores they do not have to themselves that is ten times slower."""


def training_pipeline(spec: LoopSpec) -> Callable[..., Any]:
    """The pipeline of one loop; the defaults of its parameters are the loop's spec.

    The same function is compiled for a cluster and run by ``kfp.local``.
    """

    @dsl.pipeline(
        name=f"{spec.name}-training",
        description=f"Retrain {spec.name} on its base data and what reviewers answered; deploy it if it is better.",
    )
    def training(
        registry_uri: str,
        label_studio_url: str = "",
        predictor_url: str = "",
        serving_dir: str = "",
        min_new_annotations: int = spec.retrain.min_new_annotations,
        base_model: str = spec.base_model,
        epochs: float = spec.training.epochs,
        learning_rate: float = spec.training.learning_rate,
        batch_size: int = spec.training.batch_size,
        max_length: int = spec.training.max_length,
        seed: int = spec.training.seed,
        data: dict = _section(spec.data),  # noqa: B008 - read once, when the pipeline is defined
        review: dict = _section(spec.review),  # noqa: B008
        promotion: dict = _section(spec.promotion),  # noqa: B008
        labels: list = list(spec.task.labels),  # noqa: B006
        probes: list = list(spec.probes),  # noqa: B006
    ) -> None:
        """Retrain a text model on its base data and what reviewers answered; deploy it if it is better.

        Args:
            registry_uri: Where versions are kept: file:///path or s3://bucket/prefix.
            label_studio_url: Label Studio's address; empty to train on the base data alone.
            predictor_url: The predictor to deploy to.
            serving_dir: The directory the predictor reads its model from.
            min_new_annotations: Training is skipped while fewer annotations are new since the last version.
            base_model: Hugging Face model directory or Hub name to start from.
            epochs: Passes over the training data.
            learning_rate: Peak learning rate of AdamW.
            batch_size: Texts in one training step.
            max_length: Tokens of a text that are read; the rest is cut.
            seed: Seed of the new head, the order of the data and the bootstrap.
            data: Base data and test sets, as in the data section of loop.yaml.
            review: Review policy, as in the review section of loop.yaml.
            promotion: What a challenger must show, as in the promotion section of loop.yaml.
            labels: Label names in the order of the model's outputs.
            probes: Texts whose answers are recorded at evaluation and compared after the rollout.
        """
        data_merge_task = data_merge(
            data=data,
            task_type=spec.task.type,
            labels=labels,
            label_studio_url=label_studio_url,
            label_studio_project=spec.name,
            registry_uri=registry_uri,
            min_new_annotations=min_new_annotations,
        )
        # Conditions on named outputs are silently false in kfp.local: a component returns the one value it decides.
        data_merge_task.set_caching_options(False)  # Annotations change without any input changing.
        with dsl.If(data_merge_task.outputs["Output"] == True, name="training is due"):  # noqa: E712
            finetune_task = finetune(
                dataset=data_merge_task.outputs["dataset"],
                base_model=base_model,
                task_type=spec.task.type,
                labels=labels,
                epochs=epochs,
                learning_rate=learning_rate,
                batch_size=batch_size,
                max_length=max_length,
                seed=seed,
                review=review,
            )
            finetune_task.set_env_variable(*IDLE_THREADS_SLEEP)
            finetune_task.set_retry(num_retries=2, backoff_duration="5s", backoff_factor=2.0)
            evaluate_task = evaluate(
                dataset=data_merge_task.outputs["dataset"],
                model=finetune_task.outputs["model"],
                loop_name=spec.name,
                registry_uri=registry_uri,
                base_model=base_model,
                task_type=spec.task.type,
                labels=labels,
                promotion=promotion,
                base_test_set=spec.data.name,
                probes=probes,
                seed=seed,
            )
            evaluate_task.set_env_variable(*IDLE_THREADS_SLEEP)
            evaluate_task.set_caching_options(False)  # The champion changes without any input changing.
            register_task = register(
                model=finetune_task.outputs["model"],
                evaluation=evaluate_task.outputs["evaluation"],
                report=evaluate_task.outputs["report"],
                registry_uri=registry_uri,
            )
            register_task.set_caching_options(False)
            with dsl.If(evaluate_task.outputs["Output"] == "promoted", name="the challenger is better"):
                deploy_task = deploy(
                    version=register_task.outputs["Output"],
                    registry_uri=registry_uri,
                    model_name=spec.name,
                    predictor_url=predictor_url,
                    serving_dir=serving_dir,
                )
                deploy_task.set_caching_options(False)

    pipeline: Callable[..., Any] = training
    return pipeline


def _section(section: BaseModel) -> dict[str, Any]:
    # KFP takes no None within a default, and reading the section back gives the same defaults.
    return section.model_dump(mode="json", exclude_none=True)
